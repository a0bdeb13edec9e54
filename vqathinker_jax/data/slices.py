"""Space-time slices: what a line of pixels shows from frame to frame, as an image.

In a slice a smooth motion is a slanted stripe, a freeze a stretch of straight lines, a lost frame a
step, a shaking camera a zigzag and a shuffled clip a tear: what is wrong with time becomes texture,
which the vision tower sees as it sees blur or noise.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt8


def slice_moments(start: int, end: int, size: int, fragment: int) -> Int64[np.ndarray, "g f"]:
    """Which frames the columns of a slice show: g stretches of f consecutive frames.

    With g = size / fragment and n = end - start frames, stretch c is centred in part c of g equal
    parts: it begins at (2 c + 1) n / (2 g) - f / 2, rounded down and kept inside the clip. A clip
    shorter than a stretch repeats its last frame.

    Args:
      start, end: the frames of the clip that count, end not included.
      size: S, pixels a side of the image.
      fragment: f, frames of a stretch, and pixels of a line.

    >>> slice_moments(0, 30, 8, 4).tolist()
    [[5, 6, 7, 8], [20, 21, 22, 23]]
    """
    cells, length = size // fragment, end - start
    begins = ((2 * np.arange(cells) + 1) * length - cells * fragment) // (2 * cells)
    begins = np.clip(begins, 0, max(0, length - fragment))
    places = begins[:, None] + np.arange(fragment)
    return start + np.minimum(places, length - 1).astype(np.int64)


def lines(
    frame: UInt8[np.ndarray, "H W 3"], num_slices: int, cells: int, fragment: int
) -> UInt8[np.ndarray, "L g f 3"]:
    """The lines of one frame that each slice shows at that moment, one below the other.

    Even slices look along rows, odd ones along columns. Line r of slice j is centred at the same
    fraction (2 (r P + j // 2) + 1) / (2 g P) of the width and of the height, where P is the number
    of pairs of slices: the places lie on the diagonal and all differ. Pixels beyond a side shorter
    than a line repeat that side's last one.

    Args:
      frame: RGB of any size.
      num_slices: L, even.
      cells: g, lines of a slice.
      fragment: f, pixels of a line.
    """
    height, width, _ = frame.shape
    pairs = num_slices // 2
    shown = np.empty((num_slices, cells, fragment, 3), np.uint8)
    for pair in range(pairs):
        for r in range(cells):
            doubled = 2 * (r * pairs + pair) + 1
            y, x = (doubled * side // (2 * cells * pairs) for side in (height, width))
            shown[2 * pair, r] = frame[y, _along(x, width, fragment)]
            shown[2 * pair + 1, r] = frame[_along(y, height, fragment), x]
    return shown


def _along(middle: int, length: int, fragment: int) -> np.ndarray:
    start = min(max(middle - fragment // 2, 0), max(0, length - fragment))
    return np.minimum(start + np.arange(fragment), length - 1)
