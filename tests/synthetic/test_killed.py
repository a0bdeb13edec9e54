"""A run of `synth` that is killed leaves no process behind, and is finished by the same line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINE = [sys.executable, "-m", "vqathinker_jax.cli", "synth"]


def children_of(process: subprocess.Popen) -> list[Path]:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [
        Path("/proc") / pid for task in tasks for pid in (task / "children").read_text().split()
    ]


def is_running(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_workers_end_with_the_run_and_the_same_line_finishes_it(tmp_path):
    out = tmp_path / "clips"
    line = [*LINE, str(out), "--clips", "16", "--workers", "2"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / ".clips.jsonl"
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 3, 240)
    children = children_of(process)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_running, children)), 20)
    there = journal.read_text().count("\n")
    assert there < 16
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"{16 - there} clips written, {there} kept" in done.stdout + done.stderr
    assert json.loads((out / "manifest.json").read_text())["is_complete"]
