"""One distorted clip: what it shows, what is done to it, its file and its label."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np

from vqathinker_jax.data.prompt import QUESTION
from vqathinker_jax.synthetic import opinions
from vqathinker_jax.synthetic.distortions import DISTORTIONS, compression_settings
from vqathinker_jax.synthetic.encoding import NEAR_LOSSLESS, read_video, write_video
from vqathinker_jax.synthetic.scenes import Scene, catalogue, fits, generator, of_split, render

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
PRISTINE_FROM = 4.85
"""Targets above get no distortion, and the label 5."""
LONGEST_SECONDS = 60
GOLDEN = 0.6180339887498949


class SynthesisError(ValueError):
    """Clips cannot be made; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What, beside its number, decides what a clip looks like."""

    seed: int = 0
    scenes_per_family: int = 20
    photograph_share: float = 0.25
    """Of the clips; 0 without scikit-image."""
    seconds: tuple[float, float] = (2.0, 3.0)
    """Shortest and longest clip."""
    largest_side: int = 960
    """Pixels; larger sizes of `SIZES` are not drawn."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SynthesisError(f"seed must be 0 or more, got {self.seed}")
        if not 0 <= self.photograph_share <= 1:
            raise SynthesisError(f"photograph_share must be 0 to 1, got {self.photograph_share}")
        if not 0.2 <= self.seconds[0] <= self.seconds[1] <= LONGEST_SECONDS:
            raise SynthesisError(
                f"seconds must be an interval within 0.2 to 60, got {self.seconds}"
            )
        if self.largest_side < 320:
            raise SynthesisError(f"largest_side must be at least 320, got {self.largest_side}")


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

    def label(self) -> dict:
        """The label line of this clip."""
        return {
            "id": self.id,
            "dataset_name": DATASET_NAME,
            "image": [self.path],
            "conversations": [
                {"from": "human", "value": QUESTION},
                {"from": "gpt", "value": self.score},
            ],
            "distortions": [dataclasses.asdict(applied) for applied in self.distortions],
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


def choose_scene(recipe: Recipe, index: int) -> Scene:
    """The scene of a clip: procedural ones in turn, photographs in their share."""
    split, rank = split_of(index), _rank(index)
    scenes = list(of_split(catalogue(recipe.scenes_per_family, recipe.photograph_share > 0), split))
    photographs = [scene for scene in scenes if scene.family == "photograph"]
    procedural = [scene for scene in scenes if scene.family != "photograph"]
    if photographs and generator("photograph?", recipe.seed, index).random() < (
        recipe.photograph_share
    ):
        return photographs[int(generator("which", recipe.seed, index).integers(len(photographs)))]
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
    names = list(DISTORTIONS)
    for _ in range(1000):
        num = 1 + int(rng.choice(len(NUM_DISTORTIONS), p=NUM_DISTORTIONS))
        chosen = [names[i] for i in sorted(rng.choice(len(names), num, replace=False).tolist())]
        if sum(DISTORTIONS[name].category == "temporal" for name in chosen) > 1:
            continue
        strengths = opinions.draw_strengths(target, chosen, rng)
        if strengths is not None:
            return list(zip(chosen, strengths, strict=True))
    raise AssertionError(f"no distortions give a score of {target}")


def make_clip(recipe: Recipe, index: int, folder: Path) -> ClipRecord:
    """Makes one clip and writes its file, whole or not at all."""
    scene = choose_scene(recipe, index)
    rng = generator("clip", recipe.seed, index)
    sizes = {size: share for size, share in SIZES.items() if max(size) <= recipe.largest_side}
    sizes = {size: share for size, share in sizes.items() if fits(scene, *size)}
    shares = np.array(list(sizes.values()))
    height, width = list(sizes)[int(rng.choice(len(sizes), p=shares / shares.sum()))]
    fps = FRAME_RATES[int(rng.integers(len(FRAME_RATES)))]
    num_frames = round(rng.uniform(*recipe.seconds) * fps)
    planned = choose_distortions(recipe, index)
    is_moving = any(DISTORTIONS[name].category == "temporal" for name, _ in planned)
    frames = render(scene, num_frames, height, width, fps, rng, is_moving)
    data, applied = distort_and_encode(frames, fps, planned, rng)
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
    """Applies distortions and encodes: near-losslessly, unless compression is one of them.

    Args:
      frames: uint8 [F, H, W, 3].
      planned: names and strengths in the order of application, compression last.

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
