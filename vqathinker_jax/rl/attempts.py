"""What is known of a run at the moment it is started or resumed: for its report."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import jax
from flax import nnx

from vqathinker_jax import __version__
from vqathinker_jax.inference import LoadedModel


def attempt_row(
    step: int,
    num_steps: int,
    model: LoadedModel,
    trained: nnx.State,
    frozen: nnx.State,
    num_videos: tuple[int, int],
    mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
    """A row of RUN/attempts.jsonl.

    Args:
      step: that the attempt goes on from.
      num_steps: of the whole run.
      model: with the label that it will carry.
      trained, frozen: its parameters.
      num_videos: of training and of validation.
      mesh: of the run.
    """
    device = mesh.devices.flat[0]
    return {
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps": num_steps,
        "model": model.name,
        "kind": model.kind,
        "videos": num_videos[0],
        "validation_videos": num_videos[1],
        "trained_parameters": count(trained),
        "frozen_parameters": count(frozen),
        "device": device.device_kind,
        "num_devices": mesh.size,
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "vqathinker_jax": __version__,
    }


def count(state: nnx.State) -> int:
    """Numbers in a state."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
