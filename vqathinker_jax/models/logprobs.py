"""Log-probabilities of given tokens, without ever holding all logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.parallel import constrain


def sequence_logprobs(
    decoder: Qwen2, hidden: Float[Array, "N R D"], targets: Int[Array, "N R"], chunk: int
) -> Float[Array, "N R"]:
    """`log softmax(logits(hidden))[target]`, float32, in nats, at temperature 1.

    Logits exist for `chunk` rows of every video at a time, in the forward pass and, recomputed, in
    the backward pass. Chunks are cut along the row axis within a video, so that videos stay on
    their devices.

    Args:
      decoder: gives the head; its padded vocabulary columns have no probability.
      hidden: final-norm outputs at the rows that predict `targets`.
      targets: int32 ids; any valid id at rows that the caller masks afterwards.
      chunk: rows per video and chunk, >= 1; R need not be a multiple.
    """
    return _chunked(decoder, hidden, targets, chunk, with_entropy=False)[0]


def sequence_logprobs_and_entropy(
    decoder: Qwen2, hidden: Float[Array, "N R D"], targets: Int[Array, "N R"], chunk: int
) -> tuple[Float[Array, "N R"], Float[Array, "N R"]]:
    """As `sequence_logprobs`, and the entropy `- sum_v p_v log p_v` of every row in nats."""
    return _chunked(decoder, hidden, targets, chunk, with_entropy=True)


def _chunked(decoder, hidden, targets, chunk, *, with_entropy: bool):
    if chunk < 1:
        raise ValueError(f"chunk must be >= 1, got {chunk}")
    n, r, d = hidden.shape
    if targets.shape != (n, r):
        raise ValueError(f"targets {targets.shape} for hidden {hidden.shape}")
    chunk = min(chunk, r)
    num_chunks = -(-r // chunk)
    pad = num_chunks * chunk - r
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0))).reshape(n, num_chunks, chunk, d)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(n, num_chunks, chunk)

    @jax.checkpoint
    def body(hidden: Array, targets: Array) -> tuple[Array, Array | None]:
        logits = decoder.logits(hidden)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
        # A masked sum, not a gather: with the vocabulary split over devices it stays a reduction.
        picked = jnp.where(is_target, logits, 0.0).sum(-1)
        entropy = None
        if with_entropy:
            # Tokens of probability 0, the padded columns among them, add p log p = 0.
            logprobs = logits - normaliser[..., None]
            probability = jnp.exp(logprobs)
            entropy = -(probability * jnp.where(probability > 0, logprobs, 0.0)).sum(-1)
        # The rows met the head on all devices that share it; each goes back to its own.
        return jax.tree.map(lambda a: constrain(a, "batch", None), (picked - normaliser, entropy))

    def step(_, inputs):
        return None, body(*inputs)

    chunks = (hidden.swapaxes(0, 1), targets.swapaxes(0, 1))
    _, outputs = jax.lax.scan(step, None, chunks)
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(n, num_chunks * chunk)[:, :r], outputs)
