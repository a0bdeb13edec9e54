"""Squashing a frame to a square, bit for bit as Pillow 10 to 12 do."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_square(frame: np.ndarray, size: int) -> np.ndarray:
    """Resizes a whole frame to a square with Pillow's antialiased bicubic filter.

    Width first, then height, each rounded and clipped to uint8. Pillow 13 chooses the order by the
    shape of the frame, which changes portrait frames (12.3 already does for strips as extreme as
    16 x 8000); two calls fix the order whatever the version.

    Args:
      frame: uint8 [H, W, 3].
      size: S, pixels.

    Returns:
      uint8 [S, S, 3].

    Source: the published `test/batch_infer.py`, `Image.resize` under Pillow 12.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame must be uint8 [H, W, 3], got {frame.dtype} {frame.shape}")
    image = Image.fromarray(frame)
    image = image.resize((size, image.height), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
