"""Photographs of one's own as content of synthetic clips."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.data.sources import IMAGE_SUFFIXES, expand_sources
from vqathinker_jax.synthetic.clips import SIZES, SynthesisError
from vqathinker_jax.synthetic.scenes import Scene, has_room, opened_photograph, split_of_tenth

NOT_STATED = "not stated"
THUMBNAIL = 24
"""Pixels a side, in which two pictures are compared."""
SAME_FROM = 0.97
"""Correlation of two thumbnails from which they show the same."""


def find_pictures(
    folder: os.PathLike | str, licence: str = NOT_STATED
) -> tuple[tuple[Scene, ...], list[str]]:
    """The pictures below a folder as scenes, each in one split.

    The split follows from a picture's bytes alone, so that a folder that grows moves none of them.
    Of pictures that show the same, in several sizes for example, the largest is used: two of them
    might come to lie in two splits. Crops of one picture are not told from other pictures.

    Args:
      folder: searched with what is below it, without hidden files.
      licence: of all of them, for the records of the clips.

    Returns:
      The scenes, and a line for each picture that is left out.

    Raises:
      SynthesisError: no such folder, or no picture in it that can be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SynthesisError(f"{folder}: is not a folder")
    read, left_out = [], []
    for file in expand_sources([folder]):
        if Path(file).suffix.lower() not in IMAGE_SUFFIXES:
            continue
        try:
            image = opened_photograph(file)
        except VideoError as error:
            left_out.append(str(error))
            continue
        if not any(has_room(image.height, image.width, *size) for size in SIZES):
            left_out.append(f"{file}: {image.width} x {image.height} pixels, too few for a clip")
            continue
        read.append((image.width * image.height, file, _thumbnail(image)))
    scenes, kept = [], []
    for _, file, thumbnail in sorted(read, key=lambda one: (-one[0], one[1])):
        same = [other for other, seen in kept if float((thumbnail * seen).sum()) >= SAME_FROM]
        if same:
            left_out.append(f"{file}: shows the same as {same[0]}")
            continue
        kept.append((file, thumbnail))
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        split = split_of_tenth(int(digest, 16) % 10)
        scenes.append(Scene(f"picture/{digest[:12]}", "photograph", split, licence, file))
    if not scenes:
        reason = f"; {left_out[0]}" if left_out else ""
        raise SynthesisError(f"{folder}: no picture in it can be used{reason}")
    return tuple(sorted(scenes, key=lambda scene: scene.id)), left_out


def _thumbnail(image: Image.Image) -> Float[np.ndarray, "T T"]:
    """Lightness without its mean, of norm 1."""
    small = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float64)
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)
