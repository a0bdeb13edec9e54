"""Views of a clip: permutations of its pixels, all of them drawn, from seed and place alone."""

import dataclasses

import numpy as np

from vqathinker_jax.data.augment import (
    NUM_VIEWS,
    View,
    augment,
    draw_cells,
    draw_view,
    resample_cells,
)

FRAMES = np.random.default_rng(0).permutation(2 * 5 * 5 * 3).astype(np.uint8).reshape(2, 5, 5, 3)
"""Every value once, so that no two views are equal."""
PLAIN = View.of(0)


def test_number_zero_is_the_clip_as_it_is():
    np.testing.assert_array_equal(augment(FRAMES, PLAIN), FRAMES)


def test_all_views_differ_and_are_permutations_of_each_image():
    seen = set()
    for number in range(NUM_VIEWS):
        shown = augment(FRAMES, View.of(number))
        assert shown.shape == FRAMES.shape and shown.dtype == np.uint8
        assert shown.flags.c_contiguous
        for image, original in zip(shown, FRAMES, strict=True):
            np.testing.assert_array_equal(np.sort(image, None), np.sort(original, None))
        seen.add(shown.tobytes())
    assert len(seen) == NUM_VIEWS == 48


def test_all_images_get_the_same_view():
    for number in (7, 29, 47):
        both = augment(FRAMES, View.of(number))
        for i in range(2):
            np.testing.assert_array_equal(
                augment(FRAMES[i : i + 1], View.of(number)), both[i : i + 1]
            )


def test_each_part_of_a_view_does_what_it_says():
    def view(**changes):
        return augment(FRAMES, dataclasses.replace(PLAIN, **changes))[1]

    image = FRAMES[1]
    for y in range(5):
        for x in range(5):
            np.testing.assert_array_equal(view(is_mirrored=True)[y, x], image[y, 4 - x])
            np.testing.assert_array_equal(view(is_upside_down=True)[y, x], image[4 - y, x])
            np.testing.assert_array_equal(view(is_transposed=True)[y, x], image[x, y])
    np.testing.assert_array_equal(view(channels=(2, 0, 1))[..., 0], image[..., 2])
    np.testing.assert_array_equal(view(channels=(2, 0, 1))[..., 1], image[..., 0])
    turned = view(is_mirrored=True, is_transposed=True)
    np.testing.assert_array_equal(turned[1, 3], image[3, 4 - 1])


def test_slices_never_turn_time():
    rows, columns = FRAMES
    frame = FRAMES[:1][..., ::-1]
    images = np.concatenate([frame, FRAMES])

    def view(**changes):
        return augment(images, dataclasses.replace(PLAIN, **changes), num_slices=2)

    np.testing.assert_array_equal(view(), images)
    mirrored = view(is_mirrored=True)
    np.testing.assert_array_equal(mirrored[1], rows[::-1])
    np.testing.assert_array_equal(mirrored[2], columns)
    np.testing.assert_array_equal(mirrored[0], frame[0, :, ::-1])
    turned = view(is_upside_down=True, is_transposed=True)
    np.testing.assert_array_equal(turned[1], columns[::-1])
    np.testing.assert_array_equal(turned[2], rows)


def test_the_clip_itself_is_left_alone():
    before = FRAMES.copy()
    for number in range(NUM_VIEWS):
        augment(FRAMES, View.of(number))[:] = 0
    np.testing.assert_array_equal(FRAMES, before)


def test_draws_are_even_and_depend_on_seed_and_record_alone():
    views = [draw_view(5, record) for record in range(4800)]
    assert views == [draw_view(5, record) for record in range(4800)]
    counts = [views.count(View.of(number)) for number in range(NUM_VIEWS)]
    # 100 are expected of each, with a standard deviation of 10.
    assert min(counts) > 60 and max(counts) < 140
    others = [draw_view(6, record) for record in range(4800)]
    assert sum(view == other for view, other in zip(views, others, strict=True)) < 200


def test_draws_are_those_of_the_runs_before():
    """A resumed run must not see other clips than it would have, whatever was upgraded between."""
    assert [draw_view(5, record) for record in range(3)] == [View.of(n) for n in (5, 16, 33)]


def test_cells_are_drawn_with_replacement_from_seed_and_place_alone():
    draws = np.stack([draw_cells(3, record, 9) for record in range(400)])
    assert draws.min() == 0 and draws.max() == 8
    # Of 9 draws with replacement from 9, 9 (1 - (8/9)^9) = 5.88 differ on average.
    num_different = np.mean([len(set(draw)) for draw in draws.tolist()])
    assert 5.7 < num_different < 6.1
    np.testing.assert_array_equal(draw_cells(3, 7, 9), draws[7])
    assert (draw_cells(4, 7, 9) != draws[7]).any()


def test_resampled_mosaics_show_whole_cells_and_the_same_ones():
    mosaics = np.random.default_rng(1).integers(0, 256, (3, 6, 6, 3), np.uint8)
    cells = np.array([4, 4, 0, 1, 8, 2, 7, 3, 5])
    shown = resample_cells(mosaics, cells, 2)
    for number, cell in enumerate(cells):
        (row, column), (down, across) = divmod(number, 3), divmod(int(cell), 3)
        np.testing.assert_array_equal(
            shown[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2],
            mosaics[:, 2 * down : 2 * down + 2, 2 * across : 2 * across + 2],
        )
    np.testing.assert_array_equal(resample_cells(mosaics, np.arange(9), 2), mosaics)
