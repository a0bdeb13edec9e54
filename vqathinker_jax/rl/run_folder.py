"""The folder of a run: whether it can be written to, has room, and belongs to this run."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import jax

from vqathinker_jax.config import (
    ConfigError,
    RunConfig,
    TrainConfig,
    diff_configs,
    load_config,
    save_config,
)
from vqathinker_jax.processes import ProcessesError, first_does, gather_texts
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.roll_call import named

FILTERS = "filters.npz"
"""What a tower with `model.whiten` started from."""
BAD_BATCH = "bad_batch.json"
"""What a run whose loss was not finite stopped at."""
ANY_TIME = frozenset(
    {
        "run.keep",
        "run.checkpoint_every",
        "run.validate_every",
        "run.validation_videos",
        "run.log_rollouts",
        "run.tensorboard",
        "data.num_workers",
        "data.timeout_s",
        "data.max_unreadable",
        "data.cache",
        "mesh.data",
        "mesh.fsdp",
        "mesh.tensor",
        "mesh.rollout_tensor",
        "model.reference_memory",
    }
)
"""Settings that a resumed run may change: they do not enter its numbers, or, for the mesh, only the
order of sums. `run.steps` and `run.epochs` join them where `optimizer.total_steps` is given."""
LENGTH = frozenset({"run.steps", "run.epochs"})
OF_AN_ATTEMPT = (FILTERS, BAD_BATCH)
"""What a run begun anew must not take from an attempt that left no checkpoint: it may have had
other settings or labels. Its logs are cut to step 0 where they are opened."""


def prepare_folder(config: TrainConfig, folder: Path) -> None:
    """Makes the folder of a run, or finds that the run there is this one.

    A run without a checkpoint is begun anew, with any settings.

    Process 0 does it for all.

    Raises:
      ConfigError: it is another one; the settings that differ are named.
      TrainingError: the folder cannot be written to.
      ProcessesError: it is not one and the same for all processes.
    """
    first_does(lambda: _prepare(config, folder), f"making {folder}", (ConfigError, TrainingError))
    require_shared(folder)


def require_shared(folder: Path) -> None:
    """Raises ProcessesError where a process does not see what process 0 writes into a folder."""
    if jax.process_count() == 1:
        return
    name = gather_texts(f".shared-{uuid.uuid4().hex[:8]}", "naming")[0]
    path = folder / name
    first_does(path.touch, f"writing into {folder}", ())
    seen = gather_texts(str(path.exists()), f"looking into {folder}")
    first_does(path.unlink, f"clearing {folder}", ())
    blind = [index for index, answer in enumerate(seen) if answer != str(True)]
    if blind:
        raise ProcessesError(
            f"{folder.absolute()}: {named(blind)} cannot see there what process 0 wrote: all "
            "processes need one shared folder"
        )


def _prepare(config: TrainConfig, folder: Path) -> None:
    saved = folder / "config.yaml"
    trial = folder / f".trial{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"0" * 4096)
        trial.unlink()
        if saved.exists() and _checkpoints(folder):
            refuse_other_settings(load_config(saved), config, folder)
        elif not saved.exists() and any(folder.iterdir()):
            raise TrainingError(f"{folder}: holds files and no run; name another folder")
        else:
            for name in OF_AN_ATTEMPT:
                (folder / name).unlink(missing_ok=True)
        save_config(config, saved)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written to ({error.strerror})") from None


def refuse_other_settings(before: TrainConfig, now: TrainConfig, folder: Path) -> None:
    """Raises ConfigError where a run would not be the continuation of the one in its folder."""
    allowed = ANY_TIME
    if before.optimizer.total_steps is not None:
        allowed = ANY_TIME | LENGTH
    differing = [
        line for line in diff_configs(before, now) if line.partition(":")[0] not in allowed
    ]
    if differing:
        raise ConfigError(
            f"{folder}: holds a run with other settings ({'; '.join(differing)}); "
            "name another folder with --output-dir"
        )


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether the run in a folder has done all its steps and left its model.

    Raises:
      LabelError, OSError: the labels, which decide its length, cannot be read.
    """
    if not (folder / "model").exists():
        return False
    done = max((int(path.name) for path in _checkpoints(folder) if path.name.isdigit()), default=0)
    return done >= config.run.num_steps(len(config.data.train.read()))


def check_room(folder: Path, checkpoint_bytes: int, run: RunConfig, model_bytes: int) -> None:
    """Raises TrainingError where the disk cannot hold the checkpoints and the model.

    Process 0 looks for all.
    """
    # The best of the validations stays beside the latest.
    num_kept = run.keep + (run.validate_every > 0)
    first_does(
        lambda: _check_room(folder, checkpoint_bytes, num_kept, model_bytes),
        f"looking at the disk of {folder}",
        (TrainingError,),
    )


def _check_room(folder: Path, checkpoint_bytes: int, num_kept: int, model_bytes: int) -> None:
    there = len(_checkpoints(folder))
    # One more than are kept exists while it is written.
    needed = checkpoint_bytes * max(num_kept + 1 - there, 0) + model_bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{folder}: {num_kept} checkpoints, another while it is written and the model need "
            f"about {needed / 1e9:.2f} GB more, and {free / 1e9:.2f} GB are free"
        )


def _checkpoints(folder: Path) -> list[Path]:
    return list((folder / "checkpoints").glob("[0-9]*"))
