"""A handful of clips from clean to badly damaged, of scenes that no model was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vqathinker_jax.synthetic import opinions
from vqathinker_jax.synthetic.clips import Applied, distort_and_encode
from vqathinker_jax.synthetic.encoding import missing_encoders
from vqathinker_jax.synthetic.scenes import Scene, catalogue, generator, of_split, render

FAMILIES = ("branches", "facade", "foliage", "landscape")
"""Kinds of scenes that the two of a demonstration are drawn from: a person sees what they show."""
MILD, STRONG = 0.3, 0.85
CLIPS_FOLDER = "clips"


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What is done to one clip."""

    title: str
    scene: int
    """Which of the two scenes it shows: 0 or 1."""
    planned: tuple[tuple[str, float], ...] = ()
    """Names and strengths of distortions in the order of application, compression last."""


HANDFUL = (
    Treatment("first scene, clean", 0),
    Treatment("mild blur", 0, (("blur", MILD),)),
    Treatment("strong blur", 0, (("blur", STRONG),)),
    Treatment("mild compression", 0, (("compression", MILD),)),
    Treatment("strong compression", 0, (("compression", STRONG),)),
    Treatment("strong freeze", 0, (("freeze", STRONG),)),
    Treatment("second scene, clean", 1),
    Treatment("mild noise", 1, (("noise", MILD),)),
    Treatment("strong noise", 1, (("noise", STRONG),)),
    Treatment("mild downscaling", 1, (("downscaling", MILD),)),
    Treatment("strong downscaling", 1, (("downscaling", STRONG),)),
    Treatment("blur, noise, compression", 1, (("blur", 0.5), ("noise", 0.5), ("compression", 0.7))),
)


@dataclasses.dataclass(frozen=True)
class HandfulConfig:
    """Which clips are made.

    Raises:
      ValueError: no treatment, or a seed below 0.
    """

    seed: int = 0
    """Decides scenes, views, and places and kinds of the distortions."""
    treatments: tuple[Treatment, ...] = HANDFUL
    height: int = 288
    width: int = 384
    """Pixels, even."""
    num_frames: int = 50
    fps: float = 25.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if not self.treatments:
            raise ValueError("treatments must not be empty")

    def file_names(self) -> tuple[str, ...]:
        """Of the clips, relative to the demonstration's folder."""
        return tuple(
            f"{CLIPS_FOLDER}/{number:02}-{treatment.title.replace(',', '').replace(' ', '-')}.mp4"
            for number, treatment in enumerate(self.treatments, start=1)
        )


@dataclasses.dataclass(frozen=True)
class DemoClip:
    """One clip that was made."""

    title: str
    file: str
    """Relative to the demonstration's folder."""
    scene: str
    distortions: tuple[Applied, ...]
    pseudo_score: float
    """Computed from what was done (`synthetic/opinions.py`); no person gave it."""

    @property
    def done(self) -> str:
        """What was done to it, in one line."""
        if not self.distortions:
            return "nothing"
        return "; ".join(f"{applied.name}: {applied.done}" for applied in self.distortions)


def choose_scenes(seed: int) -> tuple[Scene, Scene]:
    """Two scenes of different families from the test split, which no training reads."""
    rng = generator("demo scenes", seed)
    families = [FAMILIES[i] for i in rng.permutation(len(FAMILIES))[:2].tolist()]
    scenes = tuple(of_split(catalogue(with_photographs=False), "test"))
    first, second = ([scene for scene in scenes if scene.family == family] for family in families)
    return first[int(rng.integers(len(first)))], second[int(rng.integers(len(second)))]


def make_handful(
    config: HandfulConfig, folder: Path, progress: Callable[[int, int], None]
) -> tuple[DemoClip, ...]:
    """Makes the clips and writes their files; the same seed makes the same clips.

    Args:
      config: which.
      folder: of the demonstration; it exists.
      progress: called with the clips done and the clips in all.

    Raises:
      ValueError: an encoder is missing.
      OSError: the folder cannot be written to.
    """
    lacking = missing_encoders()
    if lacking:
        raise ValueError(f"this build of PyAV lacks the encoders {', '.join(lacking)}")
    scenes = choose_scenes(config.seed)
    views: dict[int, np.ndarray] = {}
    made = []
    names = config.file_names()
    (folder / CLIPS_FOLDER).mkdir(exist_ok=True)
    for number, (treatment, name) in enumerate(zip(config.treatments, names, strict=True), start=1):
        if treatment.scene not in views:
            # All clips of a scene show the same seconds of it, so that only the damage differs.
            views = {treatment.scene: _view(config, scenes[treatment.scene])}
        rng = generator("demo clip", config.seed, treatment.title)
        data, applied = distort_and_encode(
            views[treatment.scene], config.fps, list(treatment.planned), rng
        )
        (folder / name).write_bytes(data)
        score = opinions.pseudo_score((one.name, one.severity) for one in applied)
        made.append(
            DemoClip(
                title=treatment.title,
                file=name,
                scene=scenes[treatment.scene].id,
                distortions=tuple(applied),
                pseudo_score=round(score, 4),
            )
        )
        progress(number, len(names))
    return tuple(made)


def _view(config: HandfulConfig, scene: Scene) -> np.ndarray:
    rng = generator("demo view", config.seed, scene.id)
    return render(scene, config.num_frames, config.height, config.width, config.fps, rng)
