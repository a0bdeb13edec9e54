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
    # Fragments need not fill frames where there are none.
    assert VideoSpec(6, 50, 3, 2, fragment_size=28).num_images == 6


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
    ],
)
def test_impossible_geometries_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        VideoSpec(**changes)
