"""The plan of a configuration on one topology: phases compiled, judged and added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.plan.chips import GIB
from vqathinker_jax.plan.job import FAILED, FITS, Job, PhaseResult
from vqathinker_jax.plan.programs import phases_of
from vqathinker_jax.plan.request import Subject, kernels_for, make_job
from vqathinker_jax.plan.suggestions import Suggestion, changes_of, suggest
from vqathinker_jax.plan.topologies import PlanError, Topology


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found for one topology."""

    topology: Topology
    config: TrainConfig
    subject: Subject
    completion: int
    results: tuple[PhaseResult, ...]
    note: str = ""
    """About the kernels that were compiled."""
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def is_compiled(self) -> bool:
        """Whether no phase failed to compile."""
        return all(result.status != FAILED for result in self.results)

    @property
    def fits(self) -> bool:
        """Whether every phase that was compiled fits."""
        return all(result.status == FITS for result in self.results)

    def seconds(self, result: PhaseResult) -> float | None:
        """Least seconds of a phase: the longest of computing, moving and sending at peak rates.

        None where no rates are known or it did not compile. What chips send each other counts only
        where it is known.
        """
        chip = self.topology.chip
        if chip.peak_flops is None or result.flops is None or result.moved_bytes is None:
            return None
        sent = result.sent_bytes or 0.0
        return max(
            result.flops / chip.peak_flops,
            result.moved_bytes / chip.memory_bandwidth,
            sent / chip.link_bandwidth,
        )

    @property
    def step_seconds(self) -> float | None:
        """Least seconds of the phases together; None where one is not known."""
        seconds = [self.seconds(result) for result in self.results]
        return None if None in seconds else sum(seconds)

    def to_json(self) -> dict[str, Any]:
        """For machines; bytes and operations are per chip."""
        mesh = self.config.mesh
        return {
            "topology": self.topology.name,
            "chips": self.topology.num_chips,
            "fits": self.fits,
            "compiled": self.is_compiled,
            "mesh": dataclasses.asdict(mesh),
            "model": self.subject.said,
            "videos_per_step": self.config.run.videos_per_step,
            "micro_batch": self.config.run.micro_batch,
            "prompt_length": self.subject.prompt_length,
            "completion": self.completion,
            "remat": self.config.model.remat,
            "note": self.note,
            "step_seconds_bound": self.step_seconds,
            "phases": [
                {**result.to_json(), "seconds_bound": self.seconds(result)}
                for result in self.results
            ],
            "suggestions": [suggestion.to_json() for suggestion in self.suggestions],
        }


def chosen_phases(config: TrainConfig, only: Sequence[str]) -> tuple[str, ...]:
    """The phases of a step, or those that were asked for.

    Raises:
      PlanError: a step of this configuration has no such phase.
    """
    phases = phases_of(config.run.mode, config.rollout.temporal, config.objective.beta)
    missing = [phase for phase in only if phase not in phases]
    if missing:
        raise PlanError(f"--only {missing[0]}: a step of this run has {', '.join(phases)}")
    return tuple(phase for phase in phases if phase in only or not only)


def make_plan(
    config: TrainConfig,
    topology: Topology,
    subject: Subject,
    completion: int,
    phases: Sequence[str],
    compile_job: Callable[[Job], PhaseResult],
    say: Callable[[str], None],
    with_suggestions: bool = True,
) -> Plan:
    """Compiles the phases and, where they do not fit, what might.

    Args:
      config: of the run, its mesh made of the chips of `topology`.
      topology: where it is to run.
      subject: the model.
      completion: response slots.
      phases: some of `PHASES`.
      compile_job: `apart.compile_apart`.
      say: shows a line of progress.
      with_suggestions: whether changes are tried where it does not fit.
    """

    def compile_phase(changed: TrainConfig, phase: str) -> PhaseResult:
        say(f"{topology.name} {phase}: compiling")
        result = compile_job(make_job(changed, topology, subject, phase, completion))
        say(f"{topology.name} {phase}: {summary(result)}")
        return result

    results = tuple(compile_phase(config, phase) for phase in phases)
    note = kernels_for(config, topology, subject)[1]
    plan = Plan(topology, config, subject, completion, results, note)
    if plan.fits or not plan.is_compiled or not with_suggestions:
        return plan

    say(f"{topology.name}: does not fit; trying changes")
    changes = changes_of(config, subject.model.decoder.num_key_value_heads)
    found = suggest(changes, results, compile_phase)
    return dataclasses.replace(plan, suggestions=tuple(found))


def summary(result: PhaseResult) -> str:
    """A result in a few words."""
    if result.status == FAILED:
        return f"could not be compiled: {result.reason}"
    total = f"{result.total_bytes / GIB:.1f}"
    if result.chip_bytes is not None:
        total += f" of {result.chip_bytes / GIB:.1f}"
    return f"{result.status}, {total} GiB per chip ({result.compile_seconds:.0f} s)"
