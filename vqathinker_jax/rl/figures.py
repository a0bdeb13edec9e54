"""The curves of a report as SVG that takes its colours from the page."""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vqathinker_jax.rl.curves import Curve, Panel
from vqathinker_jax.rl.recorded_run import Rows

INK, GRID = "#010203", "#010204"
SERIES = ("#010205", "#010206", "#010207", "#010208", "#010209", "#01020a", "#01020b")
"""Stand-ins that become variables of the page's style sheet: light and dark need no two figures."""
VARIABLES = {INK: "--muted", GRID: "--line"} | {c: f"--s{i + 1}" for i, c in enumerate(SERIES)}

WIDTH, HEIGHT = 4.1, 2.25
"""Inches; the page scales them, and 8 pt read well where three stand side by side."""
FEW_POINTS = 40
"""Up to so many rows every one is marked."""
MOST_BARS = 60
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vqathinker",
    "font.family": "sans-serif",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A panel of one run, ready for the page."""

    title: str
    note: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    """(variable of the colour, label), where a panel has several lines."""
    values: str
    """The first, last and extreme values in words."""


def draw_panels(panels: tuple[Panel, ...], rows: Rows, prefix: str) -> list[Drawn]:
    """Those of the panels that there is something to show for.

    Args:
      panels: what could be shown.
      rows: the log.
      prefix: of the ids in the figures; another one for every call.
    """
    drawn = []
    for number, panel in enumerate(panels):
        curves = [curve for curve in panel.curves if rows.has(curve.name)]
        if not curves:
            continue
        figure, axes = _figure()
        for curve, color in zip(curves, SERIES, strict=False):
            _draw(axes, curve, rows, color, panel.is_exact)
        low, high = panel.limits
        if low is not None or high is not None:
            axes.set_ylim(bottom=low, top=high)
        legend = tuple(
            (VARIABLES[color], curve.label)
            for curve, color in zip(curves, SERIES, strict=False)
        )  # fmt: skip
        drawn.append(
            Drawn(
                panel.title,
                panel.note,
                _svg(figure, f"{prefix}-{number}", panel.title),
                legend if len(legend) > 1 else (),
                describe(rows.values(curves[0].name)),
            )
        )
    return drawn


def draw_phases(rows: Rows, prefix: str) -> Drawn | None:
    """Where the time of a step goes: seconds per phase, stacked; None where none are known."""
    phases = {key: None for row in rows.rows for key in _seconds(row) if key != "step"}
    seconds = {name: np.nan_to_num(rows.values(f"seconds.{name}")) for name in phases}
    total = rows.values("seconds.step")
    if not np.isfinite(total).any():
        return None
    rest = np.maximum(np.nan_to_num(total) - sum(seconds.values()), 0)
    names = sorted(seconds, key=lambda name: -seconds[name].sum())
    colors = SERIES[: len(SERIES) - 1]
    for name in names[len(colors) :]:
        rest += seconds.pop(name)
    shown = [*names[: len(colors)], "other"]
    seconds["other"] = rest

    edges = np.linspace(0, len(total), min(len(total), MOST_BARS) + 1).round().astype(int)
    places = [slice(a, b) for a, b in itertools.pairwise(edges)]
    left = np.array([rows.steps[place][0] for place in places])
    width = np.array([rows.steps[place][-1] for place in places]) - left + 1
    figure, axes = _figure()
    bottom = np.zeros(len(places))
    for name, color in zip(shown, [*colors[: len(shown) - 1], SERIES[-1]], strict=True):
        height = np.array([seconds[name][place].mean() for place in places])
        axes.bar(left - 0.5, height, width * 0.9, bottom, align="edge", color=color)
        bottom += height
    # The first step compiles: it would leave the others no room.
    usual = np.nanmax(bottom[1:]) if len(bottom) > 1 else bottom[0]
    note = "Means where bars stand for several steps."
    if bottom[0] > 1.5 * usual > 0:
        axes.set_ylim(0, 1.15 * usual)
        note = f"The first bar, which compiles, goes on to {bottom[0]:.3g} s."
    legend = tuple(
        (VARIABLES[color], name)
        for name, color in zip(shown, [*colors[: len(shown) - 1], SERIES[-1]], strict=True)
    )
    svg = _svg(figure, f"{prefix}-phases", "Seconds per step")
    return Drawn("Seconds per step", note, svg, legend, describe(total))


def _seconds(row: Mapping[str, Any]) -> dict[str, float]:
    seconds = row.get("seconds")
    return seconds if isinstance(seconds, dict) else {}


def _draw(axes: Axes, curve: Curve, rows: Rows, color: str, is_exact: bool) -> None:
    steps, values = rows.steps, rows.values(curve.name)
    window = 1 if is_exact else max(1, len(values) // 12) | 1
    mean = moving_mean(values, window)
    if curve.spread is not None and rows.has(curve.spread):
        spread = moving_mean(rows.values(curve.spread), window)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.16, lw=0)
    is_marked = len(values) <= FEW_POINTS
    if window == 1:
        axes.plot(steps, values, color=color, lw=1.6, marker="o" if is_marked else "", ms=3)
        return
    axes.plot(
        steps, values, color=color, lw=0.6, alpha=0.45, marker="o" if is_marked else "", ms=1.6
    )
    axes.plot(steps, mean, color=color, lw=1.8)


def describe(values: np.ndarray) -> str:
    """The first, the last and the extreme values.

    >>> describe(np.array([1.0, 4.0, 2.5]))
    '1 → 2.5 (from 1 to 4)'
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    if values.size == 1:
        return f"{values[0]:.4g}"
    low, high = values.min(), values.max()
    if low == high:
        return f"always {low:.4g}"
    return f"{values[0]:.4g} → {values[-1]:.4g} (from {low:.4g} to {high:.4g})"


def _figure() -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        FigureCanvasSVG(figure)
        # Room for labels of six characters; a layout engine would take half of the time.
        figure.subplots_adjust(left=0.13, right=0.985, bottom=0.12, top=0.92)
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
    return figure, axes


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element of the page, without what belongs to a file of its own."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    # Its style sheet would reach the whole page, which has the same rule for figures.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    size = f"0 0 {WIDTH * 72:g} {HEIGHT * 72:g}"
    return f'<svg role="img" aria-label="{html.escape(label)}" viewBox="{size}">{body}'


def moving_mean(values: Sequence[float], window: int) -> Float64[np.ndarray, "R"]:
    """The mean of what is a number among the `window` values around each; NaN where none is.

    >>> moving_mean([1.0, float("nan"), 5.0], 3).tolist()
    [1.0, 3.0, 5.0]

    Args:
      values: one per row.
      window: odd; at the ends the part of it that exists counts.
    """
    values = np.asarray(values, np.float64)
    there = np.isfinite(values)
    ones = np.ones(window)
    half = window // 2
    sums = np.convolve(np.where(there, values, 0), ones)[half : half + len(values)]
    counts = np.convolve(there.astype(np.float64), ones)[half : half + len(values)]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
