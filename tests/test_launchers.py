"""What is read from the environment of a launcher."""

import pytest

from vqathinker_jax import cli
from vqathinker_jax.launchers import is_alone_on_host, started_together


@pytest.mark.parametrize(
    "environ, said",
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2"),
        # A batch script itself, or a single task, is one process.
        ({"SLURM_NTASKS": "2"}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, "OMPI_COMM_WORLD_SIZE=8"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE=3"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES names 2 hosts"),
    ],
)
def test_several_processes_are_noticed(environ, said):
    assert started_together(environ) == said


@pytest.mark.parametrize(
    "environ, is_alone",
    [
        ({}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
    ],
)
def test_one_process_a_host_has_all_its_devices(environ, is_alone):
    assert is_alone_on_host(environ) is is_alone


def test_training_many_times_into_one_folder_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "configs/nano_cpu.yaml"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[0]
    assert "SLURM_STEP_NUM_TASKS=4" in said and "--distributed is missing" in said
