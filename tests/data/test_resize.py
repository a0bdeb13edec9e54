"""The resize equals Pillow 12's, restated here in numpy, whatever Pillow is installed."""

import numpy as np
import pytest

from vqathinker_jax.data.resize import resize_square

PRECISION_BITS = 32 - 8 - 2


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resample_rows(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased fixed-point bicubic along the first axis, rounded and clipped to uint8."""
    length = image.shape[0]
    scale = length / size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    rows = []
    for i in range(size):
        center = (i + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        last = min(length, int(center + support + 0.5))
        weights = cubic((np.arange(first, last) - center + 0.5) * (1.0 / stretch))
        weights *= 1.0 / weights.sum()
        fixed = np.trunc(weights * 2**PRECISION_BITS + np.where(weights < 0, -0.5, 0.5))
        total = np.tensordot(fixed.astype(np.int64), image[first:last].astype(np.int64), axes=1)
        rows.append(np.clip((total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS, 0, 255))
    return np.stack(rows).astype(np.uint8)


def resample(image: np.ndarray, size: int) -> np.ndarray:
    """Width first, then height, as Pillow up to 12 does for every shape."""
    columns = resample_rows(image.transpose(1, 0, 2), size).transpose(1, 0, 2)
    return resample_rows(columns, size)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (61, 107, 28),  # landscape, down
        (107, 61, 28),  # portrait, down: the order of the passes shows here
        (143, 31, 56),  # portrait, down in height and up in width
        (67, 67, 23),
        (11, 17, 37),  # up
        (31, 31, 31),  # untouched
        (1, 1, 14),
        (2, 401, 14),
    ],
)
def test_equals_the_restatement_bit_for_bit(height, width, size):
    frame = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    found = resize_square(frame, size)
    assert found.dtype == np.uint8 and found.shape == (size, size, 3)
    np.testing.assert_array_equal(found, resample(frame, size))


def test_the_order_of_the_passes_matters():
    frame = np.random.default_rng(5).integers(0, 256, (107, 61, 3), np.uint8)
    other = resample_rows(resample_rows(frame, 28).transpose(1, 0, 2), 28).transpose(1, 0, 2)
    assert (resize_square(frame, 28) != other).any()


def test_black_and_white_edges_are_clipped_not_wrapped():
    frame = np.zeros((40, 40, 3), np.uint8)
    frame[:, 20:] = 255
    found = resize_square(frame, 97)
    assert found.min() == 0 and found.max() == 255
    assert (found[:, :45] < 60).all() and (found[:, 52:] > 195).all()


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), "u1")],
)
def test_other_arrays_are_refused(frame):
    with pytest.raises(ValueError, match="uint8"):
        resize_square(frame, 7)
