"""The charts of one benchmark: how predictions and labels lie together."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup
from scipy import special

from vqathinker_jax.evaluation.outcome import BenchmarkOutcome, BenchmarkRow
from vqathinker_jax.metrics import average_ranks
from vqathinker_jax.reports.charts import (
    CURVE_POINTS,
    MOST_POINTS,
    Chart,
    fit_axis,
    histogram,
    sample,
)
from vqathinker_jax.reports.page import decimals

Logistic = tuple[float, float, float, float]
LEAST_SPAN = 0.4
"""Of predictions on their axis: a model that always says the same gets no digits to read."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart with what is written around it."""

    title: str
    svg: Markup
    note: str
    legend: tuple[tuple[str, str], ...] = ()
    """(class of the swatch, what it marks)."""
    is_small: bool = False
    """Whether two of them are as high as one of the others."""


@dataclasses.dataclass(frozen=True)
class Miss:
    """A video whose prediction and label lie far apart."""

    row: BenchmarkRow
    expected: float | None
    """The label that the logistic expects for the prediction; None without a fit."""


def logistic(x: np.ndarray, parameters: Logistic) -> np.ndarray:
    """`b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))`, as `metrics.fit_logistic` has it."""
    b1, b2, b3, b4 = parameters
    return b2 + (b1 - b2) * special.expit((x - b3) / max(abs(b4), 1e-12))


def scored_rows(outcome: BenchmarkOutcome) -> list[BenchmarkRow]:
    """The rows that statistics are over."""
    return [row for row in outcome.rows if row.prediction is not None]


def worst_misses(outcome: BenchmarkOutcome, count: int) -> list[Miss]:
    """The videos that lie farthest from the fitted curve, worst first.

    Without a fit, those whose places in the order of predictions and of labels differ most.
    """
    rows = scored_rows(outcome)
    if not rows:
        return []
    x, y = _pairs(rows)
    if outcome.agreement.logistic is None:
        distance = np.abs(average_ranks(x) - average_ranks(y))
        expected: list[float | None] = [None] * len(rows)
    else:
        fitted = logistic(x, outcome.agreement.logistic)
        distance, expected = np.abs(y - fitted), fitted.tolist()
    order = np.argsort(-distance, kind="stable")[:count]
    return [Miss(rows[place], expected[place]) for place in order.tolist()]


def figures(outcome: BenchmarkOutcome, misses: list[Miss]) -> list[Figure]:
    """Scatter, residuals and both histograms; none where no video has a score."""
    rows = scored_rows(outcome)
    if not rows:
        return []
    x, y = _pairs(rows)
    kept = sample(len(rows))
    drawn = f"{MOST_POINTS:,} of {len(rows):,} points are drawn, chosen by chance; " * (
        len(kept) < len(rows)
    )
    found = [scatter(outcome, x, y, kept, misses, drawn)]
    if outcome.agreement.logistic is not None:
        found.append(residuals(outcome, x, y, kept, misses, drawn))
    inside = np.clip(x, 1.0, 5.0)
    outside = int((inside != x).sum())
    note = f"mean {decimals(float(x.mean()))}, standard deviation {decimals(float(x.std()))}"
    if outside:
        note += f"; {outside} outside 1 to 5 counted at the ends"
    bins = np.linspace(1, 5, 33 if len(x) >= 200 else 17)
    found.append(
        Figure(
            "The predictions",
            histogram(inside, "predicted score", f"Histogram of predictions: {note}", bins),
            f"{_upper(note)}.",
            is_small=True,
        )
    )
    note = f"mean {decimals(float(y.mean()))}, standard deviation {decimals(float(y.std()))}"
    found.append(
        Figure(
            "The labels",
            histogram(y, "label", f"Histogram of labels: {note}"),
            f"{_upper(note)}; of the videos with a prediction, in their own unit.",
            is_small=True,
        )
    )
    return found


def scatter(
    outcome: BenchmarkOutcome,
    x: Float64[np.ndarray, "N"],
    y: Float64[np.ndarray, "N"],
    kept: np.ndarray,
    misses: list[Miss],
    drawn: str,
) -> Figure:
    """Labels over predictions, with the fitted curve."""
    fit = outcome.agreement.logistic
    chart = Chart(fit_axis("predicted score", x, LEAST_SPAN), fit_axis("label", y))
    chart.dots(x, y, kept)
    legend = [("ramp", "how dense")]
    if fit is not None:
        along = np.linspace(x.min(), x.max(), CURVE_POINTS)
        chart.curve(along, logistic(along, fit))
        legend.append(("", "logistic fit"))
    if misses:
        chart.rings([m.row.prediction for m in misses], [m.row.label for m in misses])
        legend.append(("ring", "shown below"))
    srcc, plcc = outcome.agreement.srcc.value, outcome.agreement.plcc_fitted.value
    said = (
        f"Label against predicted score of {len(x)} videos of {outcome.name}: "
        f"SRCC {decimals(srcc, 3)}, PLCC after the logistic {decimals(plcc, 3)}"
    )
    note = f"{drawn}the colours count all." if drawn else f"{len(x):,} video{'s' * (len(x) != 1)}."
    return Figure("Predictions and labels", chart.svg(said), note, tuple(legend))


def residuals(
    outcome: BenchmarkOutcome,
    x: Float64[np.ndarray, "N"],
    y: Float64[np.ndarray, "N"],
    kept: np.ndarray,
    misses: list[Miss],
    drawn: str,
) -> Figure:
    """What the fitted curve leaves, over predictions."""
    left = y - logistic(x, outcome.agreement.logistic)
    chart = Chart(fit_axis("predicted score", x, LEAST_SPAN), fit_axis("label − fit", [*left, 0.0]))
    chart.dots(x, left, kept)
    chart.curve([chart.x.low, chart.x.high], [0.0, 0.0])
    places = [m.row.label - m.expected for m in misses if m.expected is not None]
    chart.rings([m.row.prediction for m in misses], places)
    rmse = outcome.agreement.rmse.value
    said = f"Residuals of {len(x)} videos of {outcome.name}: RMSE {decimals(rmse, 3)} label units"
    note = (
        f"RMSE {decimals(rmse, 3)} in label units; above the line the label is higher "
        "than the fit expects."
    )
    return Figure("Residuals", chart.svg(said), note)


def _pairs(
    rows: list[BenchmarkRow],
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    x = np.array([row.prediction for row in rows], np.float64)
    return x, np.array([row.label for row in rows], np.float64)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
