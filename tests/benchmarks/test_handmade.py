"""Hand-made features: sixteen, finite whatever the clip, each measured once."""

import numpy as np
import pytest

from benchmarks.handmade import FEATURES, features, features_of_all
from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.synthetic.encoding import write_video


def clip(num=13, height=96, width=128):
    """A smooth texture that moves by three pixels a frame."""
    rng = np.random.default_rng(3)
    plane = rng.integers(30, 220, (height // 8, width, 3)).astype(np.float32)
    plane = np.kron(plane, np.ones((8, 8, 1)))[:height]
    soft = sum(np.roll(plane, (i, j), (0, 1)) for i in range(5) for j in range(5)) / 25
    return np.stack([soft[:, 3 * i : 3 * i + width] for i in range(num)]).astype(np.uint8)


def measured(tmp_path, frames):
    path = tmp_path / "clip.mp4"
    write_video(path, frames, 25.0)
    values = features(str(path))
    return dict(zip(FEATURES, values.tolist(), strict=True))


def test_sixteen_finite_features(tmp_path):
    values = measured(tmp_path, clip())
    assert len(values) == 16 and all(map(np.isfinite, values.values()))
    still = measured(tmp_path, np.full((2, 32, 48, 3), 90, np.uint8))
    assert all(map(np.isfinite, still.values()))


def test_one_frame_is_measured_too(tmp_path):
    assert all(map(np.isfinite, measured(tmp_path, clip(num=1)).values()))


def test_features_of_many_are_measured_once(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, clip(), 25.0)
    first = features_of_all([str(path)], tmp_path / "work", workers=1)
    assert first.shape == (1, 16)
    assert np.array_equal(first[0], features(str(path)))
    kept = next((tmp_path / "work").glob("features-*.jsonl"))
    before = kept.read_text()
    assert np.array_equal(features_of_all([str(path)], tmp_path / "work", workers=1), first)
    assert kept.read_text() == before


def test_unreadable_clips_are_refused(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        features_of_all([str(tmp_path / "bad.mp4")], tmp_path / "work", workers=1)
