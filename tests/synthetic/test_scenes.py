"""Scenes: enough of them, in one split each, sharp, moving, the same every time."""

import collections

import numpy as np
import pytest
from PIL import Image

from vqathinker_jax.synthetic import scenes
from vqathinker_jax.synthetic.scenery import THINGS
from vqathinker_jax.synthetic.textures import MATERIALS, colourise, fractal_noise, hsv_to_rgb


def scene(scene_id):
    return next(one for one in scenes.catalogue() if one.id == scene_id)


def test_there_are_at_least_200_procedural_scenes_of_ten_families_with_licences():
    procedural = [one for one in scenes.catalogue() if one.family != "photograph"]
    assert len({one.id for one in procedural}) == len(procedural) >= 200
    assert len({one.family for one in procedural}) >= 10
    assert all(one.licence for one in scenes.catalogue())


def test_each_block_of_ten_has_eight_one_one():
    for family in scenes.FAMILIES:
        counts = collections.Counter(
            one.split for one in scenes.catalogue(30) if one.family == family
        )
        assert counts == {"train": 24, "validation": 3, "test": 3}


def test_a_scene_keeps_its_split_whatever_the_number_of_scenes():
    few = {one.id: one.split for one in scenes.catalogue(10)}
    many = {one.id: one.split for one in scenes.catalogue(30)}
    assert few.items() <= many.items()


def test_photographs_are_in_one_split_each_and_optional():
    assert {one.family for one in scenes.catalogue(10, with_photographs=False)} == set(
        scenes.FAMILIES
    )
    names = [photo.name for photo in scenes.PHOTOGRAPHS]
    files = [photo.file for photo in scenes.PHOTOGRAPHS]
    assert len(set(names)) == len(set(files)) == len(names)
    assert {photo.split for photo in scenes.PHOTOGRAPHS} == set(scenes.SPLITS)


def test_without_scikit_image_there_are_no_photographs(monkeypatch):
    monkeypatch.setattr(scenes.importlib.util, "find_spec", lambda name: None)
    assert scenes.photograph_folder() is None
    assert all(one.family != "photograph" for one in scenes.catalogue.__wrapped__(10))


def test_too_few_scenes_are_refused():
    with pytest.raises(ValueError, match=r"at least 10.*got 9"):
        scenes.catalogue(9)


@pytest.mark.parametrize("family", [*MATERIALS, *THINGS])
def test_pictures_are_varied_and_repeatable(family):
    make = scenes.FAMILIES[family]
    first, again, other = (make(np.random.default_rng(seed), 150, 214) for seed in (3, 3, 4))
    assert first.shape == (150, 214, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 3
    assert first.std() > 6


def test_all_scenes_differ_where_they_come_from_one_family():
    seen = {scenes.picture(scene(f"mosaic/{i:03d}")).resize((31, 23)).tobytes() for i in range(3)}
    assert len(seen) == 3


def test_render_is_repeatable_moving_and_of_the_size_asked_for():
    one = scene("shards/004")
    clips = [
        scenes.render(one, 11, 240, 320, 25.0, np.random.default_rng(seed)) for seed in (1, 1, 2)
    ]
    assert clips[0].shape == (11, 240, 320, 3) and clips[0].dtype == np.uint8
    np.testing.assert_array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])
    assert np.abs(clips[0][0].astype(int) - clips[0][-1]).mean() > 1


@pytest.mark.parametrize("seed", range(6))
def test_the_view_never_leaves_the_scene_nor_magnifies_it(seed):
    rng = np.random.default_rng(seed)
    seconds = np.arange(40) / 10
    view = scenes._path((500, 400), 270, 360, seconds, rng, True)
    assert view.zoom.min() >= 1
    if not view.roll.any():
        assert (view.x - view.zoom * 180).min() >= -1e-3
        assert (view.x + view.zoom * 180).max() <= 500.001
        assert (view.y + view.zoom * 135).max() <= 400.001


def test_a_view_larger_than_the_scene_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        scenes.render(scene("clouds/000"), 2, 1000, 1400, 25.0, np.random.default_rng(0))


def test_an_unknown_scene_is_refused():
    with pytest.raises(ValueError, match="no scene 'nothing/000'"):
        scenes.picture(scenes.Scene("nothing/000", "nothing", "train", ""))


def test_balanced_pictures_fill_the_range_without_a_cast():
    rng = np.random.default_rng(0)
    # Dark and blue, from 10 to 100 at most.
    dull = (rng.beta(2, 2, (60, 80, 3)) * (60, 65, 90) + 10).astype(np.uint8)
    bright = np.asarray(scenes.balanced(Image.fromarray(dull), np.random.default_rng(1)))
    low, high = np.percentile(bright, (0.5, 99.5), axis=(0, 1))
    assert (low < 60).all() and (high > 180).all()
    means = bright.mean((0, 1)) / 255
    assert np.ptp(means) < 0.06 and 0.33 < means.mean() < 0.55
    # The same generator, the same picture.
    again = np.asarray(scenes.balanced(Image.fromarray(dull), np.random.default_rng(1)))
    np.testing.assert_array_equal(bright, again)


def test_balancing_stretches_contrast_by_a_factor_of_four_at_most():
    flat = np.full((20, 20, 3), 100, np.uint8)
    flat[:10] = 104
    balanced = np.asarray(scenes.balanced(Image.fromarray(flat), np.random.default_rng(2)))
    # 4 levels become 16, and 34 by the gamma; without the limit they would fill the range.
    assert np.ptp(balanced.astype(int)) <= 40


def test_fractal_noise_has_the_slope_asked_for():
    field = fractal_noise(np.random.default_rng(0), 256, 256, 1.0)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    low = power[(frequency > 0.02) & (frequency < 0.03)].mean()
    high = power[(frequency > 0.2) & (frequency < 0.3)].mean()
    assert low / high == pytest.approx(100, rel=0.3)
    assert field.mean() == pytest.approx(0, abs=1e-5) and field.std() == pytest.approx(1, abs=1e-5)


def test_colours_by_hand():
    np.testing.assert_allclose(hsv_to_rgb(0.0, 1.0, 1.0), [1, 0, 0])
    np.testing.assert_allclose(hsv_to_rgb(1 / 3, 1.0, 0.5), [0, 0.5, 0], atol=1e-7)
    np.testing.assert_allclose(hsv_to_rgb(0.7, 0.0, 0.25), [0.25] * 3)
    ramp = colourise(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 0, 0], [1.0, 0.5, 0]]))
    np.testing.assert_allclose(ramp[0], [[0, 0, 0], [1, 0.5, 0], [1, 0.5, 0]])
