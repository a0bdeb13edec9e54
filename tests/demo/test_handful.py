"""The clips of a demonstration."""

import dataclasses

import numpy as np
import pytest

from tests.demo.demos import THREE
from vqathinker_jax.demo.handful import HandfulConfig, choose_scenes, make_handful
from vqathinker_jax.synthetic.encoding import read_video
from vqathinker_jax.synthetic.opinions import pseudo_score


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handful")
    calls = []
    clips = make_handful(THREE, folder, lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    return folder, clips


def test_scenes_are_never_those_of_training():
    drawn = [choose_scenes(seed) for seed in range(30)]
    assert {scene.split for pair in drawn for scene in pair} == {"test"}
    assert all(first.family != second.family for first, second in drawn)
    assert len(set(drawn)) > 5


def test_scores_follow_from_what_was_done(made):
    _, (clean, blurred, mixed) = made
    assert (clean.pseudo_score, clean.done) == (5.0, "nothing")
    assert clean.pseudo_score > mixed.pseudo_score > 1
    assert blurred.pseudo_score < 3 and blurred.done.startswith("blur: ")
    assert [one.name for one in mixed.distortions] == ["noise", "compression"]
    severities = [(one.name, one.severity) for one in mixed.distortions]
    assert mixed.pseudo_score == pytest.approx(pseudo_score(severities), abs=1e-3)
    assert clean.scene == blurred.scene != mixed.scene


def test_files_hold_the_clips_and_show_the_damage(made):
    folder, clips = made
    assert tuple(clip.file for clip in clips) == THREE.file_names()
    frames = {clip.title: np.stack(list(read_video(folder / clip.file))) for clip in clips}
    assert all(seen.shape == (7, 60, 80, 3) for seen in frames.values())

    def sharpness(clip):
        return np.abs(np.diff(clip.astype(np.float32), axis=2)).mean()

    assert sharpness(frames["strong blur"]) < 0.7 * sharpness(frames["clean"])


def test_the_same_seed_makes_the_same_files(made, tmp_path):
    folder, clips = made
    assert make_handful(THREE, tmp_path, lambda *_: None) == clips
    for name in THREE.file_names():
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    other = dataclasses.replace(THREE, seed=4, treatments=THREE.treatments[:1])
    make_handful(other, tmp_path, lambda *_: None)
    name = THREE.file_names()[0]
    assert (tmp_path / name).read_bytes() != (folder / name).read_bytes()


def test_the_full_handful_goes_from_clean_to_ruined():
    config = HandfulConfig()
    names = config.file_names()
    assert len(set(names)) == len(names) == 12
    assert all(name.isascii() and " " not in name for name in names)
    assert {len(treatment.planned) for treatment in config.treatments} == {0, 1, 3}


@pytest.mark.parametrize(
    ("changes", "said"), [({"seed": -1}, "seed"), ({"treatments": ()}, "trea")]
)
def test_refused_configs(changes, said):
    with pytest.raises(ValueError, match=said):
        HandfulConfig(**changes)
