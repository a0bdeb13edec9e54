"""Mosaics of native-resolution fragments of a frame, and which frames extras are made from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt8


def extra_slots(num_frames: int, num_extras: int) -> Int64[np.ndarray, "D"]:
    """Which of the F sampled frames each extra is made from: floor((j + 1/2) F / D).

    >>> extra_slots(6, 2).tolist()
    [1, 4]
    """
    middles = 2 * np.arange(num_extras, dtype=np.int64) + 1
    return middles * num_frames // (2 * max(1, num_extras))


def fragments(frame: UInt8[np.ndarray, "H W 3"], size: int, fragment: int) -> np.ndarray:
    """A mosaic of unscaled squares taken from all over a frame.

    With g = size / fragment cells a side, cell (r, c) shows the square of `fragment` pixels a side
    that is centred in cell (r, c) of the frame divided evenly into g x g cells: its top row is
    (2 r + 1) H / (2 g) - fragment / 2, rounded (halves down) and kept inside the frame, and its
    left column likewise. Pixels beyond a side shorter than a fragment repeat that side's last one.
    Positions depend on H and W alone, so the mosaics of a clip show the same places.

    Args:
      frame: RGB of any size.
      size: S, pixels a side of the mosaic, a multiple of `fragment`.
      fragment: pixels a side of one square.

    Returns:
      uint8 [S, S, 3], every pixel one of the frame's own.

    Raises:
      ValueError: the fragments do not fill the mosaic.

    Source: the grid mini-patch sampling of FAST-VQA (arXiv 2207.02595), with centred patches.
    """
    if fragment < 1 or size < 1 or size % fragment:
        raise ValueError(f"fragments of {fragment} pixels do not fill a mosaic of {size}")
    height, width, _ = frame.shape
    # A fragment's rows depend on r alone and its columns on c alone: one gather along each axis.
    rows = _places(height, size // fragment, fragment)
    columns = _places(width, size // fragment, fragment)
    return frame[rows[:, None], columns]


def _places(length: int, cells: int, fragment: int) -> np.ndarray:
    """Row (or column) of the frame behind each row of the mosaic: int64 [cells * fragment]."""
    doubled = (2 * np.arange(cells) + 1) * length - cells * fragment
    # doubled / (2 cells) rounded to the nearest integer, halves down.
    starts = np.clip(-((cells - doubled) // (2 * cells)), 0, max(0, length - fragment))
    places = starts[:, None] + np.arange(fragment)
    return np.minimum(places, length - 1).reshape(-1)
