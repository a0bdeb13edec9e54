"""The model inside the package: the default everywhere, labelled everywhere."""

import dataclasses
import importlib.resources

import pytest

import vqathinker_jax as vqt
from vqathinker_jax import cli
from vqathinker_jax.bundled import bundled_model, find_model, model_name
from vqathinker_jax.demo.folder import DemoFolder
from vqathinker_jax.demo.handful import HANDFUL, HandfulConfig
from vqathinker_jax.demo.run import run_demo
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.load import read_any_config


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package folder without a model."""
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    return tmp_path


def test_is_the_default_and_goes_by_its_name(package, small_folder):
    (package / "assets").mkdir()
    (package / "assets" / "nano").symlink_to(small_folder)
    assert bundled_model() == find_model(None) == package / "assets" / "nano"
    model = vqt.from_pretrained()
    assert model.name == model_name(None) == "nano"
    assert str(package) not in model.warning
    assert model.video == vqt.from_pretrained(small_folder).video


def test_named_models_are_not_touched(small_folder):
    assert find_model(small_folder) == small_folder
    assert model_name(small_folder) == str(small_folder)


def test_an_installation_without_it_says_so_in_one_line(package, tmp_path, capfd):
    with pytest.raises(WeightsError, match="make-tiny"):
        vqt.from_pretrained()
    for line in (["score", "a.mp4"], ["demo", str(tmp_path / "o")]):
        assert cli.main(line) == 2
        said = capfd.readouterr().err.strip()
        assert "lacks the bundled nano model" in said and len(said.splitlines()) == 1


@pytest.fixture(scope="module")
def nano():
    try:
        folder = bundled_model()
    except WeightsError:
        pytest.skip("the bundled model is not there")
    return folder


def test_the_real_one_is_small_and_labels_itself(nano):
    files = [path for path in nano.rglob("*") if path.is_file()]
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    assert 0 < weights < 20e6
    assert read_any_config(nano).kind == "nano"
    assert read_any_config(nano).aggregate == "soft"
    assert (nano / "MODEL_CARD.md").is_file()
    model = vqt.from_pretrained()
    assert model.warning == (
        "model nano is a nano model trained on synthetic distortions: not calibrated to people"
    )


def test_the_real_one_puts_clean_clips_above_ruined_ones(nano, tmp_path):
    chosen = {"first scene, clean", "strong blur", "second scene, clean"}
    chosen |= {"blur, noise, compression"}
    treatments = tuple(one for one in HANDFUL if one.title in chosen)
    config = dataclasses.replace(HandfulConfig(), treatments=treatments)
    demo = run_demo(DemoFolder(tmp_path), vqt.from_pretrained(), nano, config, is_quiet=True)
    scores = {row.clip.title: row.before.score for row in demo.rows}
    assert len(scores) == 4
    assert scores["first scene, clean"] > scores["strong blur"] + 0.5
    assert scores["second scene, clean"] > scores["blur, noise, compression"] + 0.5
    assert "nano" in {row.before.model for row in demo.rows}
    assert all(row.before.score == row.before.soft_score for row in demo.rows)
