"""An evaluation as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from vqathinker_jax.data.clip import printable
from vqathinker_jax.evaluation.beside import STATISTICS
from vqathinker_jax.evaluation.judged import DOMAINS, overall, parse_rate
from vqathinker_jax.evaluation.outcome import Estimate, Evaluation
from vqathinker_jax.evaluation.table1 import NOTE, table1

HEADER = ("benchmark", "videos", "SRCC", "PLCC", "PLCC fitted", "KRCC", "RMSE fitted", "parsed")
EXPLANATION = (
    "*PLCC fitted* and *RMSE fitted* are after the four-parameter logistic, refitted in every "
    "draw; RMSE is in the unit of the labels. Overalls are weighted by the number of scored videos."
)
MOST_MISSING = 20
"""Missing videos that the summary names; all of them are in missing.txt."""


def shown(estimate: Estimate) -> str:
    """`0.873 [0.861, 0.884]`, or a dash where undefined."""
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def interval_words(evaluation: Evaluation) -> str:
    """What the intervals of an evaluation are, such as `95 % bootstrap intervals over the videos`;
    empty where there are none."""
    if not any(math.isfinite(one.agreement.srcc.low) for one in evaluation.outcomes):
        return ""
    level = evaluation.settings["bootstrap"]["level"]
    return f"{100 * level:.4g} % bootstrap intervals over the videos"


def header(evaluation: Evaluation) -> tuple[str, ...]:
    """The titles of the columns, those of figures to be shown beside them last."""
    beside = evaluation.settings.get("beside", {})
    return HEADER + tuple(f"{name} {what}" for name in beside for what in ("SRCC", "PLCC"))


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The cells of the table, without its header: benchmarks, then overalls."""
    outcomes = evaluation.outcomes
    beside = evaluation.settings.get("beside", {})

    def theirs(key: str) -> tuple[str, ...]:
        found = [figures.get(key, {}).get(s) for figures in beside.values() for s in STATISTICS]
        return tuple("-" if value is None else f"{value:.3f}" for value in found)

    made = []
    for one in outcomes:
        agreement, rate = one.agreement, parse_rate(one)
        estimates = (
            agreement.srcc,
            agreement.plcc,
            agreement.plcc_fitted,
            agreement.krcc,
            agreement.rmse,
        )
        made.append(
            (
                one.name,
                f"{agreement.num_scored} of {one.num_labels}",
                *map(shown, estimates),
                "-" if math.isnan(rate) else f"{100 * rate:.1f}%",
                *theirs(one.name),
            )
        )
    for domain, title in DOMAINS.items():
        total = overall(outcomes, domain)
        if total is not None:
            values = (total.srcc, total.plcc, total.plcc_fitted, total.krcc)
            cells = ["-" if math.isnan(value) else f"{value:.3f}" for value in values]
            made.append((title, str(total.num_videos), *cells, "", "", *theirs(domain)))
    return made


def text_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns in equal width, the first to the left."""
    table = [titles, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(titles))]
    out = []
    for line in table:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def markdown_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    out = [titles, ["---"] + ["---:"] * (len(titles) - 1), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in out
    )


def remarks(evaluation: Evaluation) -> list[str]:
    """What must be known about the numbers: one line each, the weightiest first."""
    said = [f"note: {evaluation.warning}"] if evaluation.warning else []
    for one in evaluation.outcomes:
        if one.agreement.why_undefined:
            said.append(f"{one.name}: undefined (-): {one.agreement.why_undefined}")
        counts = (
            (one.num_missing, "missing"),
            (one.num_failed, "failed, left out of the metrics"),
            (one.num_unparseable, "without a readable score, left out of the metrics"),
            (one.num_out_of_range, "with an answer outside 1 to 5, kept"),
        )
        told = [f"{count} {what}" for count, what in counts if count]
        if told:
            said.append(f"{one.name}: of {one.num_labels} videos " + "; ".join(told))
        said += [f"{one.name}: {note}" for note in one.notes]
    for domain, title in DOMAINS.items():
        total = overall(evaluation.outcomes, domain)
        if total is not None and total.left_out:
            said.append(f"{title}: without {', '.join(total.left_out)}")
    return said


def text_summary(evaluation: Evaluation) -> str:
    """What stands on a terminal."""
    title = f"model: {printable(evaluation.model)} [{evaluation.model_kind}]"
    parts = [title]
    if evaluation.outcomes:
        parts.append(text_table(header(evaluation), rows(evaluation)))
        if interval_words(evaluation):
            parts.append(f"brackets: {interval_words(evaluation)}")
    beside_paper = table1(evaluation)
    parts += [text_table(table.header, table.rows) for table in beside_paper]
    if beside_paper:
        parts.append(NOTE)
    said = remarks(evaluation)
    return "\n\n".join(parts + (["\n".join(map(printable, said))] if said else []))


def markdown_summary(evaluation: Evaluation) -> str:
    """summary.md: the table, what must be known about it, what is missing, the settings."""
    parts = [
        "# Evaluation",
        f"Model: `{printable(evaluation.model)}` ({evaluation.model_kind})",
    ]
    if evaluation.outcomes:
        made = interval_words(evaluation)
        explanation = f"Brackets: {made}. {EXPLANATION}" if made else EXPLANATION
        parts += [markdown_table(header(evaluation), rows(evaluation)), explanation]
    beside_paper = table1(evaluation)
    if beside_paper:
        for table in beside_paper:
            parts += [f"## {table.title}", markdown_table(table.header, table.rows)]
        parts.append(NOTE)
    said = remarks(evaluation)
    if said:
        parts.append("\n".join(f"- {printable(line)}" for line in said))
    for one in evaluation.outcomes:
        missing = [row.id for row in one.rows if row.status == "missing"]
        if missing:
            listing = [f"- `{printable(name)}`" for name in missing[:MOST_MISSING]]
            if len(missing) > MOST_MISSING:
                listing.append(f"- and {len(missing) - MOST_MISSING} more: see missing.txt")
            parts += [f"## Missing in {one.name}", "\n".join(listing)]
    settings = json.dumps(evaluation.settings, indent=1, sort_keys=True)
    parts += ["## Settings", f"```json\n{settings}\n```"]
    return "\n\n".join(parts) + "\n"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """summary.json: the record, with overalls and parse rates; null where undefined.

    The raw results are not in it: they are the JSON lines beside it.
    """
    outcomes = []
    for one in evaluation.outcomes:
        fields = {
            field.name: vars(one)[field.name]
            for field in dataclasses.fields(one)
            if field.name not in ("rows", "agreement")
        }
        fields["parse_rate"] = parse_rate(one)
        fields["agreement"] = dataclasses.asdict(one.agreement)
        fields["rows"] = [
            {name: value for name, value in vars(row).items() if name != "result"}
            for row in one.rows
        ]
        outcomes.append(fields)
    totals = [overall(evaluation.outcomes, domain) for domain in DOMAINS]
    return without_nan(
        {
            "model": evaluation.model,
            "model_kind": evaluation.model_kind,
            "warning": evaluation.warning,
            "settings": evaluation.settings,
            "table1": [dataclasses.asdict(table) for table in table1(evaluation)],
            "overall": [dataclasses.asdict(total) for total in totals if total is not None],
            "outcomes": outcomes,
        }
    )


def without_nan(value: Any) -> Any:
    """The same with None for every number that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return value
