"""Images alone: the same from every place they can come from, in order, errors in their place."""

import numpy as np
import pytest

from tests.data.clips import pictures, write_clip
from vqathinker_jax.data import reader as reader_module
from vqathinker_jax.data.clip import FrameRequest, VideoError
from vqathinker_jax.data.reader import FrameReader
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.spec import VideoSpec

SPEC = VideoSpec(
    num_frames=3, image_size=28, slow_divisor=3, motion_repeat=2, num_extras=1, fragment_size=7
)
MISSING = 2


@pytest.fixture
def paths(tmp_path):
    """Five clips, the third of which does not exist."""
    for i in range(5):
        if i != MISSING:
            write_clip(tmp_path / f"{i}.mp4", pictures(5, 64, 48, seed=i))
    return [str(tmp_path / f"{i}.mp4") for i in range(5)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("ahead", [0, 3])
def test_images_and_errors_come_in_order(paths, num_workers, ahead):
    with FrameReader(SPEC, num_workers=num_workers) as reader:
        found = list(reader.read_ahead(paths, ahead))
    assert len(found) == 5
    assert isinstance(found[MISSING], VideoError) and "2.mp4" in str(found[MISSING])
    for i, path in enumerate(paths):
        if i != MISSING:
            np.testing.assert_array_equal(found[i], read_clip(path, FrameRequest.of(SPEC)).frames)


def test_reading_ahead_keeps_within_its_bound(paths, monkeypatch):
    begun = []

    def read(path, *_, **__):
        begun.append(path)
        raise VideoError("no")

    monkeypatch.setattr(reader_module, "read_clip", read)
    with FrameReader(SPEC, num_workers=0) as reader:
        results = reader.read_ahead(paths, ahead=1)
        next(results)
        assert len(begun) <= 3
        results.close()
    assert len(begun) <= 3


def test_what_is_kept_is_not_decoded_again(paths, tmp_path, monkeypatch):
    cache = str(tmp_path / "frames")
    with FrameReader(SPEC, num_workers=1, cache=cache) as reader:
        first = list(reader.read_ahead(paths))

    def refuse(path, *_, **__):
        raise VideoError.of(path, "was decoded again")

    monkeypatch.setattr(reader_module, "read_clip", refuse)
    with FrameReader(SPEC, num_workers=0, cache=cache) as reader:
        again = [reader.read(path) for path in paths[:MISSING]]
        np.testing.assert_array_equal(again, first[:MISSING])
        with pytest.raises(VideoError, match="was decoded again"):
            reader.read(paths[MISSING])
