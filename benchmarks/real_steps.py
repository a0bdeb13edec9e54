"""Real clips made worse in steps, written once, and how well scores follow the steps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.data.sources import IMAGE_SUFFIXES, expand_sources
from vqathinker_jax.metrics import mean_srcc_within
from vqathinker_jax.synthetic.variants import write_variants

SEED = 0
"""Of the kind and place of every distortion."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One copy of a real clip."""

    clip: str
    """The real clip."""
    distortion: str
    level: int
    """From 1, the mildest."""
    path: str
    """The copy."""


@dataclasses.dataclass(frozen=True)
class Order:
    """How scores follow the steps of one distortion."""

    distortion: str
    within_clip_srcc: float
    """Mean over clips of the SRCC between level and negative score; 0 for a clip whose scores are
    all equal or not all there."""
    num_clips: int
    num_unordered: int
    """Clips that count as 0 for this reason."""
    mean_scores: tuple[float | None, ...]
    """By level, over the copies with a score; None without any."""


def write_steps(
    source: str, work: Path, distortions: Sequence[str], levels: int, limit: int | None = None
) -> tuple[list[Step], list[str]]:
    """Copies of all clips below a folder; those of an earlier call are used again.

    Args:
      source: the clips: a folder or a single file.
      work: folder for the copies.
      distortions: names from `synthetic.distortions.DISTORTIONS`.
      levels: copies of a clip for each distortion.
      limit: only the first clips.

    Returns:
      The steps, clip after clip, and one line for every clip that cannot be read.
    """
    clips = [
        path for path in expand_sources([source]) if Path(path).suffix.lower() not in IMAGE_SUFFIXES
    ][:limit]
    steps, unreadable = [], []
    for number, clip in enumerate(clips, start=1):
        print(f"copies of real clip {number}/{len(clips)}", end="\r", file=sys.stderr)
        try:
            steps += [
                step
                for distortion in distortions
                for step in _steps_of(clip, work, distortion, levels)
            ]
        except VideoError as error:
            unreadable.append(str(error))
    print(file=sys.stderr)
    return steps, unreadable


def _steps_of(clip: str, work: Path, distortion: str, levels: int) -> list[Step]:
    facts = os.stat(clip)
    identity = [os.path.abspath(clip), facts.st_size, facts.st_mtime_ns, distortion, levels, SEED]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    folder = work / "steps" / f"{Path(clip).stem}-{distortion.replace(' ', '_')}-{digest}"
    finished = folder / "finished.json"
    # Written last, so that copies of a run that was stopped are made anew.
    if not finished.is_file():
        variants = write_variants(clip, folder, distortion, levels, seed=SEED)
        listed = [{"level": one.level, "file": one.path.name} for one in variants]
        finished.write_text(json.dumps(listed), encoding="utf-8")
    return [
        Step(clip, distortion, one["level"], str(folder / one["file"]))
        for one in json.loads(finished.read_text(encoding="utf-8"))
    ]


def orders(steps: Sequence[Step], scores: Sequence[float | None]) -> list[Order]:
    """How scores follow the steps, for each distortion.

    Args:
      steps: of `write_steps`.
      scores: one a step; None where there is none.
    """
    scored = list(zip(steps, scores, strict=True))
    names = dict.fromkeys(step.distortion for step in steps)
    return [_order(name, [pair for pair in scored if pair[0].distortion == name]) for name in names]


def _order(distortion: str, scored: Sequence[tuple[Step, float | None]]) -> Order:
    by_clip: dict[str, list[float | None]] = {}
    by_level: dict[int, list[float]] = {}
    for step, score in scored:
        by_clip.setdefault(step.clip, []).append(score)
        by_level.setdefault(step.level, [])
        if score is not None:
            by_level[step.level].append(score)
    unordered = {
        clip for clip, values in by_clip.items() if None in values or len(set(values)) == 1
    }
    # A constant stands for scores that say nothing about the order; it counts as 0.
    negative = [0.0 if step.clip in unordered else -score for step, score in scored]
    levels = [step.level for step, _ in scored]
    return Order(
        distortion=distortion,
        within_clip_srcc=mean_srcc_within(negative, levels, [step.clip for step, _ in scored]),
        num_clips=len(by_clip),
        num_unordered=len(unordered),
        mean_scores=tuple(
            sum(values) / len(values) if values else None for _, values in sorted(by_level.items())
        ),
    )
