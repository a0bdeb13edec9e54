"""A run that is watched: a profile of one step, TensorBoard, and what it says of itself."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.train_runs import make_config, rows, write_data
from vqathinker_jax import cli
from vqathinker_jax.config import save_config
from vqathinker_jax.rl import train as train_module
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.sft import SftMetrics
from vqathinker_jax.rl.step_profile import StepProfile
from vqathinker_jax.rl.train import train, update_policy


@pytest.mark.parametrize(
    ("step", "done", "said"),
    [
        (8, 0, "--profile 8: this run goes from step 1 to step 7"),
        (3, 3, "--profile 3: this run goes from step 4 to step 7"),
        (7, 7, "--profile 7: all 7 steps of this run are done"),
    ],
)
def test_a_step_that_will_not_run_is_refused(tmp_path, step, done, said):
    with pytest.raises(TrainingError, match=f"^{said}$"):
        StepProfile(tmp_path, step).require_reachable(done, num_steps=7)


def test_a_step_that_will_run_is_accepted(tmp_path):
    StepProfile(tmp_path, 7).require_reachable(6, num_steps=7)
    StepProfile(tmp_path, None).require_reachable(7, num_steps=7)


def test_a_watched_run(small_folder, tmp_path, capsys):
    labels = write_data(tmp_path)
    config = make_config(
        small_folder,
        labels,
        run={"mode": "sft", "steps": 3, "tensorboard": True},
        rollout={"max_completion_length": 64},
    )
    save_config(config, tmp_path / "config.yaml")
    run = tmp_path / "run"
    command = ["train", str(tmp_path / "config.yaml"), "--output-dir", str(run)]
    assert cli.main([*command, "--profile", "4"]) == 1
    assert "--profile 4: this run goes from step 1 to step 3" in capsys.readouterr().err

    assert cli.main([*command, "--profile", "2"]) == 0
    said = capsys.readouterr().err
    assert "SFT of" in said and "trained from random" in said
    assert said.index("trained from random") < said.index("compiling") < said.index("step 1/3")
    assert f"{run / 'profile'}: the profile of step 2" in said
    (trace,) = (run / "profile").rglob("*.trace.json.gz")
    named = {event.get("name") for event in json.loads(gzip.open(trace).read())["traceEvents"]}
    assert {"texts", "update"} <= named

    (attempt,) = rows(run / "attempts.jsonl")
    assert attempt["kind"] == "trained from random" and attempt["steps"] == 3
    assert attempt["videos"] == 5 and attempt["num_devices"] == 1
    assert attempt["trained_parameters"] > 0 < attempt["frozen_parameters"]
    assert any((run / "tensorboard").iterdir())

    # A finished run is not started again, and its report has it all.
    train(config, run, is_quiet=True)
    assert len(rows(run / "attempts.jsonl")) == 1
    assert cli.main(["report", str(run)]) == 0
    html = (run / "report.html").read_text("utf-8")
    assert "model: trained from random" in html and "3 of 3" in html
    assert json.dumps(config.rollout.max_completion_length) in html


def test_what_was_left_on_the_host_is_refused_in_an_update(monkeypatch):
    """An array that is not on the devices would be sent to them anew in every step."""

    @jax.jit
    def add(trained, batch):
        return trained + batch, trained.sum()

    def update(trained, frozen, opt_state, batch, static, optimizer):
        changed, loss = add(trained, batch)
        return changed, opt_state, SftMetrics(loss, loss, loss, loss)

    monkeypatch.setattr(train_module, "update", update)
    trained = jnp.arange(3.0)
    run = types.SimpleNamespace(
        config=types.SimpleNamespace(run=types.SimpleNamespace(updates_per_rollout=1)),
        state=types.SimpleNamespace(trained=trained, opt_state=None),
        start=types.SimpleNamespace(frozen=None),
        static=None,
        optimizer=None,
    )
    assert update_policy(run, jnp.ones(3))["loss"] == 3.0
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        update_policy(run, np.ones(3, np.float32))
