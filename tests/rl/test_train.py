"""The training loop: resuming, stopping, what it refuses and what it writes."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

import vqathinker_jax as vqt
from tests.rl.train_runs import OF_A_PROCESS, make_config, rows, write_data
from tests.small import CONFIG
from vqathinker_jax import cli
from vqathinker_jax.config import ConfigError, RunConfig, Stage, load_config, save_config
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.slowfast import SlowFast
from vqathinker_jax.rl import sft as sft_module
from vqathinker_jax.rl import train as train_module
from vqathinker_jax.rl.run import Run
from vqathinker_jax.rl.run_folder import check_room, prepare_folder
from vqathinker_jax.rl.run_state import RunPosition, TrainingError
from vqathinker_jax.rl.stages import TERMS
from vqathinker_jax.rl.train import train, train_stages
from vqathinker_jax.score_settings import ScoreSettings

ROW_KEYS = {
    "step", "epoch", "loss", "kl_token_mean", "clip_fraction", "entropy", "anchor_loss",
    "grad_norm", "learning_rate", "parse_rate", "perturbed_parse_rate", "zero_spread_share",
    "score_mean", "score_std", "length_mean", "length_max", "at_limit_share", "unparseable_batches",
    "unreadable", "recompiles", "shapes", "seconds", "tokens_per_second",
    *(f"{kind}_{name}" for kind in ("reward", "spread") for name in TERMS),
}  # fmt: skip


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def readable(monkeypatch):
    """Random tokens read as well-formed answers whose score depends on the tokens."""

    def texts(model, generation):
        scores = np.asarray(generation.tokens).sum(-1) % 401 / 100 + 1
        return [[f"<think></think><answer>{s:.2f}</answer>" for s in group] for group in scores]

    monkeypatch.setattr(train_module, "read_texts", texts)


def of_the_run(path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in OF_A_PROCESS} for row in rows(path)]


def weights(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "model").glob("*.safetensors")}


def test_resumed_run_equals_the_uninterrupted_one(
    small_folder, labels, tmp_path, readable, monkeypatch
):
    config = make_config(small_folder, labels)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(config, straight, is_quiet=True)

    def break_down(*args):
        raise KeyboardInterrupt

    # Dies in step 4: the last checkpoint is that of step 2, and step 3 has left a row.
    with monkeypatch.context() as patch:
        rollout_rows = train_module.rollout_rows
        patch.setattr(
            train_module,
            "rollout_rows",
            lambda step, *rest: break_down() if step.number == 4 else rollout_rows(step, *rest),
        )
        with pytest.raises(KeyboardInterrupt):
            train(config, broken, is_quiet=True)
    assert not (broken / "model").exists()
    train(config, broken, is_quiet=True)

    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert of_the_run(broken / name) == of_the_run(straight / name)
    assert weights(broken) == weights(straight)
    original = {path.name: path.read_bytes() for path in small_folder.glob("*.safetensors")}
    assert weights(straight) != original

    # What the log of the straight run says.
    logged = rows(straight / "metrics.jsonl")
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    assert set(logged[0]) == ROW_KEYS
    assert logged[0]["kl_token_mean"] == 0.0 and logged[-1]["kl_token_mean"] > 0
    assert logged[0]["parse_rate"] == logged[0]["reward_format"] == 1.0
    assert logged[0]["grad_norm"] > 0 and logged[0]["spread_total"] > 0
    assert {"data", "rollout", "parse", "update", "step"} <= set(logged[0]["seconds"])
    assert [row["shapes"] for row in logged] == [1] * 4
    assert logged[0]["recompiles"] > 0 and logged[-1]["recompiles"] == 0
    sampled = rows(straight / "rollouts.jsonl")[0]
    assert len(sampled["responses"]) == 3
    assert np.isclose(sum(one["advantage"] for one in sampled["responses"]), 0, atol=1e-5)

    # And the model it leaves.
    model = vqt.from_pretrained(straight / "model", dtype="float32")
    assert model.loaded.kind == "trained from random"
    assert model.loaded.prompt_style == "train" and model.video == config.video

    # The same call on a finished run does nothing but leave the same model.
    train(config, straight, is_quiet=True)
    assert weights(broken) == weights(straight)
    assert len(rows(straight / "metrics.jsonl")) == 4


def test_a_run_without_motion_and_without_reasoning(small_folder, labels, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("SlowFast was run")

    def texts(model, generation):
        return [["<answer>2.5</answer>", "<think></think><answer>3.0</answer>", "4.5"]] * 2

    monkeypatch.setattr(SlowFast, "__call__", refuse)
    monkeypatch.setattr(train_module, "read_texts", texts)
    config = make_config(
        small_folder, labels,
        data={"reasoning": False, "validation": make_config(small_folder, labels).data.train},
        run={"steps": 1, "validate_every": 1, "validation_videos": 2},
        reward={"fallback": "whole_text"},
    )  # fmt: skip
    # Three frames would not pass through SlowFast.
    video = dataclasses.replace(config.video, num_frames=3, has_motion=False)
    train(dataclasses.replace(config, video=video), tmp_path / "run", is_quiet=True)
    (row,) = rows(tmp_path / "run" / "metrics.jsonl")
    assert row["parse_rate"] == row["perturbed_parse_rate"] == 1.0
    np.testing.assert_allclose(row["reward_format"], 1 / 3, rtol=1e-6)
    assert row["grad_norm"] > 0
    (validation,) = rows(tmp_path / "run" / "validation.jsonl")
    assert validation["videos"] == 2 and "words_f1" not in validation

    # The model it leaves is asked as it was trained.
    model = vqt.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    assert model.video == video and not model.loaded.reasoning
    prompt = model.tokenizer.decode(model.build_prompt())
    assert "Motion" not in prompt and "think" not in prompt and prompt.count("<img>") == 3
    settings = ScoreSettings(max_new_tokens=3, workers=1)
    assert model.score(labels.parent / "clip0.mp4", settings).status == "ok"


@pytest.mark.parametrize(("export", "said"), [("best", "step 1, the best"), ("last", "step 2")])
def test_which_checkpoint_the_model_is_made_from(
    export, said, small_folder, labels, tmp_path, readable, monkeypatch, capfd
):
    merits = iter((0.75, 0.25))
    monkeypatch.setattr(Run, "_validate", lambda run: next(merits))
    config = make_config(
        small_folder, labels,
        data={"validation": make_config(small_folder, labels).data.train},
        run={"steps": 2, "validate_every": 1, "export": export},
    )  # fmt: skip
    train(config, tmp_path / "run")
    assert f"model: the model of {said}" in capfd.readouterr().err


def test_a_batch_without_any_score_teaches_nothing_and_is_counted(small_folder, labels, tmp_path):
    config = make_config(small_folder, labels, run={"steps": 2})
    train(config, tmp_path / "run", is_quiet=True)
    logged = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["unparseable_batches"] for row in logged] == [1, 2]
    for row in logged:
        for name in ("parse_rate", "reward_total", "grad_norm", "kl_token_mean"):
            assert row[name] == 0.0
        assert row["zero_spread_share"] == 1.0 and row["score_mean"] is None


def test_a_loss_that_is_no_number_stops_the_run(
    small_folder, labels, tmp_path, readable, monkeypatch
):
    monkeypatch.setattr(train_module, "group_advantages", lambda total, *_: total * jnp.nan)
    config = make_config(small_folder, labels)
    with pytest.raises(TrainingError, match=r"step 1: loss and grad_norm is not finite.*bad_batch"):
        train(config, tmp_path / "run", is_quiet=True)
    bad = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert bad["loss"] == "nan" and len(bad["videos"]) == 2
    assert bad["videos"][0]["id"].startswith("clip") and len(bad["videos"][0]["responses"]) == 3
    assert not (tmp_path / "run" / "model").exists()


def test_other_settings_are_refused_and_named(small_folder, labels, tmp_path):
    prepare_folder(make_config(small_folder, labels, run={"seed": 7}), tmp_path / "run")
    # Without a checkpoint nothing is lost, so any settings will do.
    prepare_folder(make_config(small_folder, labels), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    prepare_folder(make_config(small_folder, labels, run={"keep": 5}), tmp_path / "run")
    # Longer, with a schedule that does not depend on the length.
    prepare_folder(make_config(small_folder, labels, run={"steps": 9}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run\.seed: 0 -> 3; optimizer\.learning_rate: "):
        prepare_folder(
            make_config(
                small_folder, labels, run={"seed": 3}, optimizer={"learning_rate": 1e-4}
            ),
            tmp_path / "run",
        )  # fmt: skip


def test_run_length_is_refused_where_the_schedule_depends_on_it(small_folder, labels, tmp_path):
    unset = {"optimizer": {"total_steps": None}}
    prepare_folder(make_config(small_folder, labels, **unset), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"run\.steps: 4 -> 5"):
        prepare_folder(
            make_config(small_folder, labels, run={"steps": 5}, **unset), tmp_path / "run"
        )


def test_folders_that_cannot_hold_a_run_are_found_at_once(small_folder, labels, tmp_path):
    config = make_config(small_folder, labels)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written to"):
        prepare_folder(config, tmp_path / "file" / "run")
    with pytest.raises(TrainingError, match="holds files and no run"):
        prepare_folder(config, tmp_path)
    with pytest.raises(TrainingError, match="GB are free"):
        check_room(tmp_path, 10**18, RunConfig(), model_bytes=7)
    with pytest.raises(TrainingError, match="GB are free"):
        check_room(tmp_path, 7, RunConfig(), model_bytes=10**18)


def test_room_is_needed_for_the_best_checkpoint_beside_the_latest(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=47))
    check_room(tmp_path, 10, RunConfig(keep=3), model_bytes=7)
    with pytest.raises(TrainingError, match="4 checkpoints, another while it is written"):
        check_room(tmp_path, 10, RunConfig(keep=3, validate_every=5), model_bytes=7)


def test_a_run_begun_anew_takes_nothing_from_the_attempt_before(small_folder, labels, tmp_path):
    config = make_config(small_folder, labels)
    prepare_folder(config, tmp_path / "run")
    left = [tmp_path / "run" / name for name in ("filters.npz", "bad_batch.json")]
    for path in left:
        path.write_text("of another seed")
    other = make_config(small_folder, labels, run={"seed": 5})
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    prepare_folder(config, tmp_path / "run")
    assert all(path.exists() for path in left)
    (tmp_path / "run" / "checkpoints" / "2").rmdir()
    prepare_folder(other, tmp_path / "run")
    assert not any(path.exists() for path in left)


def test_labels_that_changed_under_a_run_are_told_in_one_line(
    small_folder, labels, tmp_path, capfd
):
    data = tmp_path / "data"
    shutil.copytree(labels.parent, data)
    config = make_config(
        small_folder, data / labels.name, run={"mode": "sft", "checkpoint_every": 1, "steps": 1},
        rollout={"max_completion_length": 64},
    )  # fmt: skip
    save_config(config, tmp_path / "config.yaml")
    line = ["train", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "run")]
    assert cli.main(line) == 0
    changed = (data / labels.name).read_text().replace('"value": 1.0', '"value": 1.5')
    (data / labels.name).write_text(changed)
    capfd.readouterr()
    assert cli.main([*line, "--run.steps", "2"]) == 1
    said = capfd.readouterr().err
    assert "labels have changed since this run was started" in said and "Traceback" not in said


def test_killed_in_the_middle_it_goes_on_bit_for_bit(small_folder, labels, tmp_path):
    config = make_config(
        small_folder, labels, run={"mode": "sft", "steps": 40, "checkpoint_every": 4},
        rollout={"max_completion_length": 64}, optimizer={"total_steps": 40},
    )  # fmt: skip
    save_config(config, tmp_path / "config.yaml")

    def start(run):
        return subprocess.Popen(
            [sys.executable, "-m", "vqathinker_jax.cli", "train", tmp_path / "config.yaml",
             "--output-dir", run, "--quiet"],
        )  # fmt: skip

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert start(straight).wait(300) == 0
    process = start(broken)
    deadline = time.monotonic() + 180
    # Whatever is being written then, a checkpoint of a later step included, is lost.
    while not (broken / "checkpoints" / "4").is_dir() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(rows(broken / "metrics.jsonl")) < 40 and not (broken / "model").exists()
    assert start(broken).wait(300) == 0
    assert of_the_run(broken / "metrics.jsonl") == of_the_run(straight / "metrics.jsonl")
    assert weights(broken) == weights(straight)


def test_position_survives_json():
    position = RunPosition(step=3, buckets=((128, 16),), unparseable_batches=1, start="a")
    assert RunPosition.from_json(json.loads(json.dumps(position.to_json()))) == position


def test_stages_follow_each_other_until_one_is_stopped(labels, tmp_path, monkeypatch):
    first = Stage(make_config("weights", labels), tmp_path / "run" / "before")
    last = Stage(make_config("weights", labels, run={"seed": 3}), tmp_path / "run")
    trained, outcomes = [], [False, True, True]

    def fake_train(config, folder, *_):
        trained.append((config.run.seed, folder))
        return outcomes.pop(0)

    monkeypatch.setattr(train_module, "train", fake_train)
    train_stages((first, last), is_quiet=True)
    assert trained == [(0, first.folder)]
    train_stages((first, last), is_quiet=True)
    assert trained[1:] == [(0, first.folder), (3, last.folder)]

    # A model, and a checkpoint of the last step: nothing is left to do in that folder.
    for stage, steps in ((first, ("2", "4")), (last, ("2",))):
        (stage.folder / "model").mkdir()
        for step in steps:
            (stage.folder / "checkpoints" / step).mkdir(parents=True)
    outcomes.append(True)
    train_stages((first, last), is_quiet=True)
    assert trained[3:] == [(3, last.folder)]
    (last.folder / "checkpoints" / "4").mkdir()
    train_stages((first, last), is_quiet=True)
    assert trained[4:] == []


TWO_STAGES = """
run: {steps: 2}
rollout: {max_completion_length: 29, temporal: false}
reward: {weights: {temporal: 0.0}}
objective: {beta: 0.0}
sft: {random_scores: true}
before:
  model: {preset: small}
  run: {mode: sft, steps: 3}
"""


def test_two_stages_in_one_command(labels, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(PRESETS, "small", CONFIG)
    base = make_config("unused", labels, optimizer={"total_steps": None})
    save_config(base, tmp_path / "base.yaml")
    text = "extends: base.yaml\n" + TWO_STAGES.replace("run:", "model: {path: null}\nrun:", 1)
    (tmp_path / "two.yaml").write_text(text)
    run, before = tmp_path / "run", tmp_path / "run" / "before"
    line = ["train", str(tmp_path / "two.yaml"), "--output-dir", str(run)]

    # Asked to stop in the first stage, it does not begin the second.
    update = sft_module.sft_update

    def update_and_signal(*args):
        signal.raise_signal(signal.SIGTERM)
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sft_module, "sft_update", update_and_signal)
        assert cli.main(line) == 0
    assert "stopped after step 1" in capfd.readouterr().err
    assert not (before / "model").exists() and not (run / "metrics.jsonl").exists()

    # Nor where that came during the last step of the first, which then leaves its model.
    def update_and_signal_at_the_end(*args):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return update(*args)

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(sft_module, "sft_update", update_and_signal_at_the_end)
        assert cli.main(line) == 0
    assert "resuming after step 1 of 3" in capfd.readouterr().err
    assert (before / "model").exists() and not (run / "metrics.jsonl").exists()

    assert cli.main(line) == 0
    assert [row["step"] for row in rows(before / "metrics.jsonl")] == [1, 2, 3]
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [1, 2]
    assert load_config(run / "config.yaml").model.path == str(before / "model")
    assert load_config(before / "config.yaml").model.preset == "small"
    model = vqt.from_pretrained(run / "model", dtype="float32")
    assert model.loaded.kind == "trained from random"
    # The tokenizer made for the first stage is that of the last.
    assert len(model.loaded.tokenizer.encode("Frame drop is severe")) == 4
    merges = [folder / "merges.txt" for folder in (before / "tokenizer", run / "model")]
    assert merges[0].read_bytes() == merges[1].read_bytes()

    kept = weights(run), weights(before)
    assert cli.main(line) == 0
    said = capfd.readouterr().err
    assert f"finished before: {before / 'model'}" in said
    assert f"finished before: {run / 'model'}" in said
    assert (weights(run), weights(before)) == kept
    assert cli.main([*line, "--before.run.seed", "5"]) == 2
    assert f"{before}: holds a run with other settings (run.seed: 0" in capfd.readouterr().err


def test_sigterm_finishes_the_step_saves_and_exits_well(small_folder, labels, tmp_path):
    config = make_config(
        small_folder, labels, run={"mode": "sft", "steps": 10_000},
        rollout={"max_completion_length": 64}, optimizer={"total_steps": 10_000},
    )  # fmt: skip
    save_config(config, tmp_path / "config.yaml")
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "vqathinker_jax.cli", "train", tmp_path / "config.yaml",
         "--output-dir", run, "--run.checkpoint_every", "5000"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while not (metrics.exists() and metrics.read_text()) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    last = rows(metrics)[-1]["step"]
    assert f"stopped after step {last}" in said
    assert (run / "checkpoints" / str(last)).is_dir() and not (run / "model").exists()
