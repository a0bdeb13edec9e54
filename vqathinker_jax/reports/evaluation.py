"""The report of an evaluation: one HTML file that needs nothing but itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqathinker_jax.data.clip import printable
from vqathinker_jax.evaluation.benchmarks import CUSTOM, IN_DOMAIN, OOD
from vqathinker_jax.evaluation.judged import overall
from vqathinker_jax.evaluation.outcome import (
    BenchmarkOutcome,
    BenchmarkRow,
    Estimate,
    Evaluation,
)
from vqathinker_jax.evaluation.tables import interval_words
from vqathinker_jax.evaluation.understanding import Understanding
from vqathinker_jax.reports.agreement import Figure, Miss, figures, worst_misses
from vqathinker_jax.reports.page import (
    Tile,
    decimals,
    environment,
    legible,
    shown_setting,
    write_page,
)
from vqathinker_jax.reports.pictures import Strip, frame_strips
from vqathinker_jax.reports.tables import beside_table, paper_tables, understanding_tables
from vqathinker_jax.terminal import shown_reason

MOST_MISSES, MOST_MISSES_EACH = 36, 6
"""Worst cases with frames in the whole report, and of one benchmark."""
MOST_FRAMES = 6
MOST_UNSCORED = 12
"""Videos without a score that are named, of one benchmark."""
LONGEST_REASON = 700
"""Characters of a reasoning that are shown."""
DOMAINS = {IN_DOMAIN: "in-domain", OOD: "out of distribution", CUSTOM: "custom"}


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """A miss, ready for the page."""

    name: str
    label: float
    prediction: float
    expected: float | None
    std: float | None
    reason: str
    is_cut: bool
    strip: Strip


@dataclasses.dataclass(frozen=True)
class Part:
    """What the page says of one benchmark."""

    anchor: str
    domain: str
    outcome: BenchmarkOutcome
    name: str
    counts: str
    notes: tuple[str, ...]
    figures: list[Figure]
    worst: list[WorstCase]
    num_scored: int
    unscored: list[tuple[str, str, str]]
    """(name, status, reason)."""
    num_unscored: int


def write_evaluation_report(
    evaluation: Evaluation, path: Path, understanding: Understanding | None = None
) -> None:
    """Writes what an evaluation found as one HTML file.

    Frames of the worst cases are decoded again from their files, where these are unchanged.

    Args:
      evaluation: what it found.
      path: of the file; replaced where it exists.
      understanding: attributions and questions, where there are any.

    Raises:
      ReportError: it cannot be written.
    """
    write_page(render_evaluation(evaluation, understanding), path)


def render_evaluation(evaluation: Evaluation, understanding: Understanding | None = None) -> str:
    """The page; names, notes and what the model said are escaped."""
    each = max(1, min(MOST_MISSES_EACH, MOST_MISSES // max(1, len(evaluation.outcomes))))
    misses = [worst_misses(outcome, each) for outcome in evaluation.outcomes]
    results = [miss.row.result for of_one in misses for miss in of_one if miss.row.result]
    strips = iter(frame_strips(results, MOST_FRAMES))
    parts = [
        make_part(place, outcome, of_one, strips)
        for place, (outcome, of_one) in enumerate(zip(evaluation.outcomes, misses, strict=True))
    ]
    template = environment("vqathinker_jax.reports").get_template("evaluation.html")
    return template.render(
        model=printable(evaluation.model),
        kind=printable(evaluation.model_kind),
        warning=None if evaluation.warning is None else printable(evaluation.warning),
        parts=parts,
        tiles=tiles(evaluation.outcomes),
        settings=flat_settings(
            {name: value for name, value in evaluation.settings.items() if name != "beside"}
        ),
        intervals=interval_words(evaluation),
        beside=beside_table(evaluation),
        paper=paper_tables(evaluation),
        understood=understanding_tables(understanding or Understanding()),
        span=interval_span(evaluation.outcomes),
        interval=interval,
    )


def make_part(place: int, outcome: BenchmarkOutcome, misses: list[Miss], strips) -> Part:
    """Everything that is said of one benchmark; takes the strips of its misses."""
    unscored = [row for row in outcome.rows if row.prediction is None]
    notes = tuple(map(printable, outcome.notes))
    if outcome.agreement.why_undefined:
        notes = (f"Not everything is defined: {outcome.agreement.why_undefined}.", *notes)
    return Part(
        anchor=f"benchmark-{place + 1}",
        domain=DOMAINS.get(outcome.domain, outcome.domain),
        outcome=outcome,
        name=printable(outcome.name),
        counts=counts(outcome),
        notes=notes,
        figures=figures(outcome, misses),
        worst=[worst_case(miss, next(strips) if miss.row.result else Strip()) for miss in misses],
        num_scored=len(outcome.rows) - len(unscored),
        unscored=[unscored_line(row) for row in unscored[:MOST_UNSCORED]],
        num_unscored=len(unscored),
    )


def worst_case(miss: Miss, strip: Strip) -> WorstCase:
    """A miss in words and pictures."""
    result = miss.row.result
    reason = "" if result is None else (result.reasoning or result.response or "").strip()
    return WorstCase(
        name=printable(miss.row.id),
        label=miss.row.label,
        prediction=miss.row.prediction,
        expected=miss.expected,
        std=None if result is None else result.score_std,
        reason=legible(reason[:LONGEST_REASON]),
        is_cut=len(reason) > LONGEST_REASON,
        strip=strip,
    )


def unscored_line(row: BenchmarkRow) -> tuple[str, str, str]:
    """Name, status and reason of a video without a score."""
    reason = "" if row.result is None else shown_reason(row.result)
    return printable(row.id), row.status, reason[:LONGEST_REASON]


def counts(outcome: BenchmarkOutcome) -> str:
    """What became of the labels, in one line."""
    parts = [f"{outcome.num_labels:,} labels", f"{outcome.agreement.num_scored:,} scored"]
    for number, said in (
        (outcome.num_missing, "without a file"),
        (outcome.num_failed, "could not be judged"),
        (outcome.num_unparseable, "answered without a number"),
        (outcome.num_out_of_range, "answered outside 1 to 5"),
    ):
        if number:
            parts.append(f"{number:,} {said}")
    return " · ".join(parts)


def tiles(outcomes: Sequence[BenchmarkOutcome]) -> list[Tile]:
    """The headline numbers: each domain as a whole, and what became of the videos."""
    found = []
    for domain, title in DOMAINS.items():
        of_domain = [outcome for outcome in outcomes if outcome.domain == domain]
        # Benchmarks of one's own have nothing in common that a mean would be of.
        if not of_domain or (domain == "custom" and len(of_domain) > 1):
            continue
        total = overall(outcomes, domain)
        srcc, plcc = (total.srcc, total.plcc) if total else (math.nan, math.nan)
        notes = [f"PLCC {plcc:.3f}" if math.isfinite(plcc) else "PLCC undefined"]
        if len(of_domain) > 1:
            notes.append(f"{len(of_domain)} benchmarks, weighted by their videos with a score")
        undefined = [one.name for one in of_domain if not math.isfinite(one.agreement.srcc.value)]
        if undefined:
            notes.append(f"without {', '.join(map(printable, undefined))}, where it is undefined")
        found.append(Tile(f"SRCC, {title}", decimals(srcc, 3), "; ".join(notes)))
    labels = sum(outcome.num_labels for outcome in outcomes)
    scored = sum(outcome.agreement.num_scored for outcome in outcomes)
    note = "all labels" if scored == labels else f"{labels - scored:,} of {labels:,} labels are not"
    found.append(Tile("Videos scored", f"{scored:,}", note))
    unparseable = sum(outcome.num_unparseable for outcome in outcomes)
    is_asked = any(row.result is not None for outcome in outcomes for row in outcome.rows)
    if is_asked and scored + unparseable:
        rate = 100 * scored / (scored + unparseable)
        found.append(Tile("Answers with a number", f"{_percent(rate)} %", "of all answers"))
    return found


def _percent(rate: float) -> str:
    # A rate that is not whole is never rounded up to a whole one.
    return "100" if rate == 100 else f"{min(rate, 99.9):.1f}"


def interval_span(outcomes: Sequence[BenchmarkOutcome]) -> tuple[float, float]:
    """Ends, tenths, of the scale that all intervals of SRCC are drawn on."""
    ends = [
        end
        for outcome in outcomes
        for end in (outcome.agreement.srcc.low, outcome.agreement.srcc.high)
        if math.isfinite(end)
    ]
    if not ends:
        return 0.0, 1.0
    low = math.floor(min(ends) * 10 - 1e-9) / 10
    return max(min(low, 0.9), -1.0), 1.0


def interval(estimate: Estimate, span: tuple[float, float]) -> tuple[float, float, float] | None:
    """Left end, width and middle of a bar, percent of the span; None where undefined."""
    if not math.isfinite(estimate.value):
        return None
    low, high = span

    def place(value: float) -> float:
        value = estimate.value if not math.isfinite(value) else value
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    left, right = place(estimate.low), place(estimate.high)
    return left, round(right - left, 2), place(estimate.value)


def flat_settings(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as lines of a table; those inside others get dotted names.

    >>> flat_settings({"seed": 0, "versions": {"jax": "0.10.2"}})
    [('seed', '0'), ('versions.jax', '0.10.2')]
    """
    lines = []
    for key, value in settings.items():
        name = f"{prefix}{printable(str(key))}"
        if isinstance(value, Mapping):
            lines += flat_settings(value, f"{name}.")
        else:
            lines.append((name, shown_setting(value)))
    return lines
