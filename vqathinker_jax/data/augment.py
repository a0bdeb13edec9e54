"""Random views of a clip in which its damage stays damage: mirrored, turned, colours exchanged.

The fragments of mosaics are drawn anew besides, so that what is shown is not learnt by heart."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int64, UInt8

CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))
NUM_VIEWS = 2 * 2 * 2 * len(CHANNEL_ORDERS)
"""Outcomes of a draw: the 8 symmetries of the square, each with 6 orders of the channels."""
AUGMENT_STREAM, CELLS_STREAM = 2, 3
"""Mixed into the seed, so that these draws differ from those of any other purpose."""


@dataclasses.dataclass(frozen=True)
class View:
    """How all images of a clip are shown.

    Every view is a permutation of a clip's pixels and channels: no value is interpolated, rounded
    or lost, so that noise, blur and blocks stay as strong as they are.
    """

    is_mirrored: bool
    """Left and right change places."""
    is_upside_down: bool
    """Top and bottom change places."""
    is_transposed: bool
    """Rows become columns, after the flips."""
    channels: tuple[int, int, int]
    """Output channel c shows input channel `channels[c]`."""

    @classmethod
    def of(cls, number: int) -> View:
        """The view of a number from 0 (the clip as it is) to `NUM_VIEWS - 1`."""
        symmetry, order = divmod(number, len(CHANNEL_ORDERS))
        return cls(
            is_mirrored=bool(symmetry & 1),
            is_upside_down=bool(symmetry & 2),
            is_transposed=bool(symmetry & 4),
            channels=CHANNEL_ORDERS[order],
        )


def draw_view(seed: int, record: int) -> View:
    """One of the `NUM_VIEWS` views, all equally likely, a function of the arguments alone.

    Args:
      seed: of the run.
      record: the place of a clip in the global order, counted on over the epochs.
    """
    # A seed sequence, unlike the methods of a generator, gives the same words in every release.
    words = np.random.SeedSequence((seed, AUGMENT_STREAM, record)).generate_state(1, np.uint64)
    return View.of(int(words[0]) % NUM_VIEWS)


def draw_cells(seed: int, record: int, num: int) -> Int64[np.ndarray, "num"]:
    """Which of a mosaic's `num` cells each cell shows: drawn with replacement.

    Args:
      seed, record: as for `draw_view`.
      num: cells of a mosaic.
    """
    words = np.random.SeedSequence((seed, CELLS_STREAM, record)).generate_state(num, np.uint64)
    return (words % num).astype(np.int64)


def resample_cells(
    mosaics: UInt8[np.ndarray, "M S S 3"], cells: Int64[np.ndarray, "num"], fragment: int
) -> UInt8[np.ndarray, "M S S 3"]:
    """Mosaics whose cell i shows what cell `cells[i]` showed, the same in all of them.

    Quality is in the texture of every fragment, what the clip is about in all of them together.

    Args:
      mosaics: of fragments, S / fragment of them a side.
      cells: a cell for every cell, row by row.
      fragment: pixels a side of one cell.

    >>> mosaic = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    >>> resample_cells(mosaic, np.array([3, 0, 1, 1]), 1)[0, :, :, 0].tolist()
    [[9, 0], [3, 3]]
    """
    num, side = mosaics.shape[:2]
    grid = side // fragment
    split = mosaics.reshape(num, grid, fragment, grid, fragment, 3).swapaxes(2, 3)
    chosen = split.reshape(num, grid * grid, fragment, fragment, 3)[:, cells]
    split = chosen.reshape(num, grid, grid, fragment, fragment, 3).swapaxes(2, 3)
    return split.reshape(mosaics.shape)


def augment(
    frames: UInt8[np.ndarray, "I S S 3"], view: View, num_slices: int = 0
) -> UInt8[np.ndarray, "I S S 3"]:
    """All images of a clip in one view.

    Time never turns: in slices, a mirrored clip turns the lines along rows around, one upside down
    those along columns, and a transposed clip exchanges the two kinds.

    Args:
      frames: the images; the last `num_slices` of them are slices through space and time.
      view: how to show them.
      num_slices: L, even.

    >>> frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    >>> augment(frames, View(True, False, False, (0, 1, 2)))[0, :, :, 0].tolist()
    [[3, 0], [9, 6]]
    """
    slices = frames[len(frames) - num_slices :]
    frames = frames[: len(frames) - num_slices]
    along_rows, along_columns = slices[0::2], slices[1::2]
    if view.is_mirrored:
        frames = frames[:, :, ::-1]
        along_rows = along_rows[:, ::-1]
    if view.is_upside_down:
        frames = frames[:, ::-1]
        along_columns = along_columns[:, ::-1]
    if view.is_transposed:
        frames = frames.swapaxes(1, 2)
        along_rows, along_columns = along_columns, along_rows
    pairs = np.stack([along_rows, along_columns], axis=1).reshape(slices.shape)
    return np.ascontiguousarray(np.concatenate([frames, pairs])[..., view.channels])
