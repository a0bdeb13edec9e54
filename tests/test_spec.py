"""The geometry a video is seen in."""

import dataclasses

import pytest

from vqathinker_jax.spec import INFERENCE, TRAINING, VideoSpec


def test_the_published_geometries_have_no_details():
    assert dataclasses.astuple(INFERENCE)[:4] == (12, 560, 4, 4)
    assert dataclasses.astuple(TRAINING)[:4] == (6, 448, 3, 6)
    for spec, images in ((INFERENCE, 12), (TRAINING, 6)):
        assert spec.num_extras == 0 and spec.num_images == images


def test_details_are_images_too():
    assert VideoSpec(6, 56, 3, 2, num_extras=4).num_images == 10
    spec = VideoSpec(6, 56, 3, 2, num_extras=4, num_slices=2)
    assert (spec.num_images, spec.num_views) == (12, 6)
    # Fragments need not fill frames where there are none.
    assert VideoSpec(6, 50, 3, 2, fragment_size=28).num_images == 6


def test_without_motion_frames_may_be_fewer_than_the_slow_pathway_needs():
    assert VideoSpec(num_frames=2, slow_divisor=3, has_motion=False).num_images == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_extras": -1}, "num_extras must be an integer >= 0"),
        ({"num_extras": True}, "num_extras must be an integer >= 0"),
        ({"fragment_size": 0}, "fragment_size must be an integer >= 1"),
        ({"num_frames": 0}, "num_frames must be an integer >= 1"),
        ({"num_extras": 13}, "num_extras=13 is more than num_frames=12"),
        ({"num_extras": 1, "fragment_size": 24}, "560 is not a multiple of fragment_size=24"),
        ({"num_frames": 3}, "slow pathway"),
        ({"num_slices": 3}, "num_slices=3 must be even"),
        ({"num_slices": 2, "fragment_size": 24}, "560 is not a multiple of fragment_size=24"),
        ({"has_motion": 1}, "has_motion must be true or false, got 1"),
    ],
)
def test_impossible_geometries_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        VideoSpec(**changes)


def test_bursts_divide_the_frames():
    spec = VideoSpec(num_frames=12, image_size=84, burst=4, num_extras=3)
    assert (spec.num_shown, spec.num_images) == (3, 15)
    with pytest.raises(ValueError, match="not a multiple of burst=5"):
        VideoSpec(num_frames=12, burst=5)
