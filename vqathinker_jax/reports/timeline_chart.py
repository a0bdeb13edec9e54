"""The scores of a video over time as a chart."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from vqathinker_jax.reports.charts import BOTTOM, TOP, Chart, fit_axis, units
from vqathinker_jax.results import Segment
from vqathinker_jax.timeline import clock, worst_moments

WIDTH, HEIGHT = 420, 150


def timeline_chart(timeline: Sequence[Segment]) -> Markup:
    """Scores with their spread over time; the worst moments are marked, and gaps are shaded.

    Args:
      timeline: at least one segment, in order of time.
    """
    scores = [one.score for one in timeline if one.score is not None]
    seconds = fit_axis("seconds", [timeline[0].start, timeline[-1].end])
    chart = Chart(seconds, fit_axis("score", [1.0, 5.0, *scores]), height=HEIGHT, width=WIDTH)
    worst = worst_moments(timeline)
    for one in timeline:
        left, right = chart.at_x(one.start), chart.at_x(one.end)
        if one.score is None:
            chart.parts.append(
                f'<rect class="lost" x="{units(left)}" y="{TOP}" width="{units(right - left)}" '
                f'height="{HEIGHT - TOP - BOTTOM}"/>'
            )
            continue
        if one.std:
            low = max(one.score - one.std, chart.y.low)
            top = chart.at_y(min(one.score + one.std, chart.y.high))
            chart.parts.append(
                f'<rect class="band" x="{units(left)}" y="{units(top)}" '
                f'width="{units(right - left)}" height="{units(chart.at_y(low) - top)}"/>'
            )
        name = "low" if one in worst else "line"
        chart.parts.append(
            f'<path class="{name}" d="M{units(left)} {units(chart.at_y(one.score))}'
            f'H{units(right)}"/>'
        )
    return chart.svg(described(timeline))


def described(timeline: Sequence[Segment]) -> str:
    """The timeline in one sentence.

    >>> described([Segment(0.0, 4.0, 3.0), Segment(4.0, 8.0, 2.0)])
    'Score over 0:08 in 2 segments, from 2.00 to 3.00; lowest at 0:04–0:08 (2.00).'
    """
    scores = [one.score for one in timeline if one.score is not None]
    length = f"Score over {clock(timeline[-1].end)} in {len(timeline)} segments"
    if not scores:
        return f"{length}: none has a score."
    said = f"{length}, from {min(scores):.2f} to {max(scores):.2f}"
    return f"{said}; lowest at {moments(timeline)}." if moments(timeline) else f"{said}."


def moments(timeline: Sequence[Segment]) -> str:
    """The worst moments by name, worst first."""
    return ", ".join(
        f"{clock(one.start)}–{clock(one.end)} ({one.score:.2f})" for one in worst_moments(timeline)
    )
