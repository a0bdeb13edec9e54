"""Masked reductions (jax, traceable) and agreement with human opinion (numpy, float64).

The correlations are computed on the host in float64 whatever the training precision is, so that a
reported number does not depend on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike
from scipy import optimize, special

LEAST_TO_FIT = 5
"""Videos: four parameters pass through four points whatever they are."""

Axis = int | tuple[int, ...] | None


# --- masked reductions -------------------------------------------------------------------------


def masked_mean(
    x: Float[Array, "..."], mask: Bool[Array, "..."], axis: Axis = None, keepdims: bool = False
) -> Float[Array, "..."]:
    """`a + sum(mask * (x - a)) / count`, with `a` an element of the group that the mask keeps.

    Equal values give exactly that value, which a plain mean does not. What stands where the mask
    is False (NaN and infinity included) has no influence.

    Args:
      x: values.
      mask: True = keep; same shape as `x`.
      axis: one axis, several, or all (None).
      keepdims: keep the reduced axes with size one.

    Returns:
      The means; 0 where nothing is kept.
    """
    mean = _masked_mean(x, mask, _axes(x, axis))
    return mean if keepdims else jnp.squeeze(mean, _axes(x, axis))


def masked_var(
    x: Float[Array, "..."],
    mask: Bool[Array, "..."],
    axis: Axis = None,
    ddof: int = 1,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """`sum(mask * (x - mean)^2) / (count - ddof)`; 0 where `count <= ddof`.

    Args and mask: as in `masked_mean`. Equal values give exactly 0.
    """
    return jnp.square(masked_std(x, mask, axis, ddof, keepdims))


def masked_std(
    x: Float[Array, "..."],
    mask: Bool[Array, "..."],
    axis: Axis = None,
    ddof: int = 1,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """Square root of `masked_var`, which no value below a sixteenth of the largest overflows."""
    axes = _axes(x, axis)
    deviation = jnp.where(mask, x - _masked_mean(x, mask, axes), 0)
    scale = jnp.max(jnp.abs(deviation), axes, keepdims=True, initial=0)
    deviation = deviation / jnp.where(scale > 0, scale, 1)
    freedom = mask.sum(axes, keepdims=True) - ddof
    total = jnp.square(deviation).sum(axes, keepdims=True)
    std = scale * jnp.sqrt(total / jnp.maximum(freedom, 1).astype(x.dtype))
    std = jnp.where(freedom > 0, std, 0)
    return std if keepdims else jnp.squeeze(std, axes)


def _axes(x: Array, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    axes = (axis,) if isinstance(axis, int) else axis
    return tuple(sorted(one % x.ndim for one in axes))


def _masked_mean(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    if mask.shape != x.shape or mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool {x.shape}, got {mask.dtype} {mask.shape}")
    x = jnp.where(mask, x, 0)
    anchor = _first_kept(x, mask, axes)
    count = jnp.maximum(mask.sum(axes, keepdims=True), 1).astype(x.dtype)
    return anchor + jnp.where(mask, (x - anchor) / count, 0).sum(axes, keepdims=True)


def _first_kept(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    """The first element that the mask keeps along the axes, with these axes of size one."""
    if 0 in (x.shape[axis] for axis in axes):
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return jnp.zeros(shape, x.dtype)
    for axis in reversed(axes):
        first = jnp.argmax(mask, axis, keepdims=True)
        x = jnp.take_along_axis(x, first, axis)
        mask = jnp.take_along_axis(mask, first, axis)
    return x


# --- agreement with human opinion --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well predictions agree with opinion scores; NaN where a value is undefined."""

    num_videos: int
    srcc: float
    plcc: float
    plcc_logistic: float
    """PLCC after the four-parameter logistic."""
    krcc: float
    rmse: float
    """In the unit of the opinion scores, predictions taken as they are."""
    rmse_logistic: float
    """RMSE after the four-parameter logistic."""


def agreement(predictions: ArrayLike, targets: ArrayLike) -> Agreement:
    """All metrics of one benchmark, from predictions and opinion scores of shape [N]."""
    x, y = _pair(predictions, targets)
    fitted = fit_logistic(x, y)
    return Agreement(
        num_videos=len(x),
        srcc=srcc(x, y),
        plcc=plcc(x, y),
        plcc_logistic=math.nan if fitted is None else plcc(fitted, y),
        krcc=krcc(x, y),
        rmse=rmse(x, y),
        rmse_logistic=math.nan if fitted is None else rmse(fitted, y),
    )


def plcc(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Pearson's linear correlation, `cov(x, y) / (std(x) std(y))`.

    Args:
      predictions, targets: [N].

    Returns:
      In [-1, 1]; NaN (undefined) when either side is constant or N < 2.

    Raises:
      ValueError: not two equally long vectors of finite numbers.

    >>> round(plcc([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]), 6)
    0.993399
    """
    x, y = _pair(predictions, targets)
    if _is_constant(x) or _is_constant(y):
        return math.nan
    x, y = _standard(x), _standard(y)
    return float(np.clip(np.dot(x, y), -1, 1))


def srcc(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Spearman's rank correlation: `plcc` of the ranks, ties sharing their average rank.

    Arguments, result and errors as `plcc`. Source: REWARDS.md 12.2-E9 (the paper's Eq. 13 holds
    only without ties).
    """
    x, y = _pair(predictions, targets)
    return plcc(average_ranks(x), average_ranks(y))


def mean_srcc_within(predictions: ArrayLike, targets: ArrayLike, groups: Sequence[str]) -> float:
    """The mean over groups of the SRCC inside each: how well the members of a group are ordered.

    A group whose predictions are all equal counts as 0, for it has not been ordered at all.

    Args:
      predictions, targets: [N].
      groups: [N], the name of the group of each.

    Returns:
      In [-1, 1]; NaN without any value.

    Raises:
      ValueError: as `plcc`, not one name a value, or a group whose targets have no order.

    >>> mean_srcc_within([1.0, 2.0, 5.0, 5.0], [1, 2, 1, 2], ["a", "a", "b", "b"])
    0.5
    """
    x, y = _pair(predictions, targets)
    names = np.asarray(groups)
    if names.shape != x.shape:
        raise ValueError(f"{len(names)} names of groups for {len(x)} values")
    within = []
    for name in np.unique(names):
        members = names == name
        if _is_constant(y[members]):
            raise ValueError(f"the targets of group {name} have no order")
        within.append(0.0 if _is_constant(x[members]) else srcc(x[members], y[members]))
    return math.fsum(within) / len(within) if within else math.nan


def krcc(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Kendall's tau-b, `(C - D) / sqrt((P - P_x) (P - P_y))`, in O(N log^2 N).

    C and D count concordant and discordant pairs, P all pairs, P_x and P_y the pairs tied in x
    and in y. Arguments, result and errors as `plcc`.
    """
    x, y = _pair(predictions, targets)
    if _is_constant(x) or _is_constant(y):
        return math.nan
    x, y = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    pairs = len(x) * (len(x) - 1) // 2
    tied_x, tied_y = _num_tied(x), _num_tied(y)
    tied_both = _num_tied(x * (y.max() + 1) + y)
    # Ordered by x, then y, a discordant pair is one whose y strictly falls.
    discordant = _num_inversions(y[np.lexsort((y, x))])
    concordant = pairs - tied_x - tied_y + tied_both - discordant
    scale = math.sqrt(pairs - tied_x) * math.sqrt(pairs - tied_y)
    return max(-1.0, min(1.0, (concordant - discordant) / scale))


def rmse(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Root mean squared error, `sqrt(mean((x - y)^2))`, in the unit of the targets.

    NaN without any video. Arguments and errors as `plcc`.
    """
    x, y = _pair(predictions, targets)
    return math.nan if len(x) == 0 else float(np.sqrt(np.mean(np.square(x - y))))


def fit_logistic(predictions: ArrayLike, targets: ArrayLike) -> np.ndarray | None:
    """Maps predictions to the targets' scale by the four-parameter logistic, least squares.

    Args:
      predictions, targets: [N].

    Returns:
      f(x), [N] float64; None when there is no fit, as in `logistic_parameters`.

    Raises:
      ValueError: as `plcc`.
    """
    parameters = logistic_parameters(predictions, targets)
    return None if parameters is None else logistic(predictions, parameters)


def logistic(x: ArrayLike, parameters: Sequence[float]) -> np.ndarray:
    """`f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))`, float64 [N].

    Args:
      x: [N].
      parameters: (b1, b2, b3, b4).
    """
    b1, b2, b3, b4 = parameters
    return b2 + (b1 - b2) * special.expit((np.asarray(x, np.float64) - b3) / abs(b4))


def logistic_parameters(
    predictions: ArrayLike, targets: ArrayLike
) -> tuple[float, float, float, float] | None:
    """Parameters (b1, b2, b3, b4) of the `logistic` from predictions to targets, least squares.

    Starts from `b1 = max(y)`, `b2 = min(y)`, `b3 = mean(x)`, `b4 = std(x) / 4`.

    Args:
      predictions, targets: [N].

    Returns:
      In the predictions' own unit, b4 positive; None when there is no fit: fewer than
      `LEAST_TO_FIT` videos, a constant side, or no convergence.

    Raises:
      ValueError: as `plcc`.
    """
    x, y = _pair(predictions, targets)
    if len(x) < LEAST_TO_FIT or _is_constant(x) or _is_constant(y):
        return None
    # Fitted on standardised predictions: the curve is the same, the solver's steps are not.
    mean, std = x.mean(), x.std()
    standard = (x - mean) / std

    def width(b4: float) -> float:
        return max(abs(b4), 1e-12)  # the floor keeps a step function finite

    def residuals(b: np.ndarray) -> np.ndarray:
        return logistic(standard, (*b[:3], width(b[3]))) - y

    start = (y.max(), y.min(), 0.0, 0.25)
    result = optimize.least_squares(residuals, start, method="lm", max_nfev=20_000)
    b1, b2, b3, b4 = map(float, result.x)
    parameters = (b1, b2, float(mean + std * b3), float(std * width(b4)))
    is_finite = np.isfinite(parameters).all() and np.isfinite(logistic(x, parameters)).all()
    return parameters if result.success and is_finite else None


def average_ranks(x: ArrayLike) -> np.ndarray:
    """Ranks from 1, equal values sharing the average of their ranks; float64 [N]."""
    _, inverse, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _pair(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(predictions, np.float64), np.asarray(targets, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"need two vectors of one length, got shapes {x.shape} and {y.shape}")
    for name, values in (("predictions", x), ("targets", y)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} hold {np.sum(~np.isfinite(values))} values that are not finite"
            )
    return x, y


def _is_constant(x: np.ndarray) -> bool:
    return len(x) < 2 or bool((x == x[0]).all())


def _standard(x: np.ndarray) -> np.ndarray:
    x = x - (x[0] + np.mean(x - x[0]))
    x = x / np.abs(x).max()
    return x / np.linalg.norm(x)


def _num_tied(labels: np.ndarray) -> int:
    counts = np.unique(labels, return_counts=True)[1].astype(object)
    return int(sum(counts * (counts - 1) // 2))


def _num_inversions(values: np.ndarray) -> int:
    """Pairs `s < t` with `values[s] > values[t]`, by merging runs of doubling width."""
    position = np.arange(len(values))
    count, width = 0, 1
    while width < len(values):
        run = position // (2 * width)
        order = np.lexsort((position, values, run))
        is_left = (position[order] // width) % 2 == 0
        # Left elements of the same run that stand after a right element are greater than it.
        after = np.cumsum(is_left[::-1])[::-1]
        next_run = np.minimum((run[order] + 1) * 2 * width, len(values))
        beyond = np.append(after, 0)[next_run]
        count += int((after - beyond)[~is_left].sum())
        width *= 2
    return count
