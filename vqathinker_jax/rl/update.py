"""The update: packed groups forwards and backwards, GRPO loss, AdamW. One compiled program.

Policy, reference and old log-probs come from the same forward pass (`policy_logprobs`), so the KL
at step 0 and the first ratio are exact.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vqathinker_jax.models.packed import ResponseLogprobs, packed_logprobs
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.parallel import constrain, constrain_tree
from vqathinker_jax.records import ClipFeatures
from vqathinker_jax.rl.grpo import LOSS_TYPES, grpo_loss
from vqathinker_jax.rl.optimizer import OptimizerConfig, apply_gradients
from vqathinker_jax.spec import VideoSpec

M = TypeVar("M")
LEAST_WEIGHT = 1e-6
"""Divisor where all tokens of given texts weigh nothing."""


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised. Defaults: the paper's Table 6.

    Raises:
      ValueError: an unknown loss type, or a negative weight.
    """

    loss_type: str = "grpo"
    beta: float = 0.04
    """Weight of the KL penalty; 0 needs no reference."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    entropy_bonus: float = 0.0
    """Weight of the mean token entropy (nats), which is raised."""
    anchor_weight: float = 0.0
    """Weight of the cross-entropy on a given text packed as one more response."""
    logprob_chunk: int = 256
    """Rows per video whose logits exist at one time."""

    def __post_init__(self) -> None:
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {LOSS_TYPES}, got {self.loss_type!r}")
        for name in ("beta", "clip_low", "clip_high", "entropy_bonus", "anchor_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.logprob_chunk < 1:
            raise ValueError(f"logprob_chunk must be at least 1, got {self.logprob_chunk}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateBatch:
    """What one update trains on; every array leads with the videos."""

    pixels: Float[Array, "N I S S 3"]
    """Normalised, compute dtype."""
    prompt_ids: Int[Array, "N P"]
    """int32, padded on the right."""
    prompt_lengths: Int[Array, "N"]
    responses: Int[Array, "N K C"]
    """int32."""
    response_mask: Bool[Array, "N K C"]
    """True up to and including the first end token."""
    advantages: Float[Array, "N K"]
    """float32."""
    old_logprobs: Float[Array, "N K C"] | None = None
    """float32, of the policy before the first update of this rollout; None: the current one."""
    reference_logprobs: Float[Array, "N K C"] | None = None
    """float32; None without KL."""
    anchor: Int[Array, "N C"] | None = None
    """int32 ids of a text to hold on to."""
    text_weights: Float[Array, "N C"] | None = None
    """float32 weights of the anchor's tokens or, in SFT, of the responses'; 0 does not count."""
    features: ClipFeatures | None = None
    """What encoders that do not train made of the pixels, which are then not looked at."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateMetrics:
    """Scalars of one update, float32."""

    loss: Float[Array, ""]
    kl_token_mean: Float[Array, ""]
    clip_fraction: Float[Array, ""]
    entropy: Float[Array, ""]
    """Mean over response tokens, nats."""
    anchor_loss: Float[Array, ""]
    """Mean cross-entropy of the anchor's tokens by their weights, nats; 0 without an anchor."""
    grad_norm: Float[Array, ""]
    """Global norm before clipping."""


@dataclasses.dataclass(frozen=True)
class Static:
    """What an update is compiled for, besides shapes."""

    graphdef: nnx.GraphDef
    video: VideoSpec
    context_id: int
    objective: ObjectiveConfig
    micro_batch: int
    """Videos per forward and backward pass; gradients are accumulated over the batch."""
    max_completion_length: int


def policy_logprobs(
    model: VQAThinker, batch: UpdateBatch, static: Static, responses: Int[Array, "N K C"]
) -> ResponseLogprobs:
    """Log-probs and entropies of responses to the videos of a batch, in one packed pass."""
    features = batch.features
    if features is None:
        features = model.clip_features(batch.pixels, static.video)
    visual, motion = model.project_images(features.images), model.project_motion(features.motion)
    embeds = model.prompt_embeds(
        batch.prompt_ids, batch.prompt_lengths, visual, motion, static.context_id
    )
    return packed_logprobs(
        model.decoder, embeds, batch.prompt_lengths, responses, static.objective.logprob_chunk
    )


@functools.partial(jax.jit, static_argnames="static")
def response_logprobs(
    trained: nnx.State, frozen: nnx.State, batch: UpdateBatch, static: Static
) -> Float[Array, "N K C"]:
    """float32 log-probs of the batch's responses, micro-batch by micro-batch, without gradient.

    With the reference's parameters in place of `trained`, the reference log-probs; with the current
    ones before the first of several updates, the old log-probs.
    """

    def one(part: UpdateBatch) -> Array:
        model = nnx.merge(static.graphdef, trained, frozen)
        return policy_logprobs(model, part, static, part.responses).logprobs

    out = jax.lax.map(one, micro_batches(batch, static.micro_batch))
    return out.swapaxes(0, 1).reshape(batch.responses.shape)


@functools.partial(
    jax.jit, static_argnames=("static", "optimizer"), donate_argnames=("trained", "opt_state")
)
def update(
    trained: nnx.State,
    frozen: nnx.State,
    opt_state: optax.OptState,
    batch: UpdateBatch,
    static: Static,
    optimizer: OptimizerConfig,
) -> tuple[nnx.State, optax.OptState, UpdateMetrics]:
    """One optimizer step on the GRPO objective of a batch.

    Args:
      trained: parameters that change; their dtype is the storage dtype (float32 masters).
      frozen: the others.
      opt_state: of `optimizer.make()` over `trained`.
      batch: N videos; N must be a multiple of `static.micro_batch`.
      static: what this is compiled for.
      optimizer: its configuration.
    """
    parts = micro_batches(batch, static.micro_batch)
    whole = _Whole(
        num_parts=parts.responses.shape[0],
        num_tokens=jnp.maximum(batch.response_mask.sum(), 1).astype(jnp.float32),
        text_weight=None if batch.text_weights is None else batch.text_weights.sum(),
    )

    def loss_of(trained: nnx.State, part: UpdateBatch) -> tuple[Array, UpdateMetrics]:
        model = nnx.merge(static.graphdef, trained, frozen)
        return _loss(model, part, static, whole)

    grads, metrics = summed_gradients(loss_of, trained, parts)
    metrics = jax.tree.map(jnp.sum, metrics)
    metrics = dataclasses.replace(metrics, grad_norm=optax.global_norm(grads))
    trained, opt_state = apply_gradients(trained, opt_state, grads, optimizer)
    return trained, opt_state, metrics


def summed_gradients(
    loss_of: Callable[[nnx.State, UpdateBatch], tuple[Array, M]],
    trained: nnx.State,
    parts: UpdateBatch,
) -> tuple[nnx.State, M]:
    """The float32 sum of the gradients of all micro-batches, and their stacked metrics.

    Gradients, and their sum, lie as the parameters do.
    """
    gradient = jax.grad(loss_of, has_aux=True)

    def accumulate(total: nnx.State, part: UpdateBatch) -> tuple[nnx.State, M]:
        grads, metrics = gradient(trained, part)
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, constrain_tree(grads))
        return constrain_tree(total), metrics

    zeros = constrain_tree(jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained))
    if parts.responses.shape[0] == 1:
        # A loop of one pass would cost a third of the speed on a CPU.
        grads, metrics = accumulate(zeros, jax.tree.map(lambda a: a[0], parts))
        return grads, jax.tree.map(lambda a: a[None], metrics)
    return jax.lax.scan(accumulate, zeros, parts)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """What each part of a batch is divided by, so that the sum over the parts is the batch's."""

    num_parts: int
    num_tokens: Float[Array, ""]
    """Kept response tokens of the batch, float32, at least 1."""
    text_weight: Float[Array, ""] | None


def _loss(
    model: VQAThinker, part: UpdateBatch, static: Static, whole: _Whole
) -> tuple[Array, UpdateMetrics]:
    """What a part adds to the loss of its batch, and to each of its metrics."""
    objective = static.objective
    k = part.responses.shape[1]
    responses = part.responses
    if part.anchor is not None:
        responses = jnp.concatenate([responses, part.anchor[:, None]], axis=1)
    out = policy_logprobs(model, part, static, responses)
    grpo = grpo_loss(
        out.logprobs[:, :k],
        part.old_logprobs,
        part.reference_logprobs,
        part.response_mask,
        part.advantages,
        objective.beta,
        objective.clip_low,
        objective.clip_high,
        objective.loss_type,
        static.max_completion_length,
        whole.num_tokens,
    )
    # "dapo" already divides by the tokens of the whole batch; the others are means over parts.
    loss = grpo.loss if objective.loss_type == "dapo" else grpo.loss / whole.num_parts
    entropy = jnp.where(part.response_mask, out.entropy[:, :k], 0).sum() / whole.num_tokens
    if objective.entropy_bonus > 0:
        loss = loss - objective.entropy_bonus * entropy
    anchor_loss = jnp.float32(0)
    if part.anchor is not None:
        anchor_loss = -weighted_sum(out.logprobs[:, k], part.text_weights) / jnp.maximum(
            whole.text_weight, LEAST_WEIGHT
        )
        loss = loss + objective.anchor_weight * anchor_loss
    token_share = part.response_mask.sum().astype(jnp.float32) / whole.num_tokens
    return loss, UpdateMetrics(
        loss=loss,
        kl_token_mean=grpo.kl_token_mean * token_share,
        clip_fraction=grpo.clip_fraction * token_share,
        entropy=jax.lax.stop_gradient(entropy),
        anchor_loss=jax.lax.stop_gradient(anchor_loss),
        grad_norm=jnp.float32(0),
    )


def weighted_sum(x: Float[Array, "..."], weights: Float[Array, "..."]) -> Float[Array, ""]:
    """sum(weights * x); what weighs nothing has no influence, NaN included."""
    return jnp.where(weights > 0, weights * x, 0).sum()


def micro_batches(batch: UpdateBatch, size: int) -> UpdateBatch:
    """Adds a leading axis of micro-batches; groups are never split.

    Micro-batch i has every M-th video from the i-th on, M being their number: each device then
    works on videos that it holds already.
    """
    num = batch.responses.shape[0]
    if num % size:
        raise ValueError(f"a batch of {num} videos is not a multiple of micro_batch={size}")

    def split(a: Array) -> Array:
        parts = a.reshape(size, num // size, *a.shape[1:]).swapaxes(0, 1)
        return constrain(parts, None, "batch", *[None] * (a.ndim - 1))

    return jax.tree.map(split, batch)
