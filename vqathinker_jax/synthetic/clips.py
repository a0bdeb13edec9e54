"""One distorted clip: what it shows, what is done to it, its file and its label."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
from pathlib import Path

import numpy as np

from vqathinker_jax.data.prompt import QUESTION
from vqathinker_jax.synthetic import opinions
from vqathinker_jax.synthetic.distortions import DISTORTIONS, compression_settings
from vqathinker_jax.synthetic.encoding import NEAR_LOSSLESS, read_video, write_video
from vqathinker_jax.synthetic.scenes import (
    SCENES_PER_FAMILY,
    Scene,
    catalogue,
    fits,
    generator,
    of_split,
    render,
)

DATASET_NAME = "vqathinker-synthetic"
SIZES = {
    (240, 320): 0.2,
    (288, 384): 0.12,
    (240, 426): 0.17,
    (270, 480): 0.2,
    (426, 240): 0.06,
    (480, 270): 0.08,
    (360, 480): 0.07,
    (360, 640): 0.05,
    (640, 360): 0.02,
    (480, 854): 0.02,
    (540, 960): 0.01,
}
"""Height and width of clips with their shares."""
FRAME_RATES = (24.0, 25.0, 30000 / 1001, 30.0)
NUM_DISTORTIONS = (0.58, 0.31, 0.11)
"""Shares of clips with one, two and three distortions, among those that have any."""
NUM_AFTER = (0.4, 0.35, 0.25)
"""Of worn clips: shares with one, two and three distortions besides their compression."""
PRISTINE_FROM = 4.85
"""Targets above get no distortion, and the label 5."""
WORN_TO = 4.6
"""Targets above take too little from a clip to be more than one distortion."""
LONGEST_SECONDS = 60
GOLDEN = 0.6180339887498949


class SynthesisError(ValueError):
    """Clips cannot be made; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What, beside its number, decides what a clip looks like."""

    seed: int = 0
    scenes_per_family: int = SCENES_PER_FAMILY
    photograph_share: float = 0.15
    """Of the clips; 0 without scikit-image and `pictures`."""
    pictures: tuple[Scene, ...] = ()
    """Photographs besides the dozen of scikit-image (`pictures.py`)."""
    worn_share: float = 0.0
    """Of the clips with targets up to `WORN_TO`: those that are compressed and lose quality
    afterwards, as what people upload has been. Compression comes last in all others. A later blur
    then hides signs of an earlier compression, and must not look like the better for it."""
    seconds: tuple[float, float] = (2.0, 3.0)
    """Shortest and longest clip."""
    largest_side: int = 960
    """Pixels; larger sizes of `SIZES` are not drawn."""
    clips_per_view: int = 3
    """Clips of one split that follow each other and show the same view of the same scene, each with
    distortions of its own: what is shown then does not give away what is wrong with it."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SynthesisError(f"seed must be 0 or more, got {self.seed}")
        for name in ("photograph_share", "worn_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SynthesisError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not 0.2 <= self.seconds[0] <= self.seconds[1] <= LONGEST_SECONDS:
            raise SynthesisError(
                f"seconds must be an interval within 0.2 to 60, got {self.seconds}"
            )
        if self.clips_per_view < 1:
            raise SynthesisError(f"clips_per_view must be at least 1, got {self.clips_per_view}")
        if self.largest_side < 320:
            raise SynthesisError(f"largest_side must be at least 320, got {self.largest_side}")

    def scenes(self) -> tuple[Scene, ...]:
        """What clips may show."""
        return catalogue(self.scenes_per_family, self.photograph_share > 0, self.pictures)


@dataclasses.dataclass(frozen=True)
class Applied:
    """One distortion of one clip."""

    name: str
    severity: float
    """As seen, 0 to 1: what the score is made of."""
    strength: float
    """As set, 0 to 1."""
    done: str


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One finished clip."""

    index: int
    id: str
    split: str
    path: str
    """Relative to the data set's folder."""
    num_bytes: int
    score: float
    distortions: tuple[Applied, ...]
    scene: str
    licence: str
    width: int
    height: int
    fps: float
    num_frames: int

    def label(self, content: str) -> dict:
        """The label line of this clip; `content` names its view."""
        return {
            "id": self.id,
            "dataset_name": DATASET_NAME,
            "image": [self.path],
            "conversations": [
                {"from": "human", "value": QUESTION},
                {"from": "gpt", "value": self.score},
            ],
            "distortions": [dataclasses.asdict(applied) for applied in self.distortions],
            "content": content,
            "scene": self.scene,
            "licence": self.licence,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "num_frames": self.num_frames,
        }

    @classmethod
    def from_line(cls, line: str) -> ClipRecord:
        """The record of a line of the journal."""
        values = json.loads(line)
        values["distortions"] = tuple(Applied(**applied) for applied in values["distortions"])
        return cls(**values)


def split_of(index: int) -> str:
    """Of every ten clips, eight are for training, one for validation and one for testing."""
    return {1: "validation", 2: "test"}.get(index % 10, "train")


def _rank(index: int) -> int:
    """How many clips of the same split come before this one."""
    if split_of(index) != "train":
        return index // 10
    return index // 10 * 8 + max(0, index % 10 - 2)


def _index(split: str, rank: int) -> int:
    """The clip of a split that so many others come before."""
    if split != "train":
        return rank * 10 + (1 if split == "validation" else 2)
    block, place = divmod(rank, 8)
    return block * 10 + (place + 2 if place else 0)


def view_of(recipe: Recipe, index: int) -> tuple[str, int]:
    """Split and number of the view that a clip shows; clips with the same one show the same."""
    return split_of(index), _rank(index) // recipe.clips_per_view


def _clips_of(recipe: Recipe, view: tuple[str, int]) -> list[int]:
    """All clips that show a view."""
    split, number = view
    first = number * recipe.clips_per_view
    return [_index(split, rank) for rank in range(first, first + recipe.clips_per_view)]


def choose_scene(recipe: Recipe, view: tuple[str, int]) -> Scene:
    """The scene of a view: procedural ones in turn, photographs in their share."""
    split, rank = view
    scenes = list(of_split(recipe.scenes(), split))
    photographs = [scene for scene in scenes if scene.family == "photograph"]
    procedural = [scene for scene in scenes if scene.family != "photograph"]
    if photographs and generator("photograph?", recipe.seed, *view).random() < (
        recipe.photograph_share
    ):
        return photographs[int(generator("which", recipe.seed, *view).integers(len(photographs)))]
    # A new order every time that all have had their turn.
    order = generator("turn", recipe.seed, split, rank // len(procedural))
    return procedural[int(order.permutation(len(procedural))[rank % len(procedural)])]


def choose_distortions(recipe: Recipe, index: int) -> list[tuple[str, float]]:
    """Names and strengths for a clip, in the order of application."""
    rng = generator("distortions", recipe.seed, index)
    # Steps of the golden ratio cover 1 to 5 evenly, however few clips there are.
    start = generator("start", recipe.seed, split_of(index)).random()
    target = 1.05 + 3.95 * ((start + GOLDEN * _rank(index)) % 1.0)
    if target > PRISTINE_FROM:
        return []
    is_worn = target <= WORN_TO and (
        generator("worn", recipe.seed, index).random() < recipe.worn_share
    )
    names = [name for name in DISTORTIONS if not (is_worn and name == "compression")]
    shares = NUM_AFTER if is_worn else NUM_DISTORTIONS
    for _ in range(1000):
        num = 1 + int(rng.choice(len(shares), p=shares))
        chosen = [names[i] for i in sorted(rng.choice(len(names), num, replace=False).tolist())]
        if is_worn:
            chosen.insert(int(rng.integers(num)), "compression")
        if sum(DISTORTIONS[name].category == "temporal" for name in chosen) > 1:
            continue
        strengths = opinions.draw_strengths(target, chosen, rng)
        if strengths is not None:
            return list(zip(chosen, strengths, strict=True))
    raise AssertionError(f"no distortions give a score of {target}")


@dataclasses.dataclass(frozen=True)
class Pristine:
    """A clip before anything is done to it."""

    scene: Scene
    fps: float
    frames: np.ndarray
    """uint8 [F, H, W, 3], not writeable."""


@functools.lru_cache(maxsize=1)
def pristine(recipe: Recipe, view: tuple[str, int]) -> Pristine:
    """What the clips of a view show; the last one is kept for the next clip of the view."""
    scene = choose_scene(recipe, view)
    rng = generator("view", recipe.seed, *view)
    sizes = {size: share for size, share in SIZES.items() if max(size) <= recipe.largest_side}
    sizes = {size: share for size, share in sizes.items() if fits(scene, *size)}
    shares = np.array(list(sizes.values()))
    height, width = list(sizes)[int(rng.choice(len(sizes), p=shares / shares.sum()))]
    fps = FRAME_RATES[int(rng.integers(len(FRAME_RATES)))]
    num_frames = round(rng.uniform(*recipe.seconds) * fps)
    is_moving = any(
        DISTORTIONS[name].category == "temporal"
        for index in _clips_of(recipe, view)
        for name, _ in choose_distortions(recipe, index)
    )
    frames = render(scene, num_frames, height, width, fps, rng, is_moving)
    frames.flags.writeable = False
    return Pristine(scene, fps, frames)


def make_clip(recipe: Recipe, index: int, folder: Path) -> ClipRecord:
    """Makes one clip and writes its file, whole or not at all."""
    source = pristine(recipe, view_of(recipe, index))
    scene, fps = source.scene, source.fps
    num_frames, height, width, _ = source.frames.shape
    rng = generator("clip", recipe.seed, index)
    planned = choose_distortions(recipe, index)
    data, applied = distort_and_encode(source.frames, fps, planned, rng)
    name = f"synth-{recipe.seed}-{index:06d}"
    path = folder / "videos" / f"{name}.mp4"
    partial = path.with_name(f".{name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    score = opinions.pseudo_score((one.name, one.severity) for one in applied)
    return ClipRecord(
        index=index,
        id=name,
        split=scene.split,
        path=f"videos/{path.name}",
        num_bytes=len(data),
        score=round(score, 4),
        distortions=tuple(applied),
        scene=scene.id,
        licence=scene.licence,
        width=width,
        height=height,
        fps=fps,
        num_frames=num_frames,
    )


def distort_and_encode(
    frames: np.ndarray, fps: float, planned: list[tuple[str, float]], rng: np.random.Generator
) -> tuple[bytes, list[Applied]]:
    """Applies distortions and encodes: near-losslessly, unless the last one is compression.

    Args:
      frames: uint8 [F, H, W, 3].
      planned: names and strengths in the order of application.

    Returns:
      The MP4 file, and what was applied with the severity seen.
    """
    applied, data = [], None
    preset = "veryfast"
    for name, strength in planned:
        before = frames
        if name == "compression":
            # The encoding is the distortion, so the file holds it as it is.
            codec, crf = compression_settings(strength, rng)
            done = f"{codec} crf {crf:.0f}"
            data = _encode(frames, fps, codec, crf, preset)
            frames = np.stack(list(read_video(io.BytesIO(data))))
        else:
            frames, done = DISTORTIONS[name].apply(frames, strength, rng)
            data = None
            preset = "ultrafast" if name == "noise" else preset
        loss = opinions.damage(before, frames, opinions.frames_to_compare(name))
        severity = opinions.severity(name, strength, loss)
        applied.append(Applied(name, round(severity, 4), round(strength, 4), done))
    if data is None:
        data = _encode(frames, fps, "h264", NEAR_LOSSLESS, preset)
    return data, applied


def _encode(frames: np.ndarray, fps: float, codec: str, crf: float, preset: str) -> bytes:
    buffer = io.BytesIO()
    write_video(buffer, frames, fps, codec, crf, preset)
    return buffer.getvalue()
