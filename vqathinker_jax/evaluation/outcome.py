"""What an evaluation found: the records that tables and reports are made from."""

from __future__ import annotations

import dataclasses
from typing import Any

from vqathinker_jax.results import ScoreResult


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval; all NaN where undefined."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How predictions agree with opinion scores."""

    num_scored: int
    """Videos with a prediction: what the statistics are over."""
    srcc: Estimate
    plcc: Estimate
    """Of the predictions as they are."""
    plcc_fitted: Estimate
    """After the 4-parameter logistic."""
    krcc: Estimate
    rmse: Estimate
    """After the logistic, in label units."""
    logistic: tuple[float, float, float, float] | None
    """Parameters of the logistic; None where no fit exists."""
    why_undefined: str | None
    """For instance "all predictions are equal"; None where everything is defined."""


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One labelled video."""

    id: str
    """As in the label file."""
    path: str
    """Full path."""
    label: float
    """In the label's own unit."""
    prediction: float | None
    """None: missing, failed or unparseable."""
    status: str
    """`ok`, `missing`, `error` or `no score`."""
    result: ScoreResult | None
    """None for predictions read from a file, and for missing files."""


@dataclasses.dataclass(frozen=True)
class BenchmarkOutcome:
    """One benchmark, judged."""

    name: str
    domain: str
    """`in-domain`, `ood` or `custom`."""
    num_labels: int
    num_missing: int
    """Label rows without a video file."""
    num_failed: int
    """Videos that could not be decoded or asked."""
    num_unparseable: int
    """Answers without a number."""
    num_out_of_range: int
    """Answers outside 1 to 5, kept and flagged."""
    rows: tuple[BenchmarkRow, ...]
    """One per label, in label order."""
    agreement: Agreement
    notes: tuple[str, ...] = ()
    """Differences from the published file, warnings."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything one evaluation found: what the tables and the report are made from."""

    model: str
    model_kind: str
    warning: str | None
    """What must be said before trusting a score."""
    settings: dict[str, Any]
    """Settings and versions."""
    outcomes: tuple[BenchmarkOutcome, ...]
