"""One number, and how sure it is, from the scores of several sampled answers."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

TRIMMED_SHARE = 0.2
"""Share of the answers that a trimmed mean leaves out at either end, rounded down."""
INTERVAL_LEVEL = 0.9
"""Probability with which the predictive interval is meant to hold one more answer."""
LOWEST, HIGHEST = 1.0, 5.0
"""The scale that the model is asked for."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """What K answers to one video say together; all None where there is no number."""

    mean: float | None
    median: float | None
    trimmed_mean: float | None
    std: float | None
    """ddof 1; None for fewer than two numbers."""
    interval: tuple[float, float] | None
    """See `predictive_interval`; None for fewer than two numbers."""


def spread(numbers: Sequence[float]) -> Spread:
    """The statistics of the answers that hold a number, at any order of them.

    >>> spread([2.0, 3.0, 4.0]).mean
    3.0
    """
    if not numbers:
        return Spread(None, None, None, None, None)
    return Spread(
        mean=math.fsum(numbers) / len(numbers),
        median=float(statistics.median(numbers)),
        trimmed_mean=trimmed_mean(numbers),
        std=statistics.stdev(numbers) if len(numbers) > 1 else None,
        interval=predictive_interval(numbers),
    )


def trimmed_mean(numbers: Sequence[float], share: float = TRIMMED_SHARE) -> float:
    """The mean without the `floor(share K)` smallest and as many of the largest numbers.

    Of fewer than five numbers nothing is left out at the default share.

    >>> trimmed_mean([1.0, 3.0, 3.2, 3.4, 5.0])
    3.2
    """
    cut = math.floor(share * len(numbers))
    kept = sorted(numbers)[cut : len(numbers) - cut]
    return math.fsum(kept) / len(kept)


def predictive_interval(
    numbers: Sequence[float], level: float = INTERVAL_LEVEL
) -> tuple[float, float] | None:
    """Where one more answer of the same model to the same video is expected.

    Student's t interval `mean -+ t(level, K - 1) std sqrt(1 + 1 / K)`, clipped to 1-5; exact for
    normal answers. It tells how much the model varies, not how far it is from what people say: that
    takes a calibration on people's scores. None for fewer than two numbers.

    >>> predictive_interval([3.0, 3.0])
    (3.0, 3.0)
    """
    count = len(numbers)
    if count < 2:
        return None
    mean = math.fsum(numbers) / count
    quantile = float(stdtrit(count - 1, 0.5 + level / 2))
    half = quantile * statistics.stdev(numbers) * math.sqrt(1 + 1 / count)
    return _clipped(mean - half), _clipped(mean + half)


def is_outside(score: float | None) -> bool:
    """Whether an answer lies outside 1 to 5; it is kept all the same."""
    return score is not None and not LOWEST <= score <= HIGHEST


def _clipped(value: float) -> float:
    return min(max(value, LOWEST), HIGHEST)
