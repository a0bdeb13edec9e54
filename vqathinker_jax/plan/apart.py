"""Runs the worker: one process for each phase, so that a crash is a result as well."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from vqathinker_jax.plan.job import FAILED, Job, PhaseResult
from vqathinker_jax.plan.topologies import environment_for, parse_topology

WORKER = "vqathinker_jax.plan.worker"


def compile_apart(job: Job) -> PhaseResult:
    """Compiles a job in a process of its own and waits for it."""
    with tempfile.TemporaryDirectory(prefix="vqathinker-plan-") as folder:
        result = Path(folder) / "result.json"
        process = subprocess.run(
            [sys.executable, "-m", WORKER, str(job.write(Path(folder))), str(result)],
            env=environment_for(parse_topology(job.topology)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode == 0 and result.exists():
            return PhaseResult.from_json(json.loads(result.read_text(encoding="utf-8")))
    reason = crash_reason(process.returncode, process.stderr)
    return PhaseResult(phase=job.phase, status=FAILED, reason=reason)


def crash_reason(returncode: int, stderr: str) -> str:
    """Why a worker ended, on one line: its exit code and the line of its words that says most."""
    code = f"exit code {returncode}"
    if returncode < 0:
        code = f"{signal.Signals(-returncode).name}, exit code {128 - returncode}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "Check failed" in line or "Error:" in line]
    said = (telling or lines or ["without a word"])[-1 if not telling else 0]
    return f"the compiler's process ended ({code}): {said}"
