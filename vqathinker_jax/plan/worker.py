"""Compiles one phase in a process of its own, which a crash of the compiler takes down alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
import time
from pathlib import Path

from vqathinker_jax.plan.job import FAILED, FITS, Job, PhaseResult, judged
from vqathinker_jax.plan.topologies import (
    Topology,
    compiler_options,
    described_devices,
    parse_topology,
)

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
REFUSAL = re.compile(
    r"(?:CompileTimeHbmOom|Ran out of memory on HBM).*?"
    r"\(([\d.]+)([KMGT]?)\).*?\(([\d.]+)([KMGT]?)\)",
    re.DOTALL,
)
"""How the TPU compiler, of libtpu 0.0.51 and of 0.0.42, says that a program needs X bytes of the Y
that there are."""


def parse_refusal(message: str) -> tuple[int, int] | None:
    """Bytes needed and bytes there are, out of the TPU compiler's words; None for other words."""
    found = REFUSAL.search(message)
    if found is None:
        return None
    needed, unit, available, other_unit = found.groups()
    return int(float(needed) * UNITS[unit]), int(float(available) * UNITS[other_unit])


def compile_phase(job: Job) -> PhaseResult:
    """Compiles; a refusal of the compiler is a result, too.

    Raises:
      Whatever tracing and compiling raise for other reasons.
    """
    import jax

    from vqathinker_jax.parallel import make_mesh
    from vqathinker_jax.plan.abstract_run import abstract_run
    from vqathinker_jax.plan.flops import count_flops
    from vqathinker_jax.plan.programs import make_program, mesh_of

    topology, mesh_cfg = parse_topology(job.topology), job.config.mesh
    devices = described_devices(topology)
    mesh = make_mesh(mesh_cfg.data, mesh_cfg.fsdp, mesh_cfg.tensor, devices)
    precise = job.config.model.dtype == "float32"
    precision = jax.default_matmul_precision("highest") if precise else contextlib.nullcontext()
    run = abstract_run(job, mesh)
    with precision, jax.set_mesh(mesh_of(run, job.phase)):
        program = make_program(run, job.phase)
        traced = program.trace()
        result = PhaseResult(
            phase=job.phase,
            status=FITS,
            attention=run.attention,
            resident=program.resident,
            chip_bytes=topology.chip.memory_bytes,
            flops=program.repeats
            * count_flops(traced.jaxpr.jaxpr, program.loop_trips)
            / topology.num_chips,
        )
        began = time.perf_counter()
        try:
            compiled = traced.lower().compile(compiler_options(topology))
        except jax.errors.JaxRuntimeError as error:
            refusal = parse_refusal(str(error))
            if refusal is None:
                raise
            seconds = round(time.perf_counter() - began, 1)
            result = dataclasses.replace(
                result,
                required_bytes=refusal[0],
                chip_bytes=refusal[1],
                compile_seconds=seconds,
            )
            return judged(result)
    seconds = round(time.perf_counter() - began, 1)
    result = dataclasses.replace(result, compile_seconds=seconds)
    return judged(_with_compiled(result, compiled, program, topology))


def _with_compiled(result: PhaseResult, compiled, program, topology: Topology) -> PhaseResult:
    from vqathinker_jax.plan.traffic import received_bytes

    memory = compiled.memory_analysis()
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    if program.streamed_bytes is not None:
        moved += program.streamed_bytes * program.loop_trips
    sent = None
    text = _program_text(compiled)
    if text is not None:
        sent = received_bytes(text, program.loop_trips)
    return dataclasses.replace(
        result,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=output,
        temp_bytes=memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        moved_bytes=program.repeats * moved,
        sent_bytes=None if sent is None else program.repeats * sent,
    )


def _program_text(compiled) -> str | None:
    """The compiled program as text; libtpu 0.0.51 cannot print those of v5p and v6e."""
    import jax

    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return None


def main(job_path: str, result_path: str) -> None:
    """Compiles the job in a file and writes the result to another."""
    job = Job.read(Path(job_path))
    try:
        result = compile_phase(job)
    except Exception as error:  # a compiler raises anything; the words are for the user
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0] if lines else "no reason given"
        reason = f"{type(error).__name__}: {said}"
        result = PhaseResult(phase=job.phase, status=FAILED, reason=reason)
    Path(result_path).write_text(json.dumps(result.to_json()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
