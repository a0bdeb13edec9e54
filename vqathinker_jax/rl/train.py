"""GRPO training, one call per stage: roll out, parse, reward, advantage, update, log, save."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqathinker_jax import __version__
from vqathinker_jax.config import Stage, TrainConfig
from vqathinker_jax.inference import normalize
from vqathinker_jax.layouts import place_batch
from vqathinker_jax.parallel import to_host
from vqathinker_jax.processes import first_says, require_agreement
from vqathinker_jax.rl.grpo import group_advantages
from vqathinker_jax.rl.reference import on_devices
from vqathinker_jax.rl.rewards import RewardTerms
from vqathinker_jax.rl.rollout import Rollout, roll_out
from vqathinker_jax.rl.run import Run, Step, open_run
from vqathinker_jax.rl.run_folder import is_finished, prepare_folder
from vqathinker_jax.rl.run_state import TrainState
from vqathinker_jax.rl.sft import Texts, anchor_texts, require_responses_fit, train_sft
from vqathinker_jax.rl.stages import (
    ParsedResponses,
    Prompts,
    compute_rewards,
    make_prompts,
    no_implicit_transfers,
    parse_texts,
    read_texts,
    response_bucket,
    response_row,
    reward_row,
    stream_keys,
)
from vqathinker_jax.rl.trainable import are_encoders_frozen
from vqathinker_jax.rl.update import UpdateBatch, response_logprobs, update
from vqathinker_jax.strict_yaml import flatten

ROLLOUT_STREAM, PARTNER_STREAM, ANCHOR_STREAM = 2, 3, 4
"""Folded into the root seed, so that draws for one purpose differ from those for any other."""
SHOWN = ("reward_total", "reward_ranking", "parse_rate", "kl_token_mean", "length_mean")


def train_stages(
    stages: Sequence[Stage], is_quiet: bool = False, profile_step: int | None = None
) -> None:
    """Trains one stage after another; the same call goes on with the first that is unfinished.

    A stage that is asked to stop is the last: the next one needs the model it would have left.

    Args:
      stages: in the order of training; the folder of an earlier one may lie in that of a later.
      is_quiet: nothing on stderr.
      profile_step: the step of the last stage to write a trace of.

    Raises:
      ProcessesError: the processes of the run were given different settings.
      What `train` raises; settings of a later stage are checked before an earlier one begins.
    """
    require_agreement(_facts(stages))
    for stage in reversed(stages):
        prepare_folder(stage.config, stage.folder)
    for stage in stages:
        if first_says(lambda stage=stage: is_finished(stage.config, stage.folder), "finding"):
            if not is_quiet and jax.process_index() == 0:
                model = stage.folder / "model"
                print(f"finished before: {model} holds its model", file=sys.stderr)
            continue
        profiled = profile_step if stage is stages[-1] else None
        if not train(stage.config, stage.folder, is_quiet, profiled):
            return


def _facts(stages: Sequence[Stage]) -> dict[str, str]:
    """What all processes of a run must have alike before they do anything together."""
    facts = {"vqathinker_jax": __version__, "jax": jax.__version__}
    for stage in stages:
        prefix = "" if stage is stages[-1] else "before."
        facts |= {f"{prefix}{key}": str(value) for key, value in flatten(stage.config).items()}
    return facts


def train(
    config: TrainConfig, run_dir: Path, is_quiet: bool = False, profile_step: int | None = None
) -> bool:
    """Trains a model as a configuration says; the same call goes on with a run that was stopped.

    RUN_DIR gets config.yaml, attempts.jsonl, metrics.jsonl, rollouts.jsonl, validation.jsonl,
    checkpoints/ and, at the end, model/: a folder in the published layout.

    Args:
      config: everything that decides the run.
      run_dir: new, empty, or the folder of the same run.
      is_quiet: nothing on stderr.
      profile_step: step to write a trace of, into RUN_DIR/profile.

    Returns:
      Whether all steps are done and nobody asked for a stop meanwhile.

    Raises:
      ConfigError: the folder holds a run with other settings.
      TrainingError: a folder without room, a loss that is not finite, a checkpoint that cannot be
        written or read.
      WeightsError, LabelError, UnreadableVideosError, OSError: model or data cannot be read.
    """
    with open_run(config, run_dir, is_quiet, profile_step) as run:
        if config.run.mode == "sft":
            train_sft(run)
        else:
            train_grpo(run)
        is_done = run.finish()
        # Also where the wish came during the last step or the export: no other stage may begin.
        return not run.must_stop() and is_done


def train_grpo(run: Run) -> None:
    """The steps of GRPO."""
    config, model = run.config, run.model
    num_videos, longest = config.run.videos_per_step, config.rollout.max_completion_length
    prompts = make_prompts(model, config.data.prompt_style, num_videos, longest)
    if config.objective.anchor_weight > 0:
        require_responses_fit(model, run.videos, longest)
    sampling = config.rollout.sampling(model.end_id, model.pad_id, model.suppressed_ids)
    if config.rollout.temporal and config.reward.variant == "paper":
        run.progress.say(
            "note: the paper's temporal reward is the same for all responses of a video, so group "
            "advantages remove it"
        )

    for step in run.steps():
        clock = step.clock
        with clock.phase("rollout"), jax.set_mesh(run.rollout_mesh):
            frames, ids, lengths, keys = place_batch(
                (step.frames, prompts.ids, prompts.lengths, run.keys(ROLLOUT_STREAM, step)),
                run.rollout_mesh,
            )
            # Nothing else refers to the sampler: it is gone before the reference's pass.
            rollout = roll_out(
                run.sampler(), normalize(frames, model.dtype), ids, lengths, keys,
                video=model.video, context_id=model.context_id, cfg=config.rollout,
                sampling=sampling,
            )  # fmt: skip
            lengths = to_host(rollout.clean.lengths)
        with clock.phase("parse"):
            texts = read_texts(model, rollout.clean)
            parsed = parse_texts(texts, config.reward.fallback, model.reasoning)
            perturbed = None
            if rollout.perturbed is not None:
                others = read_texts(model, rollout.perturbed)
                perturbed = parse_texts(others, config.reward.fallback, model.reasoning)
        with clock.phase("reward"):
            partner_key = stream_keys(
                config.run.seed, PARTNER_STREAM, step.number, np.zeros(1, np.int64)
            )[0]
            gt = jnp.asarray(step.gt)
            rewards = compute_rewards(parsed, perturbed, gt, partner_key, config.reward)
            advantages = group_advantages(
                rewards.total,
                config.advantage.ddof,
                config.advantage.eps,
                config.advantage.scale,
            )
        anchor = None
        if config.objective.anchor_weight > 0:
            anchor = anchor_texts(run, step, run.keys(ANCHOR_STREAM, step))
        pixels = normalize(step.frames, model.dtype)
        batch = pack(prompts, pixels, rollout, advantages, anchor, longest)
        if are_encoders_frozen(config.model.vision, config.model.motion):
            batch = dataclasses.replace(batch, features=rollout.features)
        batch = place_batch(batch, run.mesh)
        # Features that nothing shares go with it.
        del rollout
        with clock.phase("reference"):
            batch = with_other_policies(run, batch)
        with clock.phase("update"):
            metrics = update_policy(run, batch)

        row = make_row(rewards, parsed, perturbed, lengths, longest, metrics)
        is_unparseable = row["parse_rate"] == 0
        row["unparseable_batches"] = run.position.unparseable_batches + is_unparseable
        run.require_finite(step, row, texts)
        run.advance(step, (prompts.ids.shape[1], batch.responses.shape[2]), is_unparseable)
        run.log(step, row, int(lengths.sum()), SHOWN)
        run.log_rollouts(
            rollout_rows(step, texts, parsed, rewards, advantages, config.run.log_rollouts)
        )
        run.save_and_validate()


def pack(
    prompts: Prompts,
    pixels: jax.Array,
    rollout: Rollout,
    advantages: jax.Array,
    anchor: Texts | None,
    longest: int,
) -> UpdateBatch:
    """The batch of an update, its responses cut to the bucket of the longest text."""
    lengths = rollout.clean.lengths
    needed = int(to_host(lengths).max())
    if anchor is not None:
        needed = max(needed, anchor.longest)
    c = response_bucket(needed, longest)
    ids, weights = (None, None) if anchor is None else anchor.padded(c)
    return UpdateBatch(
        pixels=pixels,
        prompt_ids=prompts.ids,
        prompt_lengths=prompts.lengths,
        responses=rollout.clean.tokens[:, :, :c],
        response_mask=jnp.arange(c) < lengths[..., None],
        advantages=advantages,
        anchor=ids,
        text_weights=weights,
    )


def with_other_policies(run: Run, batch: UpdateBatch) -> UpdateBatch:
    """Adds the log-probs of the reference, and of the present policy where it will move on."""
    reference, old = None, None
    with no_implicit_transfers():
        if run.start.reference is not None:
            parameters = on_devices(run.start.reference)
            reference = response_logprobs(parameters, run.start.frozen, batch, run.static)
            del parameters
        if run.config.run.updates_per_rollout > 1:
            old = response_logprobs(run.state.trained, run.start.frozen, batch, run.static)
    # Waited for, so that the time is counted where it is spent.
    jax.block_until_ready((reference, old))
    return dataclasses.replace(batch, reference_logprobs=reference, old_logprobs=old)


def update_policy(run: Run, batch: UpdateBatch) -> dict[str, float]:
    """All updates of one rollout; the mean of each metric."""
    collected = []
    for _ in range(run.config.run.updates_per_rollout):
        with no_implicit_transfers():
            trained, opt_state, metrics = update(
                run.state.trained, run.start.frozen, run.state.opt_state, batch, run.static,
                run.optimizer,
            )  # fmt: skip
            values = vars(jax.device_get(metrics))
        run.state = TrainState(trained, opt_state)
        collected.append({name: float(value) for name, value in values.items()})
    return {name: float(np.mean([row[name] for row in collected])) for name in collected[0]}


def make_row(
    rewards: RewardTerms,
    parsed: ParsedResponses,
    perturbed: ParsedResponses | None,
    lengths: np.ndarray,
    longest: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """What GRPO logs of a step."""
    return {
        **reward_row(rewards),
        **response_row(parsed, lengths, longest),
        "perturbed_parse_rate": None if perturbed is None else float(perturbed.valid.mean()),
        **metrics,
    }


def rollout_rows(
    step: Step,
    texts: list[list[str]],
    parsed: ParsedResponses,
    rewards: RewardTerms,
    advantages: jax.Array,
    num_videos: int,
) -> list[dict[str, Any]]:
    """The responses to the first videos of a step in full, with what became of them."""
    values = {name: to_host(value) for name, value in vars(rewards).items()}
    values["advantage"] = to_host(advantages)
    scores, valid = to_host(parsed.scores), to_host(parsed.valid)
    rows = []
    for i in range(min(num_videos, len(texts))):
        responses = [
            {
                "text": text,
                "score": float(scores[i, k]) if valid[i, k] else None,
                **{name: float(value[i, k]) for name, value in values.items()},
            }
            for k, text in enumerate(texts[i])
        ]
        video = step.videos[i]
        rows.append(
            {"step": step.number, "id": video.id, "gt": video.score, "responses": responses}
        )
    return rows
