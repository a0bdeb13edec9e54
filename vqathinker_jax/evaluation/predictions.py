"""Predictions made elsewhere: CSV files of `filename,pred_score[,gt_score]`."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.evaluation.benchmarks import CUSTOM, Benchmark, BenchmarkError

NAME_COLUMNS = ("filename", "image_id", "id", "path", "name", "video")
SCORE_COLUMNS = ("pred_score", "prediction", "pred", "score")
LABEL_COLUMNS = ("gt_score", "label", "mos")
MOST_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One row of a prediction file."""

    name: str
    score: float | None
    """None: an empty cell, which says that there is no prediction."""
    label: float | None
    """None where the file has no column of labels."""


def read_predictions(file: Path) -> tuple[Prediction, ...]:
    """Reads a CSV file with a header that names its columns.

    Raises:
      BenchmarkError: no such file, no such columns, or bad rows, each named with its number.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BenchmarkError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BenchmarkError(f"{file}: is not UTF-8") from None
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not rows:
        raise BenchmarkError(f"{file}: is empty")
    header = [cell.strip().lower() for cell in rows[0]]

    def column(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    name, score, label = column(NAME_COLUMNS), column(SCORE_COLUMNS), column(LABEL_COLUMNS)
    if name is None or score is None:
        raise BenchmarkError(
            f"{file}: its first row must name the columns filename,pred_score (and gt_score, "
            f"where the labels are in it too), got {','.join(rows[0])[:80]!r}"
        )
    made, bad, seen = [], [], {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells, the header has {len(header)}")
            key = cells[name].strip()
            if not key:
                raise ValueError("no filename")
            if seen.setdefault(key, number) != number:
                raise ValueError(f"{key!r} was given in row {seen[key]}")
            value = _number(cells[score]) if cells[score].strip() else None
            made.append(Prediction(key, value, None if label is None else _number(cells[label])))
        except ValueError as error:
            bad.append(f"  row {number}: {error}")
    if bad:
        more = [f"  and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        listing = "\n".join(bad[:MOST_SHOWN] + more)
        raise BenchmarkError(f"{file}: {len(bad)} bad rows\n{listing}")
    return tuple(made)


def benchmark_of(file: Path, predictions: Sequence[Prediction]) -> Benchmark:
    """The labels that stand in a prediction file itself, named after it.

    Raises:
      BenchmarkError: it has no column of labels.
    """
    if any(one.label is None for one in predictions) or not predictions:
        raise BenchmarkError(
            f"{file}: has no column gt_score; name the labels with --benchmark NAME=LABELS.json"
        )
    videos = tuple(
        LabelledVideo(one.name, one.name, one.label, file.stem, line)
        for line, one in enumerate(predictions, start=2)
    )
    return Benchmark(file.stem, CUSTOM, videos, ())


def match(
    videos: Sequence[LabelledVideo], predictions: Sequence[Prediction]
) -> list[Prediction | None]:
    """The prediction for each video: by id, by full path, or by a path that ends in the id.

    None where there is none, or where several paths end in the id. A prediction serves one video:
    the one that it names in full, else the one with the longest id.
    """
    by_name = {one.name.replace("\\", "/"): one for one in predictions}
    by_end: dict[str, list[Prediction]] = {}
    for name, one in by_name.items():
        parts = name.split("/")
        for start in range(1, len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(one)
    found = [
        by_name.get(video.id) or by_name.get(video.path.replace("\\", "/")) for video in videos
    ]
    used = {one.name for one in found if one is not None}
    for place in sorted(range(len(videos)), key=lambda place: -len(videos[place].id)):
        ends = by_end.get(videos[place].id, ())
        if found[place] is None and len(ends) == 1 and ends[0].name not in used:
            found[place] = ends[0]
            used.add(ends[0].name)
    return found


def _number(text: str) -> float:
    try:
        # float() alone would also take "1_000" and digits of other scripts.
        if "_" in text or not text.isascii():
            raise ValueError
        value = float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text.strip()} is not a finite number")
    return value
