"""Slices through space and time."""

import numpy as np
import pytest

from vqathinker_jax.data.slices import lines, slice_moments


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 30, [[3, 4, 5], [13, 14, 15], [23, 24, 25]]),
        (7, 12, [[7, 8, 9], [8, 9, 10], [9, 10, 11]]),
        (4, 6, [[4, 5, 5], [4, 5, 5], [4, 5, 5]]),
        (0, 1, [[0, 0, 0]] * 3),
    ],
)
def test_stretches_are_consecutive_spread_evenly_and_inside_the_clip(start, end, wanted):
    assert slice_moments(start, end, 9, 3).tolist() == wanted


def test_lines_lie_on_the_diagonal_along_rows_and_columns():
    frame = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16, 1).repeat(3, axis=2)
    shown = lines(frame, 2, cells=2, fragment=4)
    assert shown.shape == (2, 2, 4, 3)
    # Quarters and three quarters: rows 3 and 9, columns 4 and 12.
    np.testing.assert_array_equal(shown[0, 0], frame[3, 2:6])
    np.testing.assert_array_equal(shown[0, 1], frame[9, 10:14])
    np.testing.assert_array_equal(shown[1, 0], frame[1:5, 4])
    np.testing.assert_array_equal(shown[1, 1], frame[7:11, 12])


def test_all_lines_of_several_pairs_differ():
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    shown = lines(frame, 6, cells=3, fragment=7)
    assert len({line.tobytes() for image in shown for line in image}) == 18


def test_short_sides_repeat_their_last_pixel():
    frame = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    shown = lines(frame, 2, cells=1, fragment=5)
    assert shown[0, 0, :, 0].tolist() == [3, 4, 5, 5, 5]
    assert shown[1, 0, :, 0].tolist() == [1, 4, 4, 4, 4]
