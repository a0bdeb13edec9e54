"""Copies of clips at rising strengths: written once, and their order by hand."""

import numpy as np
import pytest

from benchmarks.real_steps import Step, orders, write_steps
from vqathinker_jax.synthetic.encoding import write_video


def test_order_by_hand():
    def steps(clip):
        return [Step(clip, "blur", level, f"{clip}-{level}") for level in (1, 2, 3)]

    scores = [4.0, 3.0, 1.0, 2.0, 4.0, 3.0, 3.0, 3.0, 3.0, 4.0, None, 1.0]
    (order,) = orders([*steps("a"), *steps("b"), *steps("c"), *steps("d")], scores)
    # a falls with the level: 1. b: negative scores have ranks 3 1 2 against 1 2 3: -0.5.
    # c is constant and d is not complete: 0.
    assert order.within_clip_srcc == pytest.approx((1 - 0.5 + 0 + 0) / 4)
    assert (order.num_clips, order.num_unordered) == (4, 2)
    assert order.mean_scores == pytest.approx((13 / 4, 10 / 3, 8 / 4))


def test_distortions_are_told_apart():
    steps = [Step("a", name, level, "x") for name in ("blur", "noise") for level in (1, 2)]
    blur, noise = orders(steps, [3.0, 2.0, 2.0, 3.0])
    assert (blur.distortion, noise.distortion) == ("blur", "noise")
    assert blur.within_clip_srcc == pytest.approx(1)
    assert noise.within_clip_srcc == pytest.approx(-1)


def test_copies_are_written_once(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8)
    write_video(clips / "a.mp4", frames, 25.0)
    (clips / "bad.mp4").write_bytes(b"nothing")
    (clips / "still.png").write_bytes(b"not a video")
    steps, unreadable = write_steps(str(clips), tmp_path / "work", ("blur", "frame drop"), 2)
    assert [(step.distortion, step.level) for step in steps] == [
        ("blur", 1), ("blur", 2), ("frame drop", 1), ("frame drop", 2),
    ]  # fmt: skip
    assert len(unreadable) == 1 and "bad.mp4" in unreadable[0]
    written = {step.path: (tmp_path / step.path).stat().st_mtime_ns for step in steps}
    assert len(written) == 4
    again, _ = write_steps(str(clips), tmp_path / "work", ("blur", "frame drop"), 2)
    assert again == steps
    assert written == {path: (tmp_path / path).stat().st_mtime_ns for path in written}
