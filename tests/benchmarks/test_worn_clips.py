"""Natural clips that are worn already."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.worn_clips import MOST_TALL, NUM_FRAMES, NUM_PANS, natural_clips, pan, wear
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.synthetic.encoding import write_video


@pytest.mark.parametrize(("width", "height"), [(161, 120), (1400, 1000)])
def test_a_pan_moves_over_the_picture_and_keeps_its_size(width, height):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frames = pan(Image.fromarray(pixels), np.random.default_rng(1))
    num, tall, wide, channels = frames.shape
    assert (num, channels) == (NUM_FRAMES, 3) and tall <= MOST_TALL
    assert tall % 2 == wide % 2 == 0
    assert wide / tall == pytest.approx(width / height, rel=0.01)
    assert (frames[0] != frames[-1]).any()
    if height <= MOST_TALL:
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (tall, wide, 3))
        for frame in (frames[0], frames[-1]):
            assert (windows == frame).all((-1, -2, -3)).any()


def test_two_distortions_are_applied_in_their_order():
    frames = np.random.default_rng(2).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    worn, done = wear(frames, np.random.default_rng(3))
    again, _ = wear(frames, np.random.default_rng(3))
    np.testing.assert_array_equal(worn, again)
    names = [line.split(":")[0] for line in done]
    assert len(set(names)) == 2 and names == sorted(names, key=list(DISTORTIONS).index)
    assert worn.shape == frames.shape and (worn != frames).any()


def test_pictures_come_in_pans_and_videos_as_they_are(tmp_path):
    picture, video = tmp_path / "a.png", tmp_path / "b.mp4"
    pixels = np.random.default_rng(4).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    write_video(video, np.stack([pixels] * 5), 25.0)
    clips = dict(natural_clips([picture, video]))
    # Two photographs of scikit-image are for validation.
    assert len(clips) == 2 * NUM_PANS + NUM_PANS + 1
    assert {"a-0", "a-1", "b"} <= set(clips)
    assert clips["b"].shape == (5, 96, 128, 3)
    assert (clips["a-0"] != clips["a-1"]).any()
