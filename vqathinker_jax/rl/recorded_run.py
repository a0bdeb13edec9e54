"""What a run has written down, read for a report: nothing here needs the model, or JAX."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64, Int64

from vqathinker_jax.strict_yaml import BEFORE

UNKNOWN_KIND = "kind unknown"


class NoRunError(ValueError):
    """A folder that is not that of a run; one line for the user."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one log by ascending step, the last one where a step occurs twice."""

    rows: tuple[Mapping[str, Any], ...] = ()
    num_unreadable: int = 0
    """Lines that are no row, such as half a row at the end of a run that was killed."""

    @property
    def steps(self) -> Int64[np.ndarray, "R"]:
        return np.array([row["step"] for row in self.rows], np.int64)

    def values(self, name: str) -> Float64[np.ndarray, "R"]:
        """One key of every row, NaN where it is absent or no number; `a.b` looks inside `a`."""
        return np.array([_number(row, name) for row in self.rows], np.float64)

    def has(self, name: str) -> bool:
        """Whether any row has a number there."""
        return bool(np.isfinite(self.values(name)).any())

    def names(self) -> list[str]:
        """Keys that hold a number somewhere, in the order of the rows."""
        names = {key: None for row in self.rows for key in row}
        return [name for name in names if self.has(name)]


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """One stage of a run."""

    folder: Path
    settings: Mapping[str, Any]
    """By dotted key, as in config.yaml."""
    metrics: Rows
    validations: Rows
    attempts: Rows
    """One row each time the run was started or resumed; empty for runs of older versions."""
    rollouts: tuple[tuple[int, int], ...]
    """(step, offset in rollouts.jsonl) of its rows."""

    @property
    def num_done(self) -> int:
        """The last step that left a row; 0: none did."""
        return int(self.metrics.steps[-1]) if self.metrics.rows else 0

    @property
    def num_planned(self) -> int | None:
        """Steps of the whole run; None where only its epochs are known."""
        planned = self.attempt("steps") or self.settings.get("run.steps")
        return planned if isinstance(planned, int) else None

    @property
    def kind(self) -> str:
        """How its model labels itself: `trained`, `trained from random`, ..."""
        if kind := self.attempt("kind"):
            return str(kind)
        exported = _read_json(self.folder / "model" / "config.json")
        own = exported.get("vqathinker_jax")
        if isinstance(own, dict) and own.get("kind"):
            return str(own["kind"])
        return "trained from random" if self.settings.get("model.preset") else UNKNOWN_KIND

    def attempt(self, name: str) -> Any:
        """A fact from the last attempt; None where there is none."""
        return self.attempts.rows[-1].get(name) if self.attempts.rows else None

    def sampled(self, num_steps: int) -> list[Mapping[str, Any]]:
        """The logged responses of a few steps, evenly spaced from the first to the last."""
        steps = sorted({step for step, _ in self.rollouts})
        if not steps:
            return []
        picked = np.linspace(0, len(steps) - 1, min(num_steps, len(steps))).round()
        chosen = {steps[int(place)] for place in picked}
        rows = {}
        with open(self.folder / "rollouts.jsonl", "rb") as file:
            for step, offset in self.rollouts:
                if step in chosen:
                    file.seek(offset)
                    row = _sampled(json.loads(file.readline()))
                    rows[step, row["id"]] = row
        return [row for _, row in sorted(rows.items(), key=lambda item: item[0][0])]


def read_stages(folder: Path) -> list[RecordedRun]:
    """The stages of a run, the first one first; most runs have one.

    Raises:
      NoRunError: there is no run in that folder.
    """
    stages = []
    current = folder
    while (current / "config.yaml").is_file() or (current / BEFORE).is_dir():
        if (current / "config.yaml").is_file():
            stages.insert(0, read_run(current))
        current = current / BEFORE
    if not stages:
        what = "holds no run (no config.yaml)" if folder.is_dir() else "is no folder"
        raise NoRunError(f"{folder}: {what}")
    return stages


def read_run(folder: Path) -> RecordedRun:
    """One stage; what is missing or damaged in its logs is left out.

    Raises:
      NoRunError: config.yaml cannot be read.
    """
    return RecordedRun(
        folder=folder,
        settings=_read_settings(folder / "config.yaml"),
        metrics=read_rows(folder / "metrics.jsonl"),
        validations=read_rows(folder / "validation.jsonl"),
        attempts=read_rows(folder / "attempts.jsonl"),
        rollouts=tuple((row["step"], at) for at, row in _lines(folder / "rollouts.jsonl") if row),
    )


def read_rows(path: Path) -> Rows:
    """A log of JSON lines; empty where there is none."""
    by_step, num_unreadable = {}, 0
    for _, row in _lines(path):
        if row is None:
            num_unreadable += 1
        else:
            by_step[row["step"]] = row
    return Rows(tuple(by_step[step] for step in sorted(by_step)), num_unreadable)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Offset and row of every line that is not empty; None for one that is no row."""
    if not path.is_file():
        return
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if line.strip():
                yield offset, _row(line)
            offset += len(line)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and type(row.get("step")) is int
    return row if is_row else None


def _sampled(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of rollouts with everything that a report names."""
    listed = row.get("responses")
    responses = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return {
        "step": row["step"],
        "id": str(row.get("id")),
        "gt": row.get("gt"),
        "responses": [{"score": None, **one, "text": str(one.get("text"))} for one in responses],
    }


def _number(row: Mapping[str, Any], name: str) -> float:
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if type(value) in (int, float) else np.nan


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_settings(path: Path) -> dict[str, Any]:
    """Not by `load_config`: the settings of an older version are worth showing too."""
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise NoRunError(f"{path}: cannot be read ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise NoRunError(f"{path}: holds no settings of a run")
    return dict(_flat(value, ""))


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _first_line(error: Exception) -> str:
    return re.split(r"[\r\n]", str(error))[0]
