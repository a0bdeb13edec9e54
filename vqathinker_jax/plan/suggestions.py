"""What would make a step fit: changes that were compiled, never guesses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.models.lora import LoraConfig
from vqathinker_jax.plan.job import FITS, TOO_LARGE, PhaseResult

ENOUGH = 2
"""Changes that make it fit, after which no more are tried."""

Compile = Callable[[TrainConfig, str], PhaseResult]
"""Compiles one phase of a configuration."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing to do about a step that does not fit."""

    options: str
    """For the command line of `train`."""
    config: TrainConfig


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A change that was compiled."""

    options: str
    fits: bool
    """Whether every phase fits with it."""
    total_bytes: int
    """Per chip, of the fullest phase that was compiled."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def changes_of(config: TrainConfig, num_heads: int) -> list[Change]:
    """What can be tried, the cheapest in speed first.

    Args:
      config: the one that does not fit.
      num_heads: key/value heads of the decoder, which `tensor` must divide.
    """
    run, mesh, model = config.run, config.mesh, config.model
    rows = mesh.data * mesh.fsdp
    found = []

    def add(options: str, **changes: Any) -> None:
        found.append(Change(options, dataclasses.replace(config, **changes)))

    if model.remat != "full":
        add("--model.remat full", model=dataclasses.replace(model, remat="full"))
    if run.micro_batch > rows:
        micro = dataclasses.replace(run, micro_batch=rows)
        add(f"--run.micro_batch {rows}", run=micro)
        if model.remat != "full":
            add(
                f"--model.remat full --run.micro_batch {rows}",
                model=dataclasses.replace(model, remat="full"),
                run=micro,
            )
    degree = 2 * mesh.rollout_degree
    if run.mode == "grpo" and num_heads % degree == 0 and mesh.size % degree == 0:
        add(
            f"--mesh.rollout_tensor {degree}",
            mesh=dataclasses.replace(mesh, rollout_tensor=degree),
        )
    if mesh.data > 1:
        add(
            f"--mesh.data 1 --mesh.fsdp {rows}",
            mesh=dataclasses.replace(mesh, data=1, fsdp=rows),
        )
    small = {"optimizer": dataclasses.replace(config.optimizer, moment_dtype="bfloat16")}
    if config.optimizer.moment_dtype != "bfloat16":
        add("--optimizer.moment_dtype bfloat16", **small)
    if run.mode == "grpo" and config.objective.beta > 0 and model.reference_memory != "host":
        host = dataclasses.replace(model, remat="full", reference_memory="host")
        add(
            "--optimizer.moment_dtype bfloat16 --model.reference_memory host --model.remat full",
            model=host,
            **small,
        )
    if mesh.fsdp % 2 == 0 and num_heads % (2 * mesh.tensor) == 0:
        fsdp, tensor = mesh.fsdp // 2, 2 * mesh.tensor
        add(
            f"--mesh.fsdp {fsdp} --mesh.tensor {tensor}",
            mesh=dataclasses.replace(mesh, fsdp=fsdp, tensor=tensor),
        )
    if model.lora is None and model.motion == "frozen":
        add(
            "--model.lora.rank 16 --model.vision projector",
            model=dataclasses.replace(model, lora=LoraConfig(), vision="projector"),
        )
    return found


def suggest(
    changes: Sequence[Change], results: Sequence[PhaseResult], compile_phase: Compile
) -> list[Suggestion]:
    """Tries changes on the phases that do not fit, and on the others where those then do.

    Args:
      changes: in the order to try.
      results: of the step as it is.
      compile_phase: compiles one phase.

    Returns:
      The changes with which everything fits first, then those that at least save memory.
    """
    bad = [result for result in results if result.status == TOO_LARGE]
    if not bad:
        return []
    fullest = max(result.total_bytes for result in bad)
    good = [result.phase for result in results if result.status == FITS]
    found: list[Suggestion] = []
    for change in changes:
        if sum(suggestion.fits for suggestion in found) == ENOUGH:
            break
        tried = [compile_phase(change.config, result.phase) for result in bad]
        fits = all(result.status == FITS for result in tried)
        if fits:
            tried += [compile_phase(change.config, phase) for phase in good]
            fits = all(result.status == FITS for result in tried)
        totals = [result.total_bytes for result in tried if result.total_bytes is not None]
        if len(totals) == len(tried) and (fits or max(totals) < fullest):
            found.append(Suggestion(change.options, fits, max(totals)))
    return sorted(found, key=lambda suggestion: (not suggestion.fits, suggestion.total_bytes))
