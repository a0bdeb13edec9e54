"""A monotone map from a model's scores to somebody's own opinion scores.

Two kinds, both kept as points joined by straight lines and level beyond the first and the last:

`isotonic`: the rising step function with the least squared error (pool adjacent violators), as the
    centres of its steps. It makes no assumption on the shape; with few videos it follows their
    noise.
`logistic`: `low + (high - low) / (1 + exp(-(score - centre) / width))` with `low <= high` and a
    positive width, by least squares: four numbers, for few videos.

Either keeps the order of the scores, up to ties, and takes opinion scores of any unit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqathinker_jax.whole_file import write_whole

if TYPE_CHECKING:
    # Left out of a start of the command line, which it would make longer by a quarter.
    from jaxtyping import Float

CALIBRATION_NAME = "calibration.json"
"""Lies in the model's folder, beside config.json."""
LEAST_VIDEOS = 20
"""With fewer, the error of the fitted map says nothing."""
NUM_FOLDS = 5
METHODS = ("isotonic", "logistic")
LOGISTIC_POINTS = 41
"""That a logistic map is kept as, between the lowest and the highest score."""


class CalibrationError(ValueError):
    """Scores that no map can be fitted to, or a file that holds none; one line for the user."""


@dataclasses.dataclass(frozen=True)
class FittedErrors:
    """How far scores are from opinion scores, in the opinion scores' unit."""

    before: float
    """Root mean square of score - opinion score, as the model gives scores."""
    after: float
    """The same for videos that the map was not fitted on, over `NUM_FOLDS` folds."""
    constant: float
    """The same for a guess of the mean opinion score of the others: what knows nothing reaches."""
    srcc: float
    """Rank correlation of scores and opinion scores; a map cannot raise it."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted map, where it comes from, and what it may be applied to."""

    scores: tuple[float, ...]
    """Rising knots, in the model's scale."""
    opinions: tuple[float, ...]
    """Their values, never falling, in the user's unit."""
    num_videos: int
    """That it was fitted on."""
    source: str
    """The label file."""
    settings: str
    """Digest of the model and the settings whose scores these are; no others are mapped."""
    errors: FittedErrors
    method: str
    """One of `METHODS`."""

    @property
    def is_useful(self) -> bool:
        """Whether it beats the plain scores and a guess of the mean, on videos it was not
        fitted on."""
        return self.errors.after < min(self.errors.before, self.errors.constant)

    def __call__(self, score: float) -> float:
        """The opinion score expected for a score."""
        return float(np.interp(score, self.scores, self.opinions))

    def describe(self) -> str:
        """What it is, in a few words."""
        return (
            f"{self.method}, fitted on {self.num_videos} videos of {self.source}, "
            f"cross-validated error {self.errors.after:.3g}"
        )

    def to_json(self) -> str:
        """Indented JSON that `calibration_from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def fit_calibration(
    scores: Sequence[float],
    opinions: Sequence[float],
    *,
    source: str,
    settings: str,
    method: str = "isotonic",
) -> Calibration:
    """Fits the map and tells its cross-validated error.

    Args:
      scores: of a model, one per video.
      opinions: of people, in any unit, in the same order.
      source: where the opinions come from.
      settings: digest of what the scores were made with.
      method: one of `METHODS`.

    Raises:
      CalibrationError: fewer than `LEAST_VIDEOS` pairs, scores or opinions that are all equal or
        not finite, or scores that do not rise with the opinions.
    """
    fit = {"isotonic": isotonic, "logistic": logistic}[method]
    x, y = np.asarray(scores, np.float64), np.asarray(opinions, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise CalibrationError(f"{x.size} scores for {y.size} opinion scores")
    if len(x) < LEAST_VIDEOS:
        raise CalibrationError(
            f"{len(x)} videos have both a score and an opinion score; a calibration takes at least "
            f"{LEAST_VIDEOS}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise CalibrationError("a score or an opinion score is not a finite number")
    for values, name in ((x, "scores of the model"), (y, "opinion scores")):
        if np.ptp(values) == 0:
            raise CalibrationError(
                f"all {name} are {values[0]:g}: there is nothing to fit a map to"
            )
    knots, values = fit(x, y)
    if np.ptp(values) <= 1e-6 * np.ptp(y):
        raise CalibrationError(
            f"the scores do not rise with the opinion scores (rank correlation {_srcc(x, y):.2f}): "
            "no rising map helps"
        )
    return Calibration(
        scores=tuple(knots.tolist()),
        opinions=tuple(values.tolist()),
        num_videos=len(x),
        source=source,
        settings=settings,
        errors=_errors(x, y, fit),
        method=method,
    )


def isotonic(
    x: Float[np.ndarray, "V"], y: Float[np.ndarray, "V"]
) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """The steps of the isotonic regression of y on x, by pooling adjacent violators.

    Returns:
      The mean x of every step, rising, and its level: the mean y, rising too.

    >>> isotonic(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 3.0]))
    (array([1. , 2.5]), array([1., 4.]))
    """
    order = np.argsort(x, kind="stable")
    blocks: list[list[float]] = []  # sum of x, sum of y, count
    places, starts = np.unique(x[order], return_index=True)
    for group, place in zip(np.split(y[order], starts[1:]), places, strict=True):
        blocks.append([place * len(group), float(group.sum()), len(group)])
        while len(blocks) > 1 and _level(blocks[-2]) >= _level(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    table = np.array(blocks)
    return table[:, 0] / table[:, 2], table[:, 1] / table[:, 2]


def _level(block: list[float]) -> float:
    return block[1] / block[2]


def logistic(
    x: Float[np.ndarray, "V"], y: Float[np.ndarray, "V"]
) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """Points of the rising logistic with the least squared error, from the lowest to the highest x.

    The width is at least a quarter of the scores' standard deviation and at most 20 of them, where
    the curve is a line.
    """
    from scipy.optimize import least_squares

    centre, width = float(np.median(x)), max(float(np.std(x)), 1e-3)
    unit = float(np.ptp(y)) or 1.0

    def curve(p: np.ndarray, at: np.ndarray) -> np.ndarray:
        low, rise, middle, spread = p
        # tanh instead of exp: it cannot overflow.
        return low + rise * (1 + np.tanh((at - middle) / (2 * spread))) / 2

    start = [float(y.min()), unit, centre, width]
    # A width far below the scores' spread is a step, which a few videos suggest too easily.
    bounds = (
        [y.min() - 5 * unit, 0.0, x.min() - 5 * width, width / 4],
        [y.max(), 11 * unit, x.max() + 5 * width, 20 * width],
    )
    scale = [unit, unit, width, width]
    found = least_squares(lambda p: curve(p, x) - y, start, bounds=bounds, x_scale=scale)
    knots = np.linspace(x.min(), x.max(), LOGISTIC_POINTS)
    # Rounding may bend the flat ends of a steep curve down by a bit.
    return knots, np.maximum.accumulate(curve(found.x, knots))


Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From scores and opinion scores to the points of a map."""


def _errors(x: np.ndarray, y: np.ndarray, fit: Fit) -> FittedErrors:
    # Every fold spans the whole range of scores, and the same data give the same folds.
    folds = np.empty(len(x), int)
    folds[np.argsort(x, kind="stable")] = np.arange(len(x)) % NUM_FOLDS
    mapped, guessed = np.empty(len(x)), np.empty(len(x))
    for fold in range(NUM_FOLDS):
        is_test = folds == fold
        knots, values = fit(x[~is_test], y[~is_test])
        mapped[is_test] = np.interp(x[is_test], knots, values)
        guessed[is_test] = y[~is_test].mean()
    return FittedErrors(
        before=_rms(x - y), after=_rms(mapped - y), constant=_rms(guessed - y), srcc=_srcc(x, y)
    )


def _rms(difference: np.ndarray) -> float:
    return math.sqrt(float(np.mean(difference**2)))


def _srcc(x: np.ndarray, y: np.ndarray) -> float:
    # Imported late: the command line's help names constants of this module, and must not wait for
    # JAX.
    from vqathinker_jax.metrics import srcc

    return srcc(x, y)


# -- files -----------------------------------------------------------------------------------------


def read_calibration(path: str | os.PathLike) -> Calibration:
    """Reads a file that `write_calibration` wrote.

    Raises:
      CalibrationError: it cannot be read, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CalibrationError(f"{path}: cannot be read ({reason})") from None
    try:
        return calibration_from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise CalibrationError(f"{path}: is not a calibration ({error})") from None


def calibration_from_json(text: str) -> Calibration:
    """Reads what `Calibration.to_json` gave; ValueError, TypeError or KeyError on anything else."""
    data: dict[str, Any] = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("no JSON object")
    if data.get("method") not in METHODS:
        raise ValueError(f"method {data.get('method')!r} is not one of {', '.join(METHODS)}")
    data["errors"] = FittedErrors(**data["errors"])
    for name in ("scores", "opinions"):
        data[name] = tuple(float(value) for value in data[name])
    made = Calibration(**data)
    knots = np.array([made.scores, made.opinions])  # ValueError where their numbers differ
    if knots.shape[1] < 2 or not np.isfinite(knots).all():
        raise ValueError("its map has fewer than two points, or one that is not finite")
    if (np.diff(knots[0]) <= 0).any() or (np.diff(knots[1]) < 0).any():
        raise ValueError("its map does not rise")
    return made


def write_calibration(calibration: Calibration, path: str | os.PathLike) -> None:
    """Writes it in one step, over an older one.

    Raises:
      CalibrationError: the place cannot be written to.
    """
    try:
        write_whole(Path(path), calibration.to_json())
    except OSError as error:
        raise CalibrationError(f"{path}: cannot write: {error.strerror}") from None
