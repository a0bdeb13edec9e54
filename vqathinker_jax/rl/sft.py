"""Supervised fine-tuning: the videos of a run with a text for each, cross-entropy on the text."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from transformers import PreTrainedTokenizerBase

from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.inference import LoadedModel, normalize
from vqathinker_jax.layouts import place_batch
from vqathinker_jax.rl.optimizer import OptimizerConfig, apply_gradients
from vqathinker_jax.rl.responses import SftConfig, naming_sentences, response_text
from vqathinker_jax.rl.run import Run, Step
from vqathinker_jax.rl.run_state import TrainingError, TrainState
from vqathinker_jax.rl.stages import make_prompts, no_implicit_transfers, response_bucket
from vqathinker_jax.rl.update import (
    LEAST_WEIGHT,
    Static,
    UpdateBatch,
    micro_batches,
    policy_logprobs,
    summed_gradients,
    weighted_sum,
)

TEXT_STREAM = 5
"""Folded into the root seed for the scores that are drawn at random."""
SHOWN = ("loss", "likelihood", "grad_norm")


@dataclasses.dataclass(frozen=True)
class Texts:
    """One text per video, as tokens."""

    ids: tuple[np.ndarray, ...]
    """int32, the end token included."""
    weights: tuple[np.ndarray, ...]
    """float32, one per token; 0 where it does not count."""
    pad_id: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.ids))

    def padded(self, c: int) -> tuple[Int[Array, "N C"], Float[Array, "N C"]]:
        """Ids and weights in `c` slots."""
        ids = np.full((len(self.ids), c), self.pad_id, np.int32)
        weights = np.zeros(ids.shape, np.float32)
        for row, (tokens, weight) in enumerate(zip(self.ids, self.weights, strict=True)):
            ids[row, : len(tokens)] = tokens
            weights[row, : len(tokens)] = weight
        return jnp.asarray(ids), jnp.asarray(weights)


def make_texts(
    model: LoadedModel,
    videos: tuple[LabelledVideo, ...],
    keys: Key[Array, "N"],
    cfg: SftConfig,
    longest: int,
) -> Texts:
    """The texts of a batch.

    Args:
      model: whose tokenizer to use.
      videos: the batch.
      keys: one per video, for scores drawn at random.
      cfg: how texts are made; digits count in the first texts, `digit_share` of all, rounded up.
      longest: `rollout.max_completion_length`.

    Raises:
      TrainingError: a text has more than `longest` tokens; its video is named.
    """
    scores = [video.score for video in videos]
    if cfg.random_scores:
        scores = jax.device_get(_even_scores(keys))
    num_with_digits = math.ceil(cfg.digit_share * len(videos))
    ids, weights = [], []
    for i, (video, score) in enumerate(zip(videos, scores, strict=True)):
        text = response_text(video, float(score), cfg.random_scores, model.reasoning)
        tokens = _tokens_of(model, video, text, longest)
        weight = np.ones(len(tokens), np.float32)
        if cfg.name_weight != 1 or cfg.name_weights:
            for name, sentence in _names_in(text, video, model.tokenizer):
                weight[sentence] = cfg.weight_of(name)
        if i >= num_with_digits:
            weight[[_has_digit(model.tokenizer, token) for token in tokens]] = 0
        ids.append(np.array(tokens, np.int32))
        weights.append(weight)
    return Texts(tuple(ids), tuple(weights), model.pad_id)


def require_responses_fit(
    model: LoadedModel, videos: tuple[LabelledVideo, ...], longest: int
) -> None:
    """Raises TrainingError where a response given with a label has more than `longest` tokens.

    Texts composed from distortions are short; `make_texts` looks at them as well.
    """
    if model.reasoning:
        for video in videos:
            if video.response is not None:
                _tokens_of(model, video, video.response, longest)


def _tokens_of(model: LoadedModel, video: LabelledVideo, text: str, longest: int) -> list[int]:
    tokens = [*model.tokenizer.encode(text, add_special_tokens=False), model.end_id]
    if len(tokens) > longest:
        raise TrainingError(
            f"the text of {video.id} has {len(tokens)} tokens, its end included, more than "
            f"rollout.max_completion_length {longest}: raise that, or shorten the text"
        )
    return tokens


def _names_in(
    text: str, video: LabelledVideo, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, slice]]:
    """Each distortion that a composed text names, and the tokens of its sentence."""
    sentences = () if video.response is not None else naming_sentences(video.distortions or ())
    end = text.find(" ".join(sentence for _, sentence in sentences))
    if not sentences or end < 0:
        return

    def tokens_to(end: int) -> int:
        return len(tokenizer.encode(text[:end].rstrip(), add_special_tokens=False))

    # Words are cut before their space.
    first = tokens_to(end)
    for name, sentence in sentences:
        end += len(sentence)
        last = tokens_to(end)
        yield name, slice(first, last)
        first, end = last, end + 1


@jax.jit
@jax.vmap
def _even_scores(key: Key[Array, ""]) -> Float[Array, ""]:
    return jax.random.uniform(key, (), minval=1, maxval=5)


def anchor_texts(run: Run, step: Step, keys: Key[Array, "N"]) -> Texts:
    """What GRPO holds on to: the same texts, never with their true scores, digits not counted."""
    cfg = dataclasses.replace(run.config.sft, random_scores=True, digit_share=0.0)
    return make_texts(run.model, step.videos, keys, cfg, run.config.rollout.max_completion_length)


@functools.lru_cache(maxsize=1024)
def _has_digit(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    return any(character.isdigit() for character in tokenizer.decode([token]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SftMetrics:
    """Scalars of one update, float32."""

    loss: Float[Array, ""]
    """Mean cross-entropy of the batch's tokens by their weights, nats."""
    likelihood: Float[Array, ""]
    """Mean probability of the counted tokens."""
    entropy: Float[Array, ""]
    """Mean over the counted tokens, nats."""
    grad_norm: Float[Array, ""]
    """Global norm before clipping."""


@functools.partial(
    jax.jit, static_argnames=("static", "optimizer"), donate_argnames=("trained", "opt_state")
)
def sft_update(
    trained: nnx.State,
    frozen: nnx.State,
    opt_state: optax.OptState,
    batch: UpdateBatch,
    static: Static,
    optimizer: OptimizerConfig,
) -> tuple[TrainState, SftMetrics]:
    """One optimizer step on `-mean log p(token)` over the tokens of the batch by their weights.

    Args:
      trained, frozen, opt_state, static, optimizer: as `update.update`.
      batch: `responses` [N, 1, C] are the texts, `text_weights` [N, C] weigh their tokens, and
        `response_mask` is True where they are not 0; advantages are not looked at.
    """
    parts = micro_batches(batch, static.micro_batch)
    total_weight = jnp.maximum(batch.text_weights.sum(), LEAST_WEIGHT)
    num_tokens = jnp.maximum(batch.response_mask.sum(), 1).astype(jnp.float32)

    def loss_of(trained: nnx.State, part: UpdateBatch) -> tuple[Array, SftMetrics]:
        model = nnx.merge(static.graphdef, trained, frozen)
        out = policy_logprobs(model, part, static, part.responses)
        loss = -weighted_sum(out.logprobs[:, 0], part.text_weights) / total_weight
        likelihood = jnp.where(part.response_mask, jnp.exp(out.logprobs), 0).sum() / num_tokens
        entropy = jnp.where(part.response_mask, out.entropy, 0).sum() / num_tokens
        return loss, SftMetrics(loss, likelihood, entropy, jnp.float32(0))

    grads, metrics = summed_gradients(loss_of, trained, parts)
    metrics = jax.tree.map(lambda values: jnp.sum(values), metrics)
    metrics = dataclasses.replace(metrics, grad_norm=optax.global_norm(grads))
    trained, opt_state = apply_gradients(trained, opt_state, grads, optimizer)
    return TrainState(trained, opt_state), metrics


def train_sft(run: Run) -> None:
    """The steps of supervised fine-tuning."""
    config, model = run.config, run.model
    num_videos, longest = config.run.videos_per_step, config.rollout.max_completion_length
    prompts = make_prompts(model, config.data.prompt_style, num_videos, longest)
    require_responses_fit(model, run.videos, longest)

    for step in run.steps():
        with step.clock.phase("texts"):
            pixels = normalize(step.frames, model.dtype)
            keys = run.keys(TEXT_STREAM, step)
            texts = make_texts(model, step.videos, keys, config.sft, longest)
            ids, weights = texts.padded(response_bucket(texts.longest, longest))
        batch = UpdateBatch(
            pixels=pixels,
            prompt_ids=prompts.ids,
            prompt_lengths=prompts.lengths,
            responses=ids[:, None],
            response_mask=weights[:, None] > 0,
            advantages=jnp.zeros((num_videos, 1), jnp.float32),
            text_weights=weights,
        )
        batch = place_batch(batch, run.mesh)
        with step.clock.phase("update"), no_implicit_transfers():
            run.state, metrics = sft_update(
                run.state.trained, run.start.frozen, run.state.opt_state, batch, run.static,
                run.optimizer,
            )  # fmt: skip
            values = vars(jax.device_get(metrics))

        row = {name: float(value) for name, value in values.items()}
        num_tokens = sum(map(len, texts.ids))
        row["length_mean"] = num_tokens / num_videos
        run.require_finite(step, row, [[model.tokenizer.decode(text)] for text in texts.ids])
        run.advance(step, (prompts.ids.shape[1], ids.shape[1]))
        run.log(step, row, num_tokens, SHOWN)
        run.save_and_validate()
