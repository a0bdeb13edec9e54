"""What scoring one file gives, and the files that results are written to and resumed from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

AGGREGATES = ("mean", "median", "trimmed_mean", "soft")
"""What `ScoreResult.score` may be: of the sampled numbers, or expected from the digits."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """The judgement of a stretch of a video."""

    start: float
    """Seconds from the beginning of the video."""
    end: float
    """Seconds; the next segment starts here."""
    score: float | None = None
    """As `ScoreResult.score`, of this stretch alone."""
    std: float | None = None
    """As `ScoreResult.std`, or `soft_std` where the score is soft."""
    reasoning: str | None = None
    error: str | None = None
    """One line that says why there is no score."""


@dataclasses.dataclass(frozen=True)
class ScoreResult:
    """The judgement of one file: one row of every output.

    `score` is None where there is none: an error, or an answer without a number.
    """

    path: str
    """The file as it was named; undecodable bytes are surrogate escapes."""
    status: str
    """`ok` (the model answered) or `error` (nothing could be asked; see `error`)."""
    score: float | None = None
    """Quality from 1 (worst) to 5: the one of the statistics below that `aggregate` names."""
    std: float | None = None
    """Standard deviation (ddof 1) over the parseable samples; None for fewer than two."""
    parseable: bool = False
    """Whether at least one answer held a number."""
    reasoning: str | None = None
    """The text inside `<think>` of `response`; None where the response has no such block."""
    response: str | None = None
    """The raw answer; with several samples, the one whose score is nearest to the mean."""
    distortions: tuple[str, ...] | None = None
    """Distortions that the reasoning names, where they were asked for; None where they were not."""
    error: str | None = None
    """One line that says why there is no answer."""
    warnings: tuple[str, ...] = ()
    samples: int = 1
    """K: answers asked for."""
    scores: tuple[float | None, ...] = ()
    """One per sample; None where the answer held no number."""
    responses: tuple[str, ...] = ()
    """All raw answers, in the order of `scores`."""
    frames: tuple[int, ...] = ()
    """Indices, in order of presentation, of the frames the model saw."""
    video: dict[str, Any] | None = None
    """Decoder facts: codec, size, fps, frame count, rotation, bit depth, decoder."""
    model: str = ""
    model_kind: str = ""
    """`published` layout weights, or the folder's own label: `random`, `nano`, ..."""
    mode: str = "greedy"
    """`greedy` or `sampled`."""
    seed: int | None = None
    """Root seed of sampling; None when greedy."""
    settings: str = ""
    """Fingerprint of the model and of every setting that can change the answer."""
    size: int | None = None
    """File size in bytes when it was scored."""
    mtime_ns: int | None = None
    """Modification time of the file in nanoseconds when it was scored."""
    aggregate: str = "mean"
    """What `score` is: `mean`, `median` or `trimmed_mean` of the parseable samples, or `soft`."""
    mean: float | None = None
    """Over the parseable samples, like the next three."""
    median: float | None = None
    trimmed_mean: float | None = None
    """Without the smallest and the largest fifth of the samples, each rounded down."""
    interval: tuple[float, float] | None = None
    """Where one more answer of the model is expected, with a probability of 90 % and within 1-5;
    None for fewer than two. It says nothing about people."""
    soft_score: float | None = None
    """Expected score under the model's probabilities of the digits; None where it was not read."""
    soft_std: float | None = None
    """Standard deviation of that distribution."""
    soft_mass: float | None = None
    """Probability, 0 to 1, that the model gave to the numbers 1.00 to 5.00 before they were
    renormalised; where it is low, `soft_score` means little."""
    calibrated: float | None = None
    """`score` mapped to the scale of a user's own opinion scores; None without a calibration."""
    calibration: str | None = None
    """What that map is and how many videos it was fitted on."""
    timeline: tuple[Segment, ...] = ()
    """Scores over time, where they were asked for."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))


FIELDS = tuple(field.name for field in dataclasses.fields(ScoreResult))
LIST_FIELDS = ("warnings", "scores", "responses", "frames", "timeline")
STRUCTURED_FIELDS = (*LIST_FIELDS, "distortions", "video", "interval")
"""Written as JSON inside their CSV cell."""
NUMBER_FIELDS = (
    "score", "std", "mean", "median", "trimmed_mean", "soft_score", "soft_std", "soft_mass",
    "calibrated",
)  # fmt: skip
COUNT_FIELDS = ("seed", "size", "mtime_ns")
TEXT_FIELDS = ("reasoning", "response", "error", "calibration")
"""None where the cell is empty."""


class ResultFileError(ValueError):
    """An output file that cannot be used; the message is for the user."""


def file_stamp(path: os.PathLike | str) -> tuple[int | None, int | None]:
    """Size in bytes and modification time in nanoseconds; (None, None) where there is no file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return stat.st_size, stat.st_mtime_ns


class ResultFile:
    """A JSON-lines or CSV file of results that grows a row at a time and can be resumed.

    A row counts as done when path, size, modification time and settings fingerprint agree and its
    status is `ok`. On opening, rows of errors, rows of files that have changed since, and a last
    line cut short by a kill are dropped, so that those files are scored again; rows made with other
    settings are kept.

    Raises:
      ResultFileError: an unknown suffix, an existing file that is not ours, an unwritable place.
    """

    def __init__(self, path: os.PathLike | str, settings: str, sources: Iterable[str]):
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in (".jsonl", ".ndjson", ".csv"):
            raise ResultFileError(f"{self.path}: output must end in .jsonl, .ndjson or .csv")
        self.is_csv = suffix == ".csv"
        self._done: dict[str, ScoreResult] = {}
        asked = set(sources)
        kept = []
        existing = self._read()
        for result in existing:
            if result.path in asked and result.settings == settings:
                if result.status != "ok" or file_stamp(result.path) != (
                    result.size,
                    result.mtime_ns,
                ):
                    continue
                self._done[result.path] = result
            kept.append(result)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(kept)
            self._file = self._open("a")
        except OSError as error:
            raise ResultFileError(f"{self.path}: cannot write: {error.strerror}") from error

    def is_done(self, path: str) -> bool:
        """Whether this file already has its row."""
        return path in self._done

    def finished(self) -> tuple[ScoreResult, ...]:
        """The rows that were already there for the files asked for."""
        return tuple(self._done.values())

    def write(self, result: ScoreResult) -> None:
        """Appends one row and hands it to the operating system.

        Raises:
          ResultFileError: it does not take it, for instance because the disk is full.
        """
        try:
            self._file.write(self._line(result))
            self._file.flush()
        except OSError as error:
            raise ResultFileError(f"{self.path}: cannot write: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _open(self, mode: str, path: Path | None = None) -> io.TextIOBase:
        return open(path or self.path, mode, encoding="utf-8", errors="surrogateescape", newline="")

    def _line(self, result: ScoreResult) -> str:
        if not self.is_csv:
            return result.to_json() + "\n"
        row = dataclasses.asdict(result)
        cells = [
            ""
            if row[name] is None
            else json.dumps(row[name])
            if name in STRUCTURED_FIELDS
            else row[name]
            for name in FIELDS
        ]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        return buffer.getvalue()

    def _rewrite(self, results: list[ScoreResult]) -> None:
        """Replaces the file by these rows in one step."""
        temporary = self.path.with_name(self.path.name + ".part")
        with self._open("w", temporary) as file:
            if self.is_csv:
                file.write(",".join(FIELDS) + "\n")
            file.writelines(self._line(result) for result in results)
        os.replace(temporary, self.path)

    def _read(self) -> list[ScoreResult]:
        if not self.path.exists():
            return []
        try:
            with self._open("r") as file:
                text = file.read()
        except OSError as error:
            raise ResultFileError(f"{self.path}: cannot read: {error.strerror}") from error
        return self._parse_csv(text) if self.is_csv else self._parse_jsonl(text)

    def _parse_jsonl(self, text: str) -> list[ScoreResult]:
        results = []
        lines = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                results.append(result_from_json(line))
            except ValueError as error:
                if number == len(lines) and '{"path": '.startswith(line[:9]):
                    continue  # cut short by a kill: scored again
                raise ResultFileError(
                    f"{self.path} line {number} is not a result row ({error}); "
                    "name another --output or remove the file"
                ) from None
        return results

    def _parse_csv(self, text: str) -> list[ScoreResult]:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if not rows:
            return []
        header = rows[0]
        is_ours = {"path", "status"} <= set(header) <= set(FIELDS)
        if not is_ours or len(set(header)) < len(header):
            raise ResultFileError(
                f"{self.path} is not a result file of this version (its header differs); "
                "name another --output or remove the file"
            )
        is_cut = not text.endswith("\n")
        results = []
        for number, cells in enumerate(rows[1:], start=2):
            if number == len(rows) and is_cut:
                continue  # cut short by a kill: scored again
            try:
                results.append(_result_from_cells(header, cells))
            except ValueError as error:
                raise ResultFileError(f"{self.path} row {number}: {error}") from None
        return results


def result_from_json(line: str) -> ScoreResult:
    """Reads one line of `ScoreResult.to_json`; raises ValueError on anything else.

    Rows of older versions lack fields, which then have their defaults.
    """
    row = json.loads(line)
    if not isinstance(row, dict) or not {"path", "status"} <= set(row) <= set(FIELDS):
        raise ValueError("its keys are not those of a result")
    return _result(row)


def _result_from_cells(header: list[str], cells: list[str]) -> ScoreResult:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells, expected {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name, cell in row.items():
        if name in STRUCTURED_FIELDS:
            row[name] = json.loads(cell) if cell else None
        elif name in NUMBER_FIELDS:
            row[name] = float(cell) if cell else None
        elif name in COUNT_FIELDS:
            row[name] = int(cell) if cell else None
        elif name in TEXT_FIELDS:
            row[name] = cell or None
    if "samples" in row:
        row["samples"] = int(row["samples"])
    if "parseable" in row:
        row["parseable"] = row["parseable"] == "True"
    return _result(row)


def _result(row: dict[str, Any]) -> ScoreResult:
    """The result of a row whose lists are still JSON's; raises ValueError on wrong ones."""
    for name in LIST_FIELDS:
        if name in row:
            if not isinstance(row[name], list):
                raise ValueError(f"its {name} is not a list")
            row[name] = tuple(row[name])
    try:
        row["timeline"] = tuple(Segment(**segment) for segment in row.get("timeline", ()))
    except TypeError:
        raise ValueError("its timeline is not one of segments") from None
    interval = row.get("interval")
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError("its interval is not a pair")
        row["interval"] = tuple(interval)
    if row.get("distortions") is not None:
        row["distortions"] = tuple(row["distortions"])
    return ScoreResult(**row)
