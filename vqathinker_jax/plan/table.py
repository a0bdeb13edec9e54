"""A plan as a person reads it, in at most 100 columns."""

from __future__ import annotations

import textwrap

from vqathinker_jax.plan.chips import GIB
from vqathinker_jax.plan.job import FAILED, PhaseResult
from vqathinker_jax.plan.run import Plan

WIDTH = 100
HEADS = (
    "phase",
    "arguments",
    "temporary",
    "others",
    "total",
    "share",
    "TFLOP",
    "received",
    "bound",
)
UNITS = ("", "GiB", "GiB", "GiB", "GiB", "", "", "GB", "s")
LEGEND = """\
Per chip. arguments: what the phase reads; temporary: its own needs, code and results; others: what
lies in memory meanwhile; received: from other chips (- where the compiler does not show it);
bound: seconds at peak rates, a lower bound and no prediction. What a driver and connections between
chips take of the memory is not counted."""
ALLOCATED_SHARE = 0.75
"""Of a graphics card's memory that jax takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says more."""


def plan_text(plan: Plan) -> str:
    """The table of one topology with its verdict."""
    rows = [HEADS, UNITS, *(_row(plan, result) for result in plan.results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = [*_heading(plan), ""]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    lines.append("")
    for line in _verdict(plan):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _heading(plan: Plan) -> list[str]:
    config, chip = plan.config, plan.topology.chip
    mesh, run = config.mesh, config.run
    memory = "" if chip.memory_bytes is None else f" of {chip.memory_bytes / GIB:.2f} GiB"
    samples = ""
    if run.mode == "grpo":
        samples = f" x {config.rollout.num_generations} responses"
    trains = "LoRA" if config.model.lora is not None else "all of the decoder"
    kernels = sorted({result.attention for result in plan.results if result.attention})
    rollouts = f", rollouts tensor {mesh.rollout_degree}" if run.mode == "grpo" else ""
    lines = [
        f"{plan.topology.name}: {plan.topology.num_chips} x {chip.name}{memory}, mesh data "
        f"{mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor}{rollouts}",
        f"model: {plan.subject.said}; trains {trains}, remat {config.model.remat}",
        f"{run.mode.upper()}: {run.videos_per_step} videos{samples}, micro-batch "
        f"{run.micro_batch}, prompt {plan.subject.prompt_length} "
        f"({plan.subject.prompt_said}), completion {plan.completion}",
        f"attention (tower decoder): {'; '.join(kernels) or '-'}",
        plan.note,
    ]
    return [wrapped for line in lines if line for wrapped in textwrap.wrap(line, WIDTH)]


def _row(plan: Plan, result: PhaseResult) -> tuple[str, ...]:
    if result.status == FAILED:
        return (result.phase, *["-"] * (len(HEADS) - 1))
    temporary = result.temp_bytes + result.output_bytes
    arguments = f"{result.argument_bytes / GIB:.2f}"
    if result.required_bytes is not None:
        arguments, temporary = "", result.required_bytes
    share = "-"
    if result.chip_bytes is not None:
        share = f"{result.total_bytes / result.chip_bytes:.0%}"
    seconds = plan.seconds(result)
    return (
        result.phase,
        arguments,
        f"{temporary / GIB:.2f}",
        f"{result.resident_bytes / GIB:.2f}",
        f"{result.total_bytes / GIB:.2f}",
        share,
        f"{result.flops / 1e12:.1f}",
        "-" if result.sent_bytes is None else f"{result.sent_bytes / 1e9:.1f}",
        "-" if seconds is None else f"{seconds:.2f}",
    )


def _verdict(plan: Plan) -> list[str]:
    failed: dict[str, list[str]] = {}
    for result in plan.results:
        if result.status == FAILED:
            failed.setdefault(result.reason, []).append(result.phase)
    if failed:
        return [
            f"{', '.join(phases)} could not be compiled: {reason}"
            for reason, phases in failed.items()
        ]
    fullest = max(plan.results, key=lambda result: result.total_bytes)
    used = f"{fullest.total_bytes / GIB:.1f}"
    if fullest.chip_bytes is None:
        return [f"compiles; the fullest phase, {fullest.phase}, takes {used} GiB per device"]
    word = "fits" if plan.fits else "does not fit"
    share = fullest.total_bytes / fullest.chip_bytes
    lines = [
        f"{word}: the fullest phase, {fullest.phase}, takes {used} of "
        f"{fullest.chip_bytes / GIB:.1f} GiB ({share:.0%})"
    ]
    if plan.step_seconds is not None:
        lines.append(f"these phases take at least {plan.step_seconds:.1f} s a step")
    if plan.fits and plan.topology.chip.platform == "cuda" and share > ALLOCATED_SHARE:
        lines.append(
            f"jax takes {ALLOCATED_SHARE:.0%} of a card unless told otherwise: set "
            f"XLA_PYTHON_CLIENT_MEM_FRACTION={min(share + 0.03, 0.98):.2f}"
        )
    for suggestion in plan.suggestions:
        effect = "fits" if suggestion.fits else "helps, and does not suffice"
        lines.append(
            f"with {suggestion.options}: {effect} ({suggestion.total_bytes / GIB:.1f} GiB)"
        )
    return lines
