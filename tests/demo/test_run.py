"""The whole demonstration on a small model, trained for two steps as well."""

import json

import pytest

from tests.demo.demos import THREE
from vqathinker_jax import cli
from vqathinker_jax.demo import run as demo_run
from vqathinker_jax.demo.folder import DemoFolder
from vqathinker_jax.demo.outcome import change_text
from vqathinker_jax.demo.run import run_demo
from vqathinker_jax.demo.training import ShortRun
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.weights.load import read_any_config

SHORT = ScoreSettings(max_new_tokens=5, workers=1, batch_size=3)
TWO_STEPS = ShortRun(
    num_clips=4,
    steps=2,
    videos_per_step=2,
    num_generations=3,
    max_completion_length=7,
    seconds=(0.2, 0.3),
)


@pytest.fixture(scope="module")
def finished(small_folder, small_model, tmp_path_factory):
    """The folder of a demonstration with training, and what it found."""
    path = tmp_path_factory.mktemp("demo") / "out"
    demo = run_demo(
        DemoFolder(path), small_model, small_folder, THREE, TWO_STEPS, settings=SHORT, is_quiet=True
    )
    return path, demo


def test_folder_holds_rows_page_and_the_trained_model(finished):
    path, demo = finished
    rows = [json.loads(line) for line in (path / "scores.jsonl").read_text().splitlines()]
    assert [row["title"] for row in rows] == [clip.title for clip in THREE.treatments]
    assert [row["pseudo_score"] for row in rows] == [row.clip.pseudo_score for row in demo.rows]
    assert {row["result"]["model_kind"] for row in rows} == {"random"}
    assert {row["result_trained"]["model_kind"] for row in rows} == {"trained from random"}
    page = (path / "demo.html").read_text(encoding="utf-8")
    assert "holds random weights" in page and change_text(demo).split(":")[0] in page
    assert read_any_config(path / "trained" / "model").kind == "trained from random"


def test_training_is_a_run_of_its_own_clips(finished):
    path, demo = finished
    assert (demo.training.num_steps, demo.training.num_clips) == (2, 2)
    metrics = (path / "trained" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["reward_total"] for line in metrics] == list(demo.training.rewards)
    assert len(demo.training.parse_rates) == 2


def test_again_replaces_its_own_files_and_nothing_else(finished, small_folder, small_model):
    path, demo = finished
    before = {row.clip.title: row.before.responses for row in demo.rows}
    again = run_demo(
        DemoFolder(path), small_model, small_folder, THREE, settings=SHORT, is_quiet=True
    )
    assert {row.clip.title: row.before.responses for row in again.rows} == before
    assert not (path / "trained").exists()
    assert "After 2 steps" not in (path / "demo.html").read_text(encoding="utf-8")


@pytest.fixture
def command(monkeypatch, tmp_path, small_folder, small_model):
    """Runs the command line as far as the demonstration, which gives `demo`."""

    def run(demo, *options):
        monkeypatch.setattr("vqathinker_jax.demo.run.run_demo", lambda *_, **__: demo)
        monkeypatch.setattr("vqathinker_jax.api.from_pretrained", lambda _: small_model)
        return cli.main(["demo", str(tmp_path / "o"), "--model", str(small_folder), *options])

    return run


def test_command_prints_a_table_and_says_what_the_scores_are(finished, command, capfd):
    assert command(finished[1], "--train") == 0
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split("\t") == [
        "clip",
        "what was done",
        "pseudo",
        "model",
        "trained",
        "reasons (trained)",
    ]
    assert lines[1].startswith("clean\tnothing\t5.00\t") and "[random]" in lines[1]
    assert "no person gave them" in lines[-1] and "After 2 steps" in lines[-2]
    assert "random weights" in printed.err and "demo.html" in printed.err


def test_command_gives_json_lines(finished, command, capfd):
    assert command(finished[1], "--json", "--quiet") == 0
    printed = capfd.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert json.loads(printed.out.splitlines()[0])["title"] == "clean"
    assert printed.err == ""


def test_command_says_that_a_clip_failed(tmp_path, command, capfd):
    from tests.demo.demos import make_demo

    failed = make_demo(tmp_path / "made", status="error", score=None, error="is damaged")
    assert command(failed) == 1
    assert "is damaged" in capfd.readouterr().out


def test_command_says_why_a_training_could_not_be_run(tmp_path, monkeypatch, capfd):
    def refuse(*_, **__):
        raise TrainingError("no room")

    monkeypatch.setattr(demo_run, "run_demo", refuse)
    assert cli.main(["demo", str(tmp_path / "o"), "--train"]) == 1
    assert "no room" in capfd.readouterr().err


def test_command_refuses_a_folder_of_someone_else(tmp_path, capfd):
    (tmp_path / "holiday.mp4").write_text("mine")
    assert cli.main(["demo", str(tmp_path)]) == 2
    assert "holiday.mp4" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_command_refuses_a_model_that_is_not_there(tmp_path, capfd):
    assert cli.main(["demo", str(tmp_path / "o"), "--model", str(tmp_path / "none")]) == 2
    printed = capfd.readouterr()
    assert "no such folder" in printed.err and printed.out == ""
    assert not (tmp_path / "o").exists()


def test_impossible_run():
    with pytest.raises(ValueError, match="num_clips"):
        ShortRun(num_clips=0)
