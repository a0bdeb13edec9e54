"""Distortion attribution: does the reasoning name the distortions that people saw?

Labels are FineVD's published yes/no questions (JSON lines `{"video", "conversations"}`, one file
for all dimensions or a folder with one file each), or a table with the columns
`video,color,noise,artifact,blur,temporal` of 1/0 or yes/no (empty: not known).
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vqathinker_jax.data.labels import inside_path
from vqathinker_jax.evaluation.benchmarks import BenchmarkError
from vqathinker_jax.evaluation.distortions import DIMENSIONS
from vqathinker_jax.results import ScoreResult

_QUESTION = re.compile(r"\bno (color|noise|artifact|blur|temporal)\b", re.IGNORECASE)
_YES_NO = {"yes": True, "1": True, "true": True, "no": False, "0": False, "false": False}
MOST_SHOWN = 20
KEYWORDS = "keywords"
"""The judge that needs nothing but the text."""


@dataclasses.dataclass(frozen=True)
class AttributionLabel:
    """What people saw in one video."""

    id: str
    path: str
    """Under the video root."""
    present: dict[str, bool]
    """From dimension to whether it is there; a dimension that is not known is absent."""


@dataclasses.dataclass(frozen=True)
class DimensionCounts:
    """One dimension over all videos with a verdict."""

    hits: int
    """There and named."""
    misses: int
    """There and not named."""
    false_alarms: int
    """Named and not there."""
    correct_rejections: int
    no_verdict: int
    """Videos that were answered but got no verdict: never counted as right."""

    @property
    def num(self) -> int:
        parts = (self.hits, self.misses, self.false_alarms, self.correct_rejections)
        return sum(parts) + self.no_verdict

    @property
    def accuracy(self) -> float:
        """Share of right decisions; a missing verdict is a wrong one. NaN without videos."""
        return (self.hits + self.correct_rejections) / self.num if self.num else math.nan

    @property
    def f1(self) -> float:
        total = 2 * self.hits + self.misses + self.false_alarms
        return 2 * self.hits / total if total else math.nan


@dataclasses.dataclass(frozen=True)
class AttributionRow:
    """One video."""

    id: str
    status: str
    """`ok`, `missing`, `error`, or `no verdict`."""
    present: dict[str, bool]
    named: tuple[str, ...] | None
    """None without a verdict."""


@dataclasses.dataclass(frozen=True)
class AttributionOutcome:
    """How well the reasoning names what is there."""

    name: str
    judge: str
    """`KEYWORDS`, or the language model's name and address."""
    counts: dict[str, DimensionCounts]
    """By dimension."""
    rows: tuple[AttributionRow, ...]

    @property
    def overall(self) -> float:
        """Share of right decisions over all dimensions and videos; NaN without any."""
        num = sum(one.num for one in self.counts.values())
        right = sum(one.hits + one.correct_rejections for one in self.counts.values())
        return right / num if num else math.nan


def read_attribution_labels(source: Path, root: Path) -> tuple[AttributionLabel, ...]:
    """Reads a label file, or a folder of JSON-lines files.

    Raises:
      BenchmarkError: it cannot be read or has bad rows, each named with its number and reason.
    """
    try:
        files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
        if not files:
            raise BenchmarkError(f"{source}: holds no .jsonl file")
        present: dict[str, dict[str, bool]] = {}
        bad = []
        for file in files:
            text = file.read_bytes().decode("utf-8-sig")
            read = _table if file.suffix.lower() == ".csv" else _yes_no
            for number, row in read(text):
                problem = row if isinstance(row, str) else _add(present, *row)
                if problem:
                    bad.append(f"  {file.name} line {number}: {problem}")
    except OSError as error:
        raise BenchmarkError(f"{source}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BenchmarkError(f"{source}: is not UTF-8") from None
    if bad:
        more = [f"  and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        listing = "\n".join([*bad[:MOST_SHOWN], *more])
        raise BenchmarkError(f"{source}: {len(bad)} bad lines\n{listing}")
    if not present:
        raise BenchmarkError(f"{source}: no usable line")
    return tuple(AttributionLabel(key, str(root / key), value) for key, value in present.items())


def _add(known: dict[str, dict[str, bool]], video: str, found: dict[str, bool]) -> str | None:
    """Adds what one line says; the reason where it cannot be."""
    try:
        video = inside_path(video)
    except ValueError as error:
        return str(error)
    labels = known.setdefault(video, {})
    for name, value in found.items():
        if name in labels:
            return f"{name} of {video!r} was given before"
        labels[name] = value
    return None


def _yes_no(text: str):
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = (turn["value"] for turn in row["conversations"])
            video = row["video"]
        except (ValueError, LookupError, TypeError):
            yield number, "not an object with video and conversations of a question and an answer"
            continue
        asked = {name.lower() for name in _QUESTION.findall(str(question))}
        value = _YES_NO.get(str(answer).strip().lower())
        if len(asked) != 1:
            yield number, f"the question names no single one of {', '.join(DIMENSIONS)}"
        elif value is None:
            yield number, f"the answer is {str(answer)[:40]!r}, not Yes or No"
        else:
            yield number, (video, {asked.pop(): value})


def _table(text: str):
    rows = csv.reader(text.splitlines())
    header = [cell.strip().lower() for cell in next(rows, [])]
    if "video" not in header or not set(DIMENSIONS) & set(header):
        yield 1, f"the first row must name the columns video,{','.join(DIMENSIONS)}"
        return
    for number, cells in enumerate(rows, start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            yield number, f"{len(cells)} cells, the header has {len(header)}"
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        given = {name: row[name].lower() for name in DIMENSIONS if row.get(name)}
        wrong = [name for name, value in given.items() if value not in _YES_NO]
        if wrong:
            yield number, f"{wrong[0]} is {row[wrong[0]][:40]!r}, not 1 or 0"
        else:
            yield number, (row["video"], {name: _YES_NO[value] for name, value in given.items()})


def judge_attribution(
    name: str,
    labels: Sequence[AttributionLabel],
    results: Mapping[str, ScoreResult],
    judge: str,
    named: Callable[[str, str], tuple[str, ...] | None],
) -> AttributionOutcome:
    """Compares what the reasoning names with what people saw.

    Args:
      name: of the benchmark.
      labels: what people saw.
      results: by path; a video that has none is missing.
      judge: what `named` is, in words.
      named: from a text and the video's id to the dimensions that the text names, or None.
    """
    rows = []
    for label in labels:
        result = results.get(label.path)
        verdict = None
        if result is None:
            status = "missing"
        elif result.status != "ok":
            status = "error"
        else:
            text = result.reasoning or result.response or ""
            verdict = named(text, label.id) if text.strip() else None
            status = "no verdict" if verdict is None else "ok"
        rows.append(AttributionRow(label.id, status, label.present, verdict))
    return AttributionOutcome(
        name=name,
        judge=judge,
        counts={dimension: _count(rows, dimension) for dimension in DIMENSIONS},
        rows=tuple(rows),
    )


def _count(rows: Sequence[AttributionRow], dimension: str) -> DimensionCounts:
    asked = [row for row in rows if dimension in row.present]
    judged = [
        (row.present[dimension], dimension in row.named) for row in asked if row.named is not None
    ]
    return DimensionCounts(
        hits=judged.count((True, True)),
        misses=judged.count((True, False)),
        false_alarms=judged.count((False, True)),
        correct_rejections=judged.count((False, False)),
        no_verdict=sum(row.status == "no verdict" for row in asked),
    )
