"""What a run writes down: JSON lines in its folder, a line on the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vqathinker_jax.rl.scalars import ScalarWriter

SECONDS_BETWEEN_LINES = 15.0
"""Off a terminal, progress is a plain line this often."""


class JsonLines:
    """A file of one JSON object a line, each with its `step`.

    Args:
      path: appended to; what another attempt wrote after `last_step` is removed first.
      last_step: the step that the run goes on from.
      is_writer: False on all processes but one: nothing is written.
    """

    def __init__(self, path: Path, last_step: int, is_writer: bool = True):
        self._file = None
        if is_writer:
            keep_until(path, last_step)
            self._file = open(path, "a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; a value that is no finite number becomes null."""
        if self._file is not None:
            self._file.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def keep_until(path: Path, last_step: int) -> None:
    """Drops the rows after `last_step`, and half a row at the end, from a log."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            is_kept = json.loads(line)["step"] <= last_step
        except (ValueError, KeyError, TypeError):
            continue
        if is_kept:
            kept.append(line + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLogs:
    """All that a run writes down while it goes on.

    Args:
      folder: of the run.
      last_step: the step that it goes on from.
      is_writer: False on all processes but one: nothing is written.
      has_tensorboard: whether scalars go to RUN/tensorboard too.

    Raises:
      TrainingError: TensorBoard's extra is not installed.
    """

    def __init__(self, folder: Path, last_step: int, is_writer: bool, has_tensorboard: bool):
        self._scalars = None
        if has_tensorboard and is_writer:
            self._scalars = ScalarWriter(folder / "tensorboard", last_step)
        # Of an attempt that left no checkpoint nothing is left.
        self.attempts = JsonLines(folder / "attempts.jsonl", last_step - 1, is_writer)
        self.metrics = JsonLines(folder / "metrics.jsonl", last_step, is_writer)
        self.rollouts = JsonLines(folder / "rollouts.jsonl", last_step, is_writer)
        self.validations = JsonLines(folder / "validation.jsonl", last_step, is_writer)

    def write_step(self, row: Mapping[str, Any]) -> None:
        """What was measured in a step."""
        self.metrics.write(row)
        if self._scalars is not None:
            self._scalars.write(row, "train")

    def write_validation(self, row: Mapping[str, Any]) -> None:
        """What a validation found."""
        self.validations.write(row)
        if self._scalars is not None:
            self._scalars.write(row, "validation")

    def close(self) -> None:
        """Ends the writing."""
        for log in (self.attempts, self.metrics, self.rollouts, self.validations):
            log.close()
        if self._scalars is not None:
            self._scalars.close()


class Clock:
    """Seconds by phase of one step."""

    def __init__(self, waited: float = 0.0):
        self._start = time.perf_counter()
        self.seconds = {"data": waited}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to a phase, and names it in a profile."""
        start = time.perf_counter()
        with jax.profiler.TraceAnnotation(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def row(self, num_tokens: int) -> dict[str, Any]:
        """The seconds, their sum with everything between the phases, and tokens per second."""
        total = time.perf_counter() - self._start + self.seconds["data"]
        seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        return {
            "seconds": {**seconds, "step": round(total, 4)},
            "tokens_per_second": round(num_tokens / total, 2),
        }


class ProgressLine:
    """How far the run is: one line that changes on a terminal, now and then a line elsewhere."""

    def __init__(self, total: int, is_quiet: bool):
        self._total = total
        self._is_quiet = is_quiet
        self._is_live = sys.stderr.isatty()
        self._last_shown = -math.inf
        self._last_step: float | None = None
        self._paces: list[float] = []

    def show(self, step: int, shown: Mapping[str, float | None], has_compiled: bool) -> None:
        """Says the step, the time left and a few numbers.

        Args:
          step: the one just done.
          shown: the numbers by name.
          has_compiled: whether the step did: such a step does not enter the time left.
        """
        now = time.monotonic()
        if self._last_step is not None and not has_compiled:
            self._paces.append(now - self._last_step)
        self._last_step = now
        is_due = self._is_live or now - self._last_shown > SECONDS_BETWEEN_LINES
        if self._is_quiet or not (is_due or step == self._total):
            return
        self._last_shown = now
        left = ""
        if self._paces and step < self._total:
            pace = sum(self._paces) / len(self._paces)
            left = f"  {_clock_time(pace * (self._total - step))} left"
        numbers = "".join(f"  {k} {_short(value)}" for k, value in shown.items())
        self._write(f"step {step}/{self._total}{left}{numbers}", is_kept=step == self._total)

    def status(self, text: str) -> None:
        """What is going on now, until the next line."""
        if not self._is_quiet:
            self._write(text, is_kept=False)

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._is_quiet:
            start = "\r\x1b[K" if self._is_live else ""
            print(f"{start}{text}", file=sys.stderr, flush=True)

    def say_at_once(self, text: str) -> None:
        """A line of its own from a signal handler, which may have interrupted another line."""
        if not self._is_quiet:
            os.write(2, f"\n{text}\n".encode())

    def _write(self, line: str, is_kept: bool) -> None:
        if not self._is_live:
            print(line, file=sys.stderr, flush=True)
            return
        # A line that wraps could not be taken back.
        line = line[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if is_kept else ""))
        sys.stderr.flush()


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def parameter_table(trained: Mapping[str, int], frozen: Mapping[str, int]) -> str:
    """Counts of parameters that train and that do not, part by part.

    >>> print(parameter_table({"decoder": 1200}, {"slowfast": 30}))
    part      trained  frozen
    decoder     1,200       0
    slowfast        0      30
    all         1,200      30
    """
    parts = [*trained, *(name for name in frozen if name not in trained)]
    rows: list[Sequence[str]] = [("part", "trained", "frozen")]
    rows += [(name, f"{trained.get(name, 0):,}", f"{frozen.get(name, 0):,}") for name in parts]
    rows.append(("all", f"{sum(trained.values()):,}", f"{sum(frozen.values()):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows
    )
