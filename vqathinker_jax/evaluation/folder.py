"""The files an evaluation leaves in its folder."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

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


def write_evaluation(evaluation: Evaluation, folder: Path, understanding: Understanding) -> None:
    """Writes NAME.csv for every benchmark, missing.txt, summary.json, summary.md and, where
    something was to be understood, understanding.json.

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
    write_whole(folder / "missing.txt", "".join(missing))
    text = json.dumps(as_json(evaluation), indent=1, allow_nan=False)
    write_whole(folder / "summary.json", text + "\n")
    summary = markdown_summary(evaluation)
    if not understanding.is_empty:
        summary += "\n" + markdown_understanding(understanding)
        text = json.dumps(json_understanding(understanding), indent=1, allow_nan=False)
        write_whole(folder / "understanding.json", text + "\n")
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
