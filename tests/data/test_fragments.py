"""Mosaics of native pixels, against places worked out by hand."""

import numpy as np
import pytest

from vqathinker_jax.data.fragments import extra_slots, fragments


def numbered(height: int, width: int) -> np.ndarray:
    """A picture whose pixels say where they are: row, column, 7."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def test_fragments_are_centred_in_an_even_grid():
    # 2 x 2 cells of 6.5 x 9.5 pixels, fragments of 3. Rows: 3.25 - 1.5 = 1.75 -> 2 and
    # 9.75 - 1.5 = 8.25 -> 8. Columns: 4.75 - 1.5 = 3.25 -> 3 and 14.25 - 1.5 = 12.75 -> 13.
    mosaic = fragments(numbered(13, 19), 6, 3)
    assert mosaic.shape == (6, 6, 3) and mosaic.dtype == np.uint8
    assert mosaic[:, 0, 0].tolist() == [2, 3, 4, 8, 9, 10]
    assert mosaic[0, :, 1].tolist() == [3, 4, 5, 13, 14, 15]
    assert (mosaic[..., 0] == mosaic[:, :1, 0]).all() and (mosaic[..., 1] == mosaic[:1, :, 1]).all()
    assert (mosaic[..., 2] == 7).all()


def test_halves_are_rounded_down():
    # One cell: (8 - 3) / 2 = 2.5 -> 2, (10 - 3) / 2 = 3.5 -> 3.
    mosaic = fragments(numbered(8, 10), 3, 3)
    assert mosaic[:, 0, 0].tolist() == [2, 3, 4] and mosaic[0, :, 1].tolist() == [3, 4, 5]


def test_fragments_overlap_in_a_frame_smaller_than_the_mosaic_and_stay_inside():
    # 3 cells in 4 rows, fragments of 2: 2/3 - 1 = -1/3 -> 0, 2 - 1 = 1, 10/3 - 1 = 7/3 -> 2.
    mosaic = fragments(numbered(4, 6), 6, 2)
    assert mosaic[:, 0, 0].tolist() == [0, 1, 1, 2, 2, 3]
    assert mosaic[0, :, 1].tolist() == [0, 1, 2, 3, 4, 5]
    # 5 rows of cells in 4: -0.6 -> -1 is kept inside, and so is the last, 3.6 - 1 -> 3.
    assert fragments(numbered(4, 4), 10, 2)[:, 0, 0].tolist() == [0, 1, 0, 1, 1, 2, 2, 3, 2, 3]


def test_a_side_shorter_than_a_fragment_repeats_its_last_pixels():
    mosaic = fragments(numbered(3, 11), 10, 5)
    assert mosaic[:, 0, 0].tolist() == [0, 1, 2, 2, 2] * 2
    # 2.75 - 2.5 -> 0 and 8.25 - 2.5 -> 6.
    assert mosaic[0, :, 1].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert (fragments(numbered(1, 1), 6, 3) == [0, 0, 7]).all()


@pytest.mark.parametrize(("height", "width"), [(56, 56), (100, 84), (720, 1280), (31, 2000)])
def test_every_fragment_is_a_square_of_the_frame(height, width):
    frame = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    mosaic = fragments(frame, 84, 28)
    windows = np.lib.stride_tricks.sliding_window_view(frame, (28, 28), axis=(0, 1))
    for r in range(3):
        for c in range(3):
            cell = np.moveaxis(mosaic[28 * r : 28 * r + 28, 28 * c : 28 * c + 28], -1, 0)
            top = min(max(0, round((r + 0.5) * height / 3 - 14 - 1e-9)), height - 28)
            left = min(max(0, round((c + 0.5) * width / 3 - 14 - 1e-9)), width - 28)
            np.testing.assert_array_equal(cell, windows[top, left])


def test_a_frame_of_the_mosaic_s_own_size_is_shown_as_it_is():
    frame = numbered(12, 12)
    np.testing.assert_array_equal(fragments(frame, 12, 4), frame)


def test_details_are_spread_over_the_frames():
    assert extra_slots(12, 3).tolist() == [2, 6, 10]
    assert extra_slots(5, 2).tolist() == [1, 3]
    assert extra_slots(7, 7).tolist() == list(range(7))
    assert extra_slots(7, 1).tolist() == [3]
    assert extra_slots(7, 0).tolist() == []


@pytest.mark.parametrize(("size", "fragment"), [(7, 3), (0, 1), (4, 0)])
def test_fragments_that_do_not_fill_the_mosaic_are_refused(size, fragment):
    with pytest.raises(ValueError, match="do not fill a mosaic"):
        fragments(numbered(9, 9), size, fragment)
