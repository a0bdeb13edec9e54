"""The timelines of scored videos as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vqathinker_jax.data.clip import printable
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.timeline import clock, worst_moments

SUFFIXES = (".png", ".svg")
MOST_VIDEOS = 20
"""Panels in one picture."""
LINE, BAND, WORST, FAILED = "#1f5f8b", "#1f5f8b33", "#b3401f", "#88888833"
PANEL_INCHES = 2.4


class PlotError(ValueError):
    """A picture that cannot be drawn or written; one line for the user."""


def check_plot(path: str, num_videos: int) -> None:
    """Finds what is wrong with a wanted picture before anything is scored.

    Raises:
      PlotError: another suffix, a folder that does not exist, or too many videos.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PlotError(f"{path}: the plot must end in {' or '.join(SUFFIXES)}")
    if not Path(path).parent.is_dir():
        raise PlotError(f"{path}: there is no such folder")
    if num_videos > MOST_VIDEOS:
        raise PlotError(f"a plot shows at most {MOST_VIDEOS} videos, got {num_videos}")


def write_timeline_plot(results: Sequence[ScoreResult], path: str) -> int:
    """Draws a panel for every result that has a timeline; returns how many there are.

    A level line is a segment's score, with a band of one standard deviation where there is one;
    worst moments are red, segments without a score grey, and the dashed line is the score of the
    whole video. Nothing is written where no result has a timeline.

    Raises:
      PlotError: the file cannot be written.
    """
    shown = [result for result in results if result.timeline]
    if not shown:
        return 0
    figure = Figure(figsize=(9, 0.5 + PANEL_INCHES * len(shown)), layout="constrained")
    is_svg = Path(path).suffix.lower() == ".svg"
    (FigureCanvasSVG if is_svg else FigureCanvasAgg)(figure)
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, result in zip(panels, shown, strict=True):
        _draw(axes, result)
    panels[-1].set_xlabel("time (red: worst moments, grey: no score, dashed: the whole video)")
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise PlotError(f"{path}: cannot write: {error.strerror}") from None
    return len(shown)


def _draw(axes: Axes, result: ScoreResult) -> None:
    worst = worst_moments(result.timeline)
    scores = [one.score for one in result.timeline if one.score is not None]
    low, high = min([1.0, *scores]), max([5.0, *scores])
    for one in result.timeline:
        if one.score is None:
            axes.axvspan(one.start, one.end, color=FAILED, linewidth=0)
            continue
        color = WORST if one in worst else LINE
        axes.hlines(one.score, one.start, one.end, color=color, linewidth=2.5)
        if one.std is not None:
            band = (one.score - one.std, one.score + one.std)
            axes.fill_between([one.start, one.end], *band, color=BAND, linewidth=0)
    for one in worst:
        # Above a score in the lower half, below one in the upper: never outside the panel.
        place = (0, 5) if one.score < 3 else (0, -5)
        axes.annotate(
            f"{one.score:.2f}",
            ((one.start + one.end) / 2, one.score),
            xytext=place,
            textcoords="offset points",
            ha="center",
            va="bottom" if place[1] > 0 else "top",
            color=WORST,
            fontsize=8,
        )
    if result.score is not None:
        axes.axhline(result.score, color="#555555", linewidth=0.8, linestyle="--")
    axes.set_xlim(result.timeline[0].start, result.timeline[-1].end)
    axes.set_ylim(math.floor(low) - 0.1, math.ceil(high) + 0.1)
    axes.xaxis.set_major_locator(MaxNLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("score")
    label = "" if result.model_kind == "published" else f"  [model: {result.model_kind}]"
    # A dollar sign in a name would begin a formula.
    name = printable(Path(result.path).name).replace("$", r"\$")
    axes.set_title(f"{name}{label}", fontsize=10, loc="left")
    axes.grid(axis="y", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
