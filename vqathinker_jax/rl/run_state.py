"""The checkpoints of a run: everything that a resumed run needs, written without waiting."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from vqathinker_jax.data.dataset import StreamState
from vqathinker_jax.weights.checkpoint import quiet_orbax

ARRAYS, FACTS = "arrays", "facts"


class TrainingError(RuntimeError):
    """A run that cannot start or go on; one line for the user."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an update changes."""

    trained: nnx.State
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class RunPosition:
    """Where a run is, between two steps."""

    step: int = 0
    """Steps done."""
    stream: StreamState = StreamState()
    """Of the batch last trained on."""
    buckets: tuple[tuple[int, int], ...] = ()
    """(P, C) seen so far: programs that were compiled."""
    unparseable_batches: int = 0
    """Steps in which no score could be read from any response."""
    start: str = ""
    """Fingerprint of the model that the run started from."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> RunPosition:
        buckets = tuple(tuple(bucket) for bucket in data["buckets"])
        # Version 0.1.0 wrote no `skipped`: its counts were those of one process.
        stream = {**data["stream"], "skipped": tuple(data["stream"].get("skipped", ()))}
        return RunPosition(**{**data, "stream": StreamState(**stream), "buckets": buckets})


class RunCheckpoints:
    """`RUN/checkpoints/STEP/`: written in the background, complete or not there at all.

    The latest `keep` stay, and beside them the one with the best validation.
    """

    def __init__(self, folder: Path, keep: int):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        best = policies.BestN(get_metric_fn=_merit, n=1, keep_checkpoints_without_metrics=False)
        policy = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        with quiet_orbax():
            self._manager = ocp.CheckpointManager(
                folder.absolute(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policy,
                    best_fn=_merit,
                    save_decision_policy=policies.FixedIntervalPolicy(1),
                    cleanup_tmp_directories=True,
                ),
            )

    def latest_step(self) -> int | None:
        """The last complete checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The checkpoint with the highest merit in validation; None without any validation."""
        with quiet_orbax():
            return self._manager.best_step()

    def save(self, state: TrainState, position: RunPosition, merit: float | None) -> None:
        """Starts writing a checkpoint; the arrays may be donated as soon as this returns.

        Args:
          merit: what validation found, the higher the better; None or NaN: nothing.

        Raises:
          TrainingError: this one or the one before could not be written.
        """
        import orbax.checkpoint as ocp

        metrics = None if merit is None or not math.isfinite(merit) else {"merit": merit}
        try:
            with quiet_orbax():
                self._manager.save(
                    position.step,
                    args=ocp.args.Composite(
                        **{
                            ARRAYS: ocp.args.StandardSave(_flat(state)),
                            FACTS: ocp.args.JsonSave(position.to_json()),
                        }
                    ),
                    metrics=metrics,
                )
        except (OSError, ValueError) as error:
            raise TrainingError(f"checkpoint of step {position.step}: {error}") from error

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, RunPosition]:
        """A checkpoint, its arrays laid out as those of `like`.

        Args:
          like: arrays, or their `ShapeDtypeStruct`s with shardings.
          step: of the checkpoint.

        Raises:
          TrainingError: it does not fit `like`, or is damaged.
        """
        import orbax.checkpoint as ocp

        target = _flat(jax.tree.map(_abstract, like))
        try:
            with quiet_orbax():
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{
                            ARRAYS: ocp.args.StandardRestore(target),
                            FACTS: ocp.args.JsonRestore(),
                        }
                    ),
                )
        except Exception as error:  # damaged files raise nearly anything
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise TrainingError(f"checkpoint of step {step} cannot be read: {reason[0]}") from error
        arrays = restored[ARRAYS]
        names = list(_flat(like))
        state = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
        return state, RunPosition.from_json(restored[FACTS])

    def wait(self) -> None:
        """Until everything is on disk.

        Raises:
          TrainingError: something could not be written.
        """
        try:
            with quiet_orbax():
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise TrainingError(f"checkpoint: {error}") from error

    def close(self) -> None:
        with quiet_orbax():
            self._manager.close()


def _merit(metrics: dict[str, float]) -> float:
    return metrics["merit"]


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def given_up(state: TrainState) -> TrainState:
    """What a state looked like whose arrays are freed here, whoever else refers to them.

    Beside what a checkpoint brings, they would be parameters and moments a second time.
    """
    like = jax.tree.map(_abstract, state)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return like


def _flat(state: TrainState) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
