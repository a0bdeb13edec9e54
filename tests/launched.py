"""Processes of the command line that work together on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 900
"""For anything to happen: far more than it takes, as machines that run tests are busy."""


def environment(num_devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process with so many devices, which finds this package."""
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "PYTHONPATH": str(ROOT),
        **more,
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def script(folder: Path, name: str, text: str) -> None:
    """A program for a PATH that begins with `folder`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}")
    path.chmod(0o755)


class Launched:
    """Several processes; what each of them says on stderr."""

    def __init__(self, processes: Sequence[subprocess.Popen], logs: Sequence[Path]):
        self.processes = processes
        self._logs = logs

    def said(self) -> list[str]:
        return [log.read_text() for log in self._logs]

    def wait(self) -> list[int]:
        """Their exit codes, once all have ended."""
        return [process.wait(LONGEST_S) for process in self.processes]

    def wait_until(self, happens: Callable[[], bool]) -> None:
        """Returns once something has happened; raises where a process ends before."""
        deadline = time.monotonic() + LONGEST_S
        while not happens():
            assert time.monotonic() < deadline, self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.05)


@contextlib.contextmanager
def launch(
    commands: Sequence[Sequence[str]],
    logs: Path,
    envs: Sequence[dict[str, str]],
    folders: Sequence[Path] | None = None,
) -> Iterator[Launched]:
    """Starts commands, and kills on leaving what still runs.

    Args:
      commands: one for each process.
      logs: folder for their stderr.
      envs: their environments.
      folders: where they run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    paths = [logs / f"{index}.log" for index in range(len(commands))]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, (command, env) in enumerate(zip(commands, envs, strict=True)):
            process = subprocess.Popen(
                command,
                env=env,
                cwd=None if folders is None else folders[index],
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(open(paths[index], "w")),
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield Launched(processes, paths)


def train_commands(line: Sequence[str], count: int) -> list[list[str]]:
    """`vqathinker train ...` for each of so many processes, which find each other by options."""
    place = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}"]
    return [
        [sys.executable, "-m", "vqathinker_jax.cli", "train", *line, *place,
         "--processes", str(count), "--process", str(index)]
        for index in range(count)
    ]  # fmt: skip
