"""The files that results are written to and resumed from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vqathinker_jax.results import (
    FIELDS,
    LIST_FIELDS,
    ScoreResult,
    file_stamp,
    result_from_fields,
    result_from_json,
)

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
    return result_from_fields(row)
