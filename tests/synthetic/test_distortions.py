"""Distortions: pure, repeatable, worse when stronger; and the scores made from them."""

import numpy as np
import pytest

from vqathinker_jax.synthetic import opinions, scenes
from vqathinker_jax.synthetic.distortions import DISTORTIONS, compression_settings, freeze, shuffle
from vqathinker_jax.synthetic.encoding import CODECS, read_video, recompressed, write_video

TEMPORAL = [name for name, one in DISTORTIONS.items() if one.category == "temporal"]
SPATIAL = [name for name in DISTORTIONS if name not in TEMPORAL]


@pytest.fixture(scope="module")
def clip():
    scene = next(one for one in scenes.catalogue() if one.id == "leaves/001")
    return scenes.render(scene, 31, 96, 128, 25.0, np.random.default_rng(0))


@pytest.fixture
def numbered():
    """Frames that show their own number."""
    return np.broadcast_to(np.arange(37, dtype=np.uint8)[:, None, None, None], (37, 8, 10, 3))


def numbers(frames):
    return frames[:, 0, 0, 0].astype(int)


def test_the_eleven_names_have_weights_and_tables():
    assert set(DISTORTIONS) == set(opinions.WEIGHTS) == set(opinions.TYPICAL)
    assert set(DISTORTIONS) == {
        *("blur", "noise", "compression", "downscaling", "color", "exposure", "banding"),
        *("freeze", "frame drop", "shuffle", "jitter"),
    }
    assert list(DISTORTIONS)[-1] == "compression"
    for table in opinions.TYPICAL.values():
        assert len(table) == len(opinions.KNOTS) and np.all(np.diff(table) > 0)


@pytest.mark.parametrize("name", list(DISTORTIONS))
def test_pure_repeatable_same_shape(name, clip):
    before = clip.copy()
    first, done = DISTORTIONS[name].apply(clip, 0.6, np.random.default_rng(3))
    again, _ = DISTORTIONS[name].apply(clip, 0.6, np.random.default_rng(3))
    assert first.shape == clip.shape and first.dtype == np.uint8 and done
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(clip, before)
    assert not np.array_equal(first, clip)


@pytest.mark.parametrize("name", list(DISTORTIONS))
@pytest.mark.parametrize("seed", [0, 5])
def test_stronger_does_more_damage(name, seed, clip):
    losses = [
        opinions.damage(clip, DISTORTIONS[name].apply(clip, s, np.random.default_rng(seed))[0], 31)
        for s in (0.0, 0.5, 1.0)
    ]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("name", SPATIAL)
def test_a_single_frame_will_do(name, clip):
    assert DISTORTIONS[name].apply(clip[:1], 1.0, np.random.default_rng(0))[0].shape[0] == 1


@pytest.mark.parametrize("name", ["freeze", "frame drop", "shuffle"])
@pytest.mark.parametrize("num", [1, 2, 13])
def test_temporal_ones_take_short_clips(name, num, numbered):
    frames, _ = DISTORTIONS[name].apply(numbered[:num], 1.0, np.random.default_rng(0))
    assert set(numbers(frames)) <= set(range(num)) and len(frames) == num


@pytest.mark.parametrize("seed", range(8))
def test_freeze_holds_frames_then_jumps_to_the_present(seed, numbered):
    shown = numbers(freeze(numbered, 0.5, np.random.default_rng(seed))[0])
    held = shown != np.arange(37)
    assert 0.25 < held.mean() < 0.5
    assert np.all(np.diff(shown) >= 0) and np.all(shown <= np.arange(37))
    assert np.all(shown[held] == shown[np.flatnonzero(held) - 1])


@pytest.mark.parametrize("seed", range(4))
def test_frame_drop_never_shows_the_future(seed, numbered):
    shown = numbers(DISTORTIONS["frame drop"].apply(numbered, 0.4, np.random.default_rng(seed))[0])
    assert np.all(np.diff(shown) >= 0) and np.all(shown <= np.arange(37))
    assert len(set(shown)) < 30


def test_shuffle_keeps_every_frame(numbered):
    shown = numbers(shuffle(numbered, 0.7, np.random.default_rng(0))[0])
    assert sorted(shown) == list(range(37)) and np.any(np.diff(shown) < 0)


def test_compression_settings_span_the_codecs():
    drawn = [compression_settings(1.0, np.random.default_rng(seed)) for seed in range(30)]
    assert set(drawn) == {("h264", 49), ("vp9", 63)}
    assert compression_settings(0.0, np.random.default_rng(0))[1] in (24, 34)


@pytest.mark.parametrize("codec", list(CODECS))
def test_files_hold_every_frame_and_the_same_bytes(codec, clip, tmp_path):
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in paths:
        write_video(path, clip, 30000 / 1001, codec, 30)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    decoded = np.stack(list(read_video(paths[0])))
    np.testing.assert_array_equal(decoded, recompressed(clip, 30000 / 1001, codec, 30))
    assert decoded.shape == clip.shape
    assert np.abs(decoded.astype(int) - clip).mean() < 12


def test_near_lossless_is_near_lossless(tmp_path, clip):
    write_video(tmp_path / "a.mp4", clip, 25.0)
    decoded = np.stack(list(read_video(tmp_path / "a.mp4")))
    assert opinions.damage(clip, decoded, 6) < opinions.TYPICAL["compression"][0] / 2


def test_odd_sizes_and_unknown_codecs_are_refused(tmp_path, clip):
    with pytest.raises(ValueError, match="even H and W"):
        write_video(tmp_path / "a.mp4", clip[:, :-1], 25.0)
    with pytest.raises(ValueError, match="codec must be one of h264, vp9, got 'av1'"):
        write_video(tmp_path / "a.mp4", clip, 25.0, "av1")


def test_damage_by_hand(clip):
    assert opinions.damage(clip, clip, 6) == 0
    flat = np.zeros((2, 16, 24, 3), np.uint8)
    assert opinions.damage(flat, flat + np.uint8(51), 2) == pytest.approx(3 * 0.2)
    with pytest.raises(ValueError, match="different shapes"):
        opinions.damage(clip, clip[:-1], 6)


def test_typical_damage_has_visibility_one_and_hidden_damage_less():
    typical = opinions.TYPICAL["blur"][2]
    assert opinions.visibility("blur", 0.5, typical) == pytest.approx(1)
    assert opinions.severity("blur", 0.5, typical * 0.64) == pytest.approx(0.5 * 0.8)
    assert opinions.severity("blur", 0.5, 0) == pytest.approx(0.25)
    assert opinions.severity("blur", 1.0, 10 * typical) == 1


def test_pseudo_scores_by_hand():
    assert opinions.pseudo_score([]) == 5
    assert opinions.pseudo_score([("noise", 1.0)]) == pytest.approx(1.32)
    assert opinions.pseudo_score([("blur", 0.5), ("freeze", 0.25)]) == pytest.approx(
        1 + 4 * 0.525 * 0.8
    )


@pytest.mark.parametrize("names", [["blur"], ["noise", "freeze"], ["color", "jitter", "shuffle"]])
def test_drawn_strengths_give_the_target(names):
    rng = np.random.default_rng(0)
    drawn = [opinions.draw_strengths(3.1, names, rng) for _ in range(20)]
    weights = np.array([opinions.DRAWN_WEIGHTS[name] for name in names])
    scores = [1 + 4 * np.prod(1 - weights * s) for s in drawn if s is not None]
    assert scores and scores == pytest.approx([3.1] * len(scores))
    own = [opinions.WEIGHTS[name] for name in names]
    assert (weights >= own).all() and ((weights > own).any() == ("color" in names))
    assert opinions.draw_strengths(1.1, ["color"], rng) is None
