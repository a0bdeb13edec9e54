"""What a run writes down: JSON lines in its folder, a line on the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


class Clock:
    """Seconds by phase of one step."""

    def __init__(self, waited: float = 0.0):
        self._start = time.perf_counter()
        self.seconds = {"data": waited}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to a phase."""
        start = time.perf_counter()
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
        self._last = -math.inf
        self._start: tuple[float, int] | None = None

    def show(self, step: int, shown: Mapping[str, float | None]) -> None:
        """Says the step, a few numbers and the time left."""
        now = time.monotonic()
        # The first step compiles: the time left is told by those after it.
        left = ""
        if self._start is None:
            self._start = (now, step)
        elif step > self._start[1]:
            pace = (now - self._start[0]) / (step - self._start[1])
            left = f"  {_clock_time(pace * (self._total - step))} left"
        is_due = self._is_live or now - self._last > SECONDS_BETWEEN_LINES or step == self._total
        if self._is_quiet or not is_due:
            return
        self._last = now
        numbers = "  ".join(f"{k} {_short(value)}" for k, value in shown.items())
        line = f"step {step}/{self._total}  {numbers}{left}"
        if self._is_live:
            sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if step == self._total else ""))
            sys.stderr.flush()
        else:
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._is_quiet:
            start = "\r\x1b[K" if self._is_live else ""
            print(f"{start}{text}", file=sys.stderr, flush=True)


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
