"""The files an evaluation leaves in its folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from vqathinker_jax.evaluation.benchmarks import BenchmarkError
from vqathinker_jax.evaluation.outcome import BenchmarkOutcome, Evaluation
from vqathinker_jax.evaluation.tables import as_json, markdown_summary
from vqathinker_jax.evaluation.understanding import (
    Understanding,
    json_understanding,
    markdown_understanding,
)
from vqathinker_jax.whole_file import write_whole

CSV_HEADER = ("filename", "pred_score", "gt_score")
"""As the published script writes it. The published script gives an unreadable answer a 3.00; here
its cell is empty."""
ENDINGS = (".csv", ".jsonl", ".judge.jsonl")
"""Of the files that bear a benchmark's name."""
REPORT = "report.html"
UNDERSTANDING = "understanding.json"
SUMMARIES = ("missing.txt", "summary.json", "summary.md", UNDERSTANDING, REPORT)


def require_apart(folder: Path, names: Sequence[str], inputs: Iterable[Path]) -> None:
    """Refuses to write over what is read.

    Args:
      folder: of the outputs.
      names: of the benchmarks.
      inputs: files that were named: labels, predictions, figures.

    Raises:
      BenchmarkError: an input lies where an output goes.
    """
    named = [f"{name}{ending}" for name in names for ending in ENDINGS]
    outputs = {(folder / name).resolve() for name in (*SUMMARIES, *named)}
    for file in inputs:
        if file.resolve() in outputs:
            raise BenchmarkError(
                f"{file}: would be overwritten by the results; name another folder with --out"
            )


def files_of_others(folder: Path, names: Sequence[str], has: Iterable[str]) -> tuple[str, ...]:
    """What an evaluation of other things left in the folder and this one does not renew.

    Args:
      folder: of the outputs.
      names: of the benchmarks of this evaluation.
      has: those of `REPORT` and `UNDERSTANDING` that it writes.
    """
    derived = {REPORT, UNDERSTANDING} - set(has)
    stale = {name for name in derived if (folder / name).exists()}
    tables = {file.name for file in folder.glob("*.csv")} - {f"{name}.csv" for name in names}
    return tuple(sorted(stale | tables))


def write_evaluation(evaluation: Evaluation, folder: Path, understanding: Understanding) -> None:
    """Writes NAME.csv for every benchmark, missing.txt, summary.json, summary.md and, where
    something was to be understood, understanding.json.

    missing.txt has the name and the path of every labelled video that is not there; of videos that
    were only to be understood, the path as their file gives it.

    Raises:
      OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in evaluation.outcomes:
        write_whole(folder / f"{outcome.name}.csv", csv_text(outcome))
    missing = [
        f"{outcome.name}\t{row.path}\n"
        for outcome in evaluation.outcomes
        for row in outcome.rows
        if row.status == "missing"
    ]
    missing += [
        f"{one.name}\t{row.id}\n"
        for one in understanding.attributions
        for row in one.rows
        if row.status == "missing"
    ]
    missing += [
        f"{one.name}\t{video}\n"
        for one in understanding.questions
        for video in dict.fromkeys(row.video for row in one.answers if row.status == "missing")
    ]
    write_whole(folder / "missing.txt", "".join(missing))
    text = json.dumps(as_json(evaluation), indent=1, allow_nan=False)
    write_whole(folder / "summary.json", text + "\n")
    summary = markdown_summary(evaluation)
    if not understanding.is_empty:
        summary += "\n" + markdown_understanding(understanding)
        text = json.dumps(json_understanding(understanding), indent=1, allow_nan=False)
        write_whole(folder / UNDERSTANDING, text + "\n")
    write_whole(folder / "summary.md", summary)


def csv_text(outcome: BenchmarkOutcome) -> str:
    """One row a labelled video that is there; the prediction is empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for row in outcome.rows:
        if row.status != "missing":
            prediction = "" if row.prediction is None else repr(row.prediction)
            writer.writerow((row.path, prediction, repr(row.label)))
    return buffer.getvalue()
