"""The segments of a long video, and its worst moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vqathinker_jax.data.clip import VideoFacts
from vqathinker_jax.results import Segment

LEAST_SHARE = 0.5
"""A last segment shorter than this share of the others joins the one before it."""
NUM_WORST = 3
"""Moments that are named."""
LEAST_FRAMES = 2
"""Of a segment: with fewer, one at the end might have none."""


def clip_seconds(facts: VideoFacts) -> float | None:
    """How long a video lasts by its frames: their number over their rate.

    What the container says of its duration is not used: it may be missing, or count sound that
    goes on without picture. None where the rate is unknown, and for a still image.
    """
    if facts.container == "image" or not (facts.fps > 0 and math.isfinite(facts.fps)):
        return None
    return facts.num_frames / facts.fps


def why_no_timeline(facts: VideoFacts, length: float) -> str | None:
    """What keeps a video from being cut into segments of `length` seconds; None: nothing does."""
    if facts.container == "image":
        return "a still image has no timeline"
    if clip_seconds(facts) is None:
        return "its frame rate is unknown, so it has no timeline"
    if length * facts.fps < LEAST_FRAMES:
        return (
            f"segments of {length:g} s would have fewer than {LEAST_FRAMES} frames, so it has no "
            "timeline"
        )
    return None


def segment_bounds(duration: float, length: float) -> list[tuple[float, float]]:
    """(start, end) in seconds of segments of `length`, that cover a video without gaps.

    A last one shorter than half of `length` is merged into the one before it.

    >>> segment_bounds(10.0, 4.0), segment_bounds(9.0, 4.0), segment_bounds(3.0, 4.0)
    ([(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)], [(0.0, 4.0), (4.0, 9.0)], [(0.0, 3.0)])

    Raises:
      ValueError: a duration or a length that is not positive.
    """
    if not (duration > 0 and length > 0):
        raise ValueError(f"duration {duration} and length {length} must be positive")
    count = max(1, math.floor(duration / length + 1 - LEAST_SHARE + 1e-9))
    starts = [number * length for number in range(count)]
    return list(zip(starts, [*starts[1:], duration], strict=True))


def worst_moments(timeline: Sequence[Segment], count: int = NUM_WORST) -> list[Segment]:
    """The segments with the lowest scores, worst first, those of equal score in order of time.

    At most half of those that have a score, and none that has the highest: of a few segments not
    all are worst, and where all are equal none is.
    """
    scored = [segment for segment in timeline if segment.score is not None]
    highest = max((segment.score for segment in scored), default=None)
    lower = [segment for segment in scored if segment.score < highest]
    return sorted(lower, key=lambda one: one.score)[: min(count, len(scored) // 2)]


def clock(seconds: float) -> str:
    """`0:07`, `12:30.5`, `1:02:03`: tenths only where there are any.

    >>> clock(7), clock(750.5), clock(3723)
    ('0:07', '12:30.5', '1:02:03')
    """
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"
