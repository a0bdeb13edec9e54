"""Photographs of one's own as content of synthetic clips."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from vqathinker_jax.data.sources import IMAGE_SUFFIXES
from vqathinker_jax.synthetic.scenes import Scene, has_room, opened_photograph

THUMBNAIL = 24
"""Pixels a side, in which two pictures are compared."""
SAME_FROM = 0.97
"""Correlation of two thumbnails from which they show the same."""


def find_pictures(
    folder: os.PathLike | str, sizes: Iterable[tuple[int, int]], licence: str = "not stated"
) -> tuple[tuple[Scene, ...], list[str]]:
    """The pictures below a folder as scenes, each in one split.

    The split follows from a picture's bytes alone, so that a folder that grows moves none of them.
    Of pictures that show the same, in several sizes for example, the largest is used: two of them
    might come to lie in two splits. Crops of one picture are not told from other pictures.

    Args:
      folder: searched with what is below it, in the order of names.
      sizes: heights and widths of clips, one of which a picture must have room for.
      licence: of all of them, for the records of the clips.

    Returns:
      The scenes, and a line for each picture that is left out.

    Raises:
      ValueError: no such folder, or no picture in it that can be used.
    """
    folder, sizes = Path(folder), tuple(sizes)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    read, left_out = [], []
    for file in files:
        try:
            image = opened_photograph(str(file))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            left_out.append(f"{file}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        if not any(has_room(image.height, image.width, *size) for size in sizes):
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
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        split = {0: "validation", 1: "test"}.get(int(digest, 16) % 10, "train")
        scenes.append(Scene(f"picture/{digest[:12]}", "photograph", split, licence, str(file)))
    if not scenes:
        reason = f"; {left_out[0]}" if left_out else ""
        raise ValueError(f"{folder}: no picture in it can be used{reason}")
    return tuple(sorted(scenes, key=lambda scene: scene.id)), left_out


def _thumbnail(image: Image.Image) -> Float[np.ndarray, "T T"]:
    """Lightness without its mean, of norm 1."""
    small = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float64)
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)
