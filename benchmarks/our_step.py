"""One GRPO step of ours: the stages of `rl/train.py`, without a run's folder and logs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from vqathinker_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.dataset import LabelSource
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.inference import LoadedModel, normalize
from vqathinker_jax.models.generate import SamplingConfig
from vqathinker_jax.parallel import make_mesh, to_host
from vqathinker_jax.records import Generation
from vqathinker_jax.rl.grpo import group_advantages
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rewards import RewardConfig
from vqathinker_jax.rl.rollout import RolloutConfig, roll_out
from vqathinker_jax.rl.run_log import Clock
from vqathinker_jax.rl.run_state import TrainState
from vqathinker_jax.rl.stages import (
    compute_rewards,
    make_prompts,
    parse_texts,
    read_texts,
    stream_keys,
)
from vqathinker_jax.rl.start import load_start, make_sampler
from vqathinker_jax.rl.train import pack
from vqathinker_jax.rl.update import Static, UpdateBatch, response_logprobs, update
from vqathinker_jax.spec import VideoSpec

REWARDS = RewardConfig()


def training_config(
    folder: Path, video: VideoSpec, rollout: RolloutConfig, *, videos: int, seed: int
) -> TrainConfig:
    """float32, everything trains that the published configuration trains, nothing recomputed."""
    return TrainConfig(
        model=ModelConfig(path=str(folder), dtype="float32", remat="none"),
        data=DataConfig(train=LabelSource("unread.jsonl", ".", "1-5")),
        run=RunConfig(steps=1000, videos_per_step=videos, seed=seed),
        video=video,
        rollout=rollout,
        optimizer=OptimizerConfig(total_steps=1000),
    )


class Trainer:
    """The state of a run in memory, and the stages over it.

    Args:
      config: of the run; its labels are never read.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.mesh = make_mesh()
        self.start = load_start(config, self.mesh, (), Path(config.model.path))
        trained = self.start.trained
        opt_state = config.optimizer.initial_state(trained, self.mesh, config.run.seed)
        self.state = TrainState(trained, opt_state)
        self.model: LoadedModel = self.start.model
        self.prompts = make_prompts(
            self.model,
            config.data.prompt_style,
            config.run.videos_per_step,
            config.rollout.max_completion_length,
        )
        self.static = Static(
            graphdef=self.model.graphdef,
            video=config.video,
            context_id=self.model.context_id,
            objective=config.objective,
            micro_batch=config.run.micro_batch,
            max_completion_length=config.rollout.max_completion_length,
        )

    @property
    def sampling(self) -> SamplingConfig:
        """How responses are drawn."""
        model = self.model
        return self.config.rollout.sampling(model.end_id, model.pad_id, model.suppressed_ids)

    def reference_logprobs(self, batch: UpdateBatch) -> Float[Array, "N K C"]:
        """Of the parameters that the run started from."""
        start = self.start
        out = response_logprobs(start.reference, start.frozen, batch, self.static)
        return jax.block_until_ready(out)

    def update(self, batch: UpdateBatch) -> tuple[float, float]:
        """One update; the loss and the norm of its gradient."""
        trained, opt_state, metrics = update(
            self.state.trained,
            self.start.frozen,
            self.state.opt_state,
            batch,
            self.static,
            self.config.optimizer,
        )
        self.state = TrainState(trained, opt_state)
        jax.block_until_ready(self.state)
        return float(metrics.loss), float(metrics.grad_norm)

    def step(self, paths: Sequence[str], gt: Float32[np.ndarray, "N"], number: int) -> StepOutcome:
        """One whole step on the clips in `paths`, each of them decoded once."""
        clock, config = Clock(), self.config
        with jax.set_mesh(self.mesh):
            with clock.phase("decode"):
                request = FrameRequest.of(config.video)
                frames = np.stack([read_clip(path, request).frames for path in paths])
            with clock.phase("rollout"):
                pixels = normalize(jnp.asarray(frames), "float32")
                rollout = roll_out(
                    make_sampler(self.start, self.state.trained, self.mesh, "float32"),
                    pixels,
                    self.prompts.ids,
                    self.prompts.lengths,
                    stream_keys(config.run.seed, 2, number, np.arange(len(paths))),
                    video=config.video,
                    context_id=self.model.context_id,
                    cfg=config.rollout,
                    sampling=self.sampling,
                )
                jax.block_until_ready(rollout)
            with clock.phase("reward"):
                advantages = score(self.model, rollout.clean, rollout.perturbed, gt, number)
            longest = config.rollout.max_completion_length
            batch = pack(self.prompts, pixels, rollout, jnp.asarray(advantages), None, longest)
            with clock.phase("reference"):
                reference = self.reference_logprobs(batch)
                batch = dataclasses.replace(batch, reference_logprobs=reference)
            with clock.phase("update"):
                loss, grad_norm = self.update(batch)
        return StepOutcome(batch, to_host(rollout.clean.lengths), loss, grad_norm, clock.seconds)


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """What a step did."""

    batch: UpdateBatch
    lengths: Int[np.ndarray, "N K"]
    """Tokens of the responses to the clean clips."""
    loss: float
    grad_norm: float
    seconds: dict[str, float]
    """By phase."""


def score(
    model: LoadedModel,
    clean: Generation,
    perturbed: Generation,
    gt: Float32[np.ndarray, "N"],
    number: int,
) -> Float32[np.ndarray, "N K"]:
    """Texts, scores, rewards and advantages, the same for both sides of the benchmark.

    Random weights write no scores and earn no rewards, so advantages drawn at random are added:
    without them the gradient would be zero.
    """
    parsed, other = (parse_texts(read_texts(model, each)) for each in (clean, perturbed))
    rewards = compute_rewards(parsed, other, jnp.asarray(gt), jax.random.key(number), REWARDS)
    drawn = np.random.default_rng(number).standard_normal(clean.lengths.shape, np.float32)
    return np.asarray(group_advantages(rewards.total)) + drawn
