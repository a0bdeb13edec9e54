"""A real clip made worse in steps: how well does a model order the steps?"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from PIL import Image

from vqathinker_jax.data.clip import Limits, VideoError
from vqathinker_jax.data.color import RGBConverter
from vqathinker_jax.data.container import open_container
from vqathinker_jax.synthetic.distortions import DISTORTIONS, compression_strength_to_crf
from vqathinker_jax.synthetic.encoding import NEAR_LOSSLESS, write_video
from vqathinker_jax.synthetic.scenes import generator


@dataclasses.dataclass(frozen=True)
class Variant:
    """One step."""

    path: Path
    distortion: str
    level: int
    """From 1, the mildest."""
    strength: float
    """Nominal, 0 to 1 (`distortions.py`)."""
    done: str


def write_variants(
    source: os.PathLike | str,
    out_dir: os.PathLike | str,
    distortion: str,
    levels: int = 5,
    *,
    seed: int = 0,
    max_frames: int = 120,
    max_side: int = 960,
) -> list[Variant]:
    """Writes copies of a clip with one distortion at rising strengths.

    Strengths are (level - 1/2) / levels. Kind and place of the distortion (direction of a blur,
    start of a freeze) are the same at all levels. Compression is H.264; other copies are encoded
    near-losslessly.

    >>> write_variants("clip.mp4", "steps", "blur")[0].path.name  # doctest: +SKIP
    'clip-blur-1.mp4'

    Args:
      source: a clip.
      out_dir: folder to write to; made if absent.
      distortion: a name from `DISTORTIONS`.
      levels: how many copies.
      seed: another seed, another kind and place.
      max_frames: the clip's first frames, at most so many: all are held in memory.
      max_side: larger clips are reduced to this longer side, pixels.

    Returns:
      The variants, mildest first.

    Raises:
      ValueError: an unknown distortion, or no level.
      VideoError: the clip cannot be read.
      OSError: the folder cannot be written to.
    """
    if distortion not in DISTORTIONS:
        raise ValueError(f"distortion must be one of {', '.join(DISTORTIONS)}, got {distortion!r}")
    if levels < 1 or max_frames < 1:
        raise ValueError(f"levels and max_frames must be at least 1, got {levels}, {max_frames}")
    frames, fps = _read(os.fspath(source), max_frames, max_side)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stem = Path(source).stem
    written = []
    for level in range(1, levels + 1):
        strength = (level - 0.5) / levels
        path = folder / f"{stem}-{distortion.replace(' ', '_')}-{level}.mp4"
        if distortion == "compression":
            crf = compression_strength_to_crf("h264", strength)
            write_video(path, frames, fps, "h264", crf)
            done = f"h264 crf {crf:.0f}"
        else:
            rng = generator("variant", stem, distortion, seed)
            changed, done = DISTORTIONS[distortion].apply(frames, strength, rng)
            write_video(path, changed, fps, "h264", NEAR_LOSSLESS)
        written.append(Variant(path, distortion, level, strength, done))
    return written


def _read(path: str, max_frames: int, max_side: int) -> tuple[np.ndarray, float]:
    """The first frames, upright, reduced and with even sides: uint8 [F, H, W, 3]; and the rate."""
    convert, frames = RGBConverter(), []
    size = None
    with open_container(path, Limits()) as (container, stream):
        fps = float(stream.average_rate or 30)
        for decoded in container.decode(stream):
            frame = Image.fromarray(convert(decoded))
            if size is None:
                reduction = min(1.0, max_side / max(frame.size))
                size = tuple(max(2, round(side * reduction / 2) * 2) for side in frame.size)
            frames.append(np.asarray(frame.resize(size, Image.Resampling.BICUBIC)))
            if len(frames) == max_frames:
                break
    if not frames:
        raise VideoError.of(path, "no frame of it can be decoded")
    return np.stack(frames), fps
