"""Charts as SVG elements that take their colours from the page: one drawing for light and dark."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup, escape
from scipy import ndimage

from vqathinker_jax.data.clip import printable

WIDTH, HEIGHT = 340, 336
"""Units of a chart, pixels where it is shown at its own size: text is never small on a phone."""
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 40
MOST_POINTS = 2000
"""Points that are drawn one by one; of more, a sample is drawn."""
DENSITY_CELLS = 48
NUM_LEVELS = 5
CURVE_POINTS = 80
MOST_PLACES = 12
"""Decimals of a tick."""
LEAST_SHARE = 0.01
"""Of the values that an axis spans at least: ticks closer together would all read the same."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A range of numbers along one side of a chart."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def names(self) -> list[str]:
        """The ticks as they are written: all with as many decimals as the finest needs."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        places = next(n for n in range(MOST_PLACES + 1) if math.isclose(round(step, n), step))
        return [f"{tick:.{places}f}".replace("-", "−") for tick in self.ticks]


def fit_axis(label: str, values: Sequence[float] | np.ndarray, least: float = 0.0) -> Axis:
    """An axis with round ticks around all values.

    >>> fit_axis("score", [1.2, 4.6]).ticks
    (1.0, 2.0, 3.0, 4.0, 5.0)

    Args:
      label: what is along it.
      values: finite, at least one.
      least: the span is at least this.
    """
    low, high = float(np.min(values)), float(np.max(values))
    largest = max(abs(low), abs(high))
    missing = max(least, LEAST_SHARE * largest, LEAST_SHARE) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, MOST_PLACES) for i in range(first, last + 1))
    return Axis(label, ticks[0], ticks[-1], ticks)


class Chart:
    """Axes and what is drawn between them.

    Args:
      x, y: the axes.
      height: units; the width is `WIDTH`.
    """

    def __init__(self, x: Axis, y: Axis, height: int = HEIGHT, width: int = WIDTH):
        self.x, self.y, self.height, self.width = x, y, height, width
        self.parts: list[str] = []
        right, floor = width - RIGHT, height - BOTTOM
        for value, name in zip(y.ticks, y.names(), strict=True):
            at = units(self.at_y(value))
            self.parts.append(f'<path class="grid" d="M{LEFT} {at}H{right}"/>')
            self.parts.append(f'<text class="end" x="{LEFT - 6}" y="{at}" dy=".35em">{name}</text>')
        for value, name in zip(x.ticks, x.names(), strict=True):
            at = units(self.at_x(value))
            self.parts.append(f'<path class="grid" d="M{at} {floor}v4"/>')
            self.parts.append(f'<text class="mid" x="{at}" y="{floor + 17}">{name}</text>')
        middle = (LEFT + right) / 2
        self.parts.append(
            f'<text class="mid" x="{units(middle)}" y="{height - 7}">{escape(x.label)}</text>'
        )
        if y.label:
            self.parts.append(
                f'<text class="mid" transform="translate(11 {units((TOP + floor) / 2)}) '
                f'rotate(-90)">{escape(y.label)}</text>'
            )

    def at_x(self, value: float | np.ndarray) -> float | np.ndarray:
        """Units from the left."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def at_y(self, value: float | np.ndarray) -> float | np.ndarray:
        """Units from the top."""
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def dots(
        self, x: Float64[np.ndarray, "N"], y: Float64[np.ndarray, "N"], kept: np.ndarray
    ) -> None:
        """Points coloured by how densely the points lie around them; `kept` of them are drawn."""
        levels = density_levels(self.at_x(x), self.at_y(y), self.width, self.height)[kept]
        size = 6.0 if len(kept) <= 150 else 4.6 if len(kept) <= 700 else 3.4
        across, down = self.at_x(x)[kept], self.at_y(y)[kept]
        for level in range(1, NUM_LEVELS + 1):
            # A stroke of no length with round ends is a dot: a few bytes each.
            at = "".join(
                f"M{units(a)} {units(b)}h0"
                for a, b in zip(across[levels == level], down[levels == level], strict=True)
            )
            if at:
                self.parts.append(f'<path class="dots d{level}" stroke-width="{size}" d="{at}"/>')

    def rings(self, x: Sequence[float], y: Sequence[float]) -> None:
        """Circles around points that are spoken of elsewhere."""
        for one, other in zip(x, y, strict=True):
            at = f'cx="{units(self.at_x(one))}" cy="{units(self.at_y(other))}"'
            self.parts.append(f'<circle class="worst" {at} r="6.5"/>')

    def curve(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> None:
        """A line that is seen over the points; parts outside the axes are left out."""
        pairs = zip(np.asarray(x, float), np.asarray(y, float), strict=True)
        inside = [(a, b) for a, b in pairs if self.y.low <= b <= self.y.high]
        points = " ".join(f"{units(self.at_x(a))},{units(self.at_y(b))}" for a, b in inside)
        self.parts.append(f'<polyline class="halo" points="{points}"/>')
        self.parts.append(f'<polyline class="fit" points="{points}"/>')

    def bars(self, edges: np.ndarray, heights: np.ndarray) -> None:
        """A histogram."""
        floor = self.height - BOTTOM
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if height:
                a, b, top = self.at_x(left), self.at_x(right), self.at_y(height)
                self.parts.append(
                    f'<rect class="bar" x="{units(a + 0.7)}" y="{units(top)}" '
                    f'width="{units(b - a - 1.4)}" height="{units(floor - top)}" rx="1.5"/>'
                )

    def svg(self, label: str) -> Markup:
        """The element; `label` is what it says to those who cannot see it."""
        return Markup(
            f'<svg class="chart" role="img" aria-label="{escape(printable(label))}" '
            f'viewBox="0 0 {self.width} {self.height}">{"".join(self.parts)}</svg>'
        )


def density_levels(
    x: Float64[np.ndarray, "N"], y: Float64[np.ndarray, "N"], width: float, height: float
) -> np.ndarray:
    """From 1 (alone) to `NUM_LEVELS` (where most lie), int [N].

    Points are counted in square cells, the counts are smoothed, and each point has the share of its
    cell's count in the largest.

    Args:
      x, y: units from the left and the top.
      width, height: of the chart.
    """
    rows = max(1, round(DENSITY_CELLS * height / width))
    column = np.clip((x / width * DENSITY_CELLS).astype(int), 0, DENSITY_CELLS - 1)
    row = np.clip((y / height * rows).astype(int), 0, rows - 1)
    counts = np.zeros((rows, DENSITY_CELLS))
    np.add.at(counts, (row, column), 1.0)
    smooth = ndimage.gaussian_filter(counts, 1.3, mode="constant")[row, column]
    return 1 + np.minimum((smooth / smooth.max() * NUM_LEVELS).astype(int), NUM_LEVELS - 1)


def sample(num: int, most: int = MOST_POINTS) -> np.ndarray:
    """Which of `num` points are drawn: all, or `most` of them by chance, the same each time."""
    if num <= most:
        return np.arange(num)
    return np.sort(np.random.default_rng(0).choice(num, most, replace=False))


def histogram(
    values: Sequence[float] | np.ndarray, label: str, said: str, bins: np.ndarray | None = None
) -> Markup:
    """How often values occur.

    Args:
      values: finite, at least one.
      label: of the axis.
      said: the chart in words.
      bins: edges; None: chosen by the values.
    """
    values = np.asarray(values, np.float64)
    if bins is None:
        axis = fit_axis(label, values)
        finest = 24 if len(values) >= 200 else 12
        bins = np.linspace(axis.low, axis.high, finest + 1)
    else:
        axis = fit_axis(label, [bins[0], bins[-1]])
    counts, edges = np.histogram(values, bins)
    chart = Chart(axis, _counts_axis(counts), height=152)
    chart.bars(edges, counts)
    return chart.svg(said)


def _counts_axis(counts: np.ndarray) -> Axis:
    top = int(counts.max()) if counts.size else 1
    axis = fit_axis("videos", [0.0, float(max(top, 1))])
    whole = tuple(tick for tick in axis.ticks if tick == round(tick))
    return dataclasses.replace(axis, ticks=whole)


def units(value: float) -> str:
    """One decimal, without a needless zero."""
    return f"{value:.1f}".removesuffix(".0")
