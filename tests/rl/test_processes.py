"""Training with several processes: the numbers of one, and what happens where one of them ends."""

import dataclasses
import signal
import sys

import numpy as np
import pytest

from tests.launched import ROOT, environment, free_port, launch, script, train_commands
from tests.rl.train_runs import OF_A_PROCESS, make_config, rows, write_data
from vqathinker_jax.config import MeshConfig, save_config
from vqathinker_jax.rl.train import train

RECIPES = ROOT / "configs" / "launch"
MANY = 10_000
"""Steps of a run that is to be ended from outside."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def grpo(small_folder, labels):
    """Two steps and a validation; texts without an answer count by the first number in them.

    Without perturbed clips and a reference, which add nothing but compiling.
    """
    source = make_config(small_folder, labels).data.train
    return make_config(
        small_folder, labels,
        data={"validation": source},
        run={"videos_per_step": 4, "micro_batch": 4, "steps": 2, "validate_every": 2},
        reward={"fallback": "whole_text"},
        rollout={"max_completion_length": 16, "temporal": False},
        objective={"entropy_bonus": 0.1, "beta": 0.0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sft(small_folder, labels):
    return make_config(
        small_folder, labels,
        run={"mode": "sft", "videos_per_step": 4, "micro_batch": 4, "steps": MANY},
        rollout={"max_completion_length": 64},
        optimizer={"total_steps": MANY},
    )  # fmt: skip


def alone(config, num_devices, folder, **run):
    """The same run in this one process, with as many devices."""
    config = dataclasses.replace(
        config, mesh=MeshConfig(data=num_devices), run=dataclasses.replace(config.run, **run)
    )
    assert train(config, folder, is_quiet=True) is True
    return folder


def assert_same_rows(path, other, count=None):
    """Equal but for what is of a process, and the order of sums.

    Measured: bit for bit the same with two processes and two devices in one. Sums over four parts
    may be taken in another order, which changes the last bits of a float32: hence 1e-5.
    """
    left, right = rows(path), rows(other)[:count]
    assert len(left[:count]) == len(right) > 0
    for one, two in zip(left[:count], right, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - OF_A_PROCESS:
            if isinstance(one[name], float):
                np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)
            else:
                assert one[name] == two[name], name


def recipe_environment(folder, **more):
    script(folder, "vqathinker", f'exec {sys.executable} -m vqathinker_jax.cli "$@"\n')
    env = environment(**more)
    return {**env, "PATH": f"{folder}:{env['PATH']}"}


SRUN = """
while [[ $1 == --* ]]; do shift; done
export SLURM_JOB_ID=7 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2
export SLURM_STEP_TASKS_PER_NODE="1(x2)" SLURM_LOCALID=0
for i in 0 1; do SLURM_PROCID=$i "$@" & pids[i]=$!; done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
"""


def test_two_processes_under_slurm_train_as_one(grpo, tmp_path):
    save_config(grpo, tmp_path / "config.yaml")
    script(tmp_path / "bin", "srun", SRUN)
    script(tmp_path / "bin", "scontrol", f"echo $* >{tmp_path}/requeued\n")
    env = recipe_environment(tmp_path / "bin", JAX_COORDINATOR_PORT=str(free_port()))
    run = tmp_path / "run"
    line = ["bash", RECIPES / "slurm.sbatch", tmp_path / "config.yaml", run, "--mesh.data", "2"]
    with launch([line], tmp_path / "logs", [env]) as launched:
        assert launched.wait() == [0], launched.said()
    assert not (tmp_path / "requeued").exists()

    other = alone(grpo, 2, tmp_path / "alone")
    assert_same_rows(run / "metrics.jsonl", other / "metrics.jsonl")
    assert any(row["spread_total"] > 0 for row in rows(run / "metrics.jsonl"))
    assert_same_rows(run / "validation.jsonl", other / "validation.jsonl")
    texts = [
        [[one["text"] for one in row["responses"]] for row in rows(folder / "rollouts.jsonl")]
        for folder in (run, other)
    ]
    assert texts[0] == texts[1]
    for path in (other / "model").iterdir():
        if path.suffix != ".safetensors":
            assert (run / "model" / path.name).read_bytes() == path.read_bytes()
    (attempt,) = rows(run / "attempts.jsonl")
    assert (attempt["processes"], attempt["num_devices"]) == (2, 2)


def test_four_processes_by_ssh_stop_together_and_one_goes_on(sft, tmp_path):
    save_config(sft, tmp_path / "config.yaml")
    script(tmp_path / "bin", "ssh", 'exec bash -c "$2"\n')
    run, port = tmp_path / "run", str(free_port())
    env = recipe_environment(tmp_path / "bin", HOSTS=" ".join(["127.0.0.1"] * 4), PORT=port)
    line = ["bash", RECIPES / "ssh.sh", tmp_path / "config.yaml", run, "--mesh.data", "4"]
    with launch([line], tmp_path / "logs", [env]) as launched:
        metrics = run / "metrics.jsonl"
        launched.wait_until(lambda: metrics.exists() and len(metrics.read_text()) > 0)
        # The recipe hands it on to one process.
        launched.processes[0].send_signal(signal.SIGTERM)
        assert launched.wait() == [0], launched.said()
        done = rows(metrics)[-1]["step"]
        assert f"stopped after step {done}" in launched.said()[0]
    assert (run / "checkpoints" / str(done)).is_dir() and not (run / "model").exists()

    alone(sft, 4, run, steps=done + 2)
    other = alone(sft, 4, tmp_path / "alone", steps=done + 2)
    assert_same_rows(metrics, other / "metrics.jsonl")
    assert [row["processes"] for row in rows(run / "attempts.jsonl")] == [4, 1]


def test_one_that_is_killed_ends_the_other_and_a_restart_loses_nothing(sft, tmp_path):
    save_config(sft, tmp_path / "config.yaml")
    run, envs = tmp_path / "run", [environment(2), environment(2)]
    line = [
        str(tmp_path / "config.yaml"), "--output-dir", str(run), "--mesh.data", "4",
        "--run.checkpoint_every", "2",
    ]  # fmt: skip
    checkpoints = run / "checkpoints"
    with launch(train_commands(line, 2), tmp_path / "killed", envs) as launched:
        launched.wait_until(lambda: (checkpoints / "2").is_dir())
        launched.processes[1].kill()
        codes, said = launched.wait(), launched.said()
    assert codes[1] == -signal.SIGKILL, said
    # Where a collective was running, its library may abort the other first, in its own words.
    assert codes[0] in (1, -signal.SIGABRT), said
    assert codes[0] != 1 or "process 1 ended or hangs, and did not say why" in said[0]

    last = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    again = train_commands([*line, "--run.steps", str(last + 2)], 2)
    with launch(again, tmp_path / "again", envs) as launched:
        assert launched.wait() == [0, 0], launched.said()
    other = alone(sft, 4, tmp_path / "alone", steps=last + 2)
    assert_same_rows(run / "metrics.jsonl", other / "metrics.jsonl")
    assert rows(run / "attempts.jsonl")[-1]["step"] == last


def test_processes_that_were_given_different_settings_all_say_which(sft, tmp_path):
    save_config(sft, tmp_path / "config.yaml")
    run = tmp_path / "run"
    line = [str(tmp_path / "config.yaml"), "--output-dir", str(run), "--mesh.data", "2"]
    commands = train_commands(line, 2)
    commands[1] += ["--run.seed", "3"]
    with launch(commands, tmp_path / "logs", [environment(), environment()]) as launched:
        assert launched.wait() == [2, 2], launched.said()
        wanted = "the processes were not started alike: run.seed is 0 on process 0, 3 on process 1"
        for said in launched.said():
            assert f"vqathinker train: {wanted}\n" in said and "Traceback" not in said
    assert not run.exists()


def test_an_error_of_one_process_ends_all_and_is_told_by_all(sft, tmp_path):
    config = dataclasses.replace(sft, data=dataclasses.replace(sft.data, cache="frames"))
    save_config(config, tmp_path / "config.yaml")
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    # A cache that the second process alone cannot write to.
    (folders[1] / "frames").write_text("")
    line = [
        str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "run"), "--mesh.data", "2"
    ]  # fmt: skip
    envs = [environment(), environment()]
    with launch(train_commands(line, 2), tmp_path / "logs", envs, folders) as launched:
        assert launched.wait() == [1, 1], launched.said()
        first, second = launched.said()
    assert "frames: cannot be written to as a cache" in second
    assert "process 1 failed: frames: cannot be written to as a cache" in first
    assert "Traceback" not in first + second
