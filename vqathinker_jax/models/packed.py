"""The training layout: a prompt and its K responses as one sequence, computed in one pass.

A group is packed as `[prompt slot P | r1 slot C | ... | rK slot C]`, L = P + K * C. Every response
sees the prompt and itself and starts at the position after the prompt's last real token, so the
numbers are those of K separate sequences, while prompt and vision are computed once.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.logprobs import sequence_logprobs_and_entropy
from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.models.visibility import Group, Visibility


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ResponseLogprobs:
    """What the training pass says of the responses of a batch."""

    logprobs: Float[Array, "N K C"]
    """float32 log-probability of each token in nats, at temperature 1."""
    entropy: Float[Array, "N K C"]
    """float32 entropy in nats of the distribution each token was drawn from."""


def packed_visibility(prompt_lengths: Int[Array, "N"], group: Group) -> Visibility:
    """Who sees whom in a batch of groups: the pads inside each prompt slot are not real.

    Args:
      prompt_lengths: int32 real prompt lengths p_i.
      group: the slots.
    """
    slot = jnp.arange(group.length)
    is_real = (slot < prompt_lengths[:, None]) | (slot >= group.prompt_slots)
    return Visibility(group, is_real)


def packed_positions(
    prompt_lengths: Int[Array, "N"], prompt_slots: int, num_responses: int, response_slots: int
) -> Int[Array, "N L"]:
    """Rotary positions: 0.. in the prompt slot, p_i.. in every response slot."""
    num = prompt_lengths.shape[0]
    prompt = jnp.broadcast_to(jnp.arange(prompt_slots, dtype=jnp.int32), (num, prompt_slots))
    inside = jnp.tile(jnp.arange(response_slots, dtype=jnp.int32), num_responses)
    return jnp.concatenate([prompt, prompt_lengths[:, None] + inside], axis=1)


def packed_logprobs(
    decoder: Qwen2,
    prompt_embeds: Float[Array, "N P D"],
    prompt_lengths: Int[Array, "N"],
    responses: Int[Array, "N K C"],
    chunk: int,
) -> ResponseLogprobs:
    """Log-probabilities and entropies of K responses to each of N prompts, in one forward pass.

    Args:
      decoder: the language decoder.
      prompt_embeds: spliced prompts, padded on the right with anything finite.
      prompt_lengths: int32 real lengths p_i, 1 <= p_i <= P.
      responses: int32 token ids; any valid id after the end token (those slots are masked by the
        caller and seen by nothing that is kept).
      chunk: rows per video whose logits exist at one time.

    Raises:
      ValueError: P + C exceeds `max_position_embeddings`.
    """
    num, k, c = responses.shape
    p = prompt_embeds.shape[1]
    flat = responses.reshape(num, k * c)
    embeds = jnp.concatenate(
        [prompt_embeds, decoder.embed_tokens(flat, prompt_embeds.dtype)], axis=1
    )
    hidden = decoder(
        embeds,
        packed_positions(prompt_lengths, p, k, c),
        packed_visibility(prompt_lengths, Group(p, k, c)),
        longest=p + c,
    )
    # Token 0 of a response is predicted by the prompt's last real row, token t by row t - 1.
    last = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)
    first = jnp.broadcast_to(last[:, :, None], (num, k, 1, hidden.shape[-1]))
    rest = hidden[:, p:].reshape(num, k, c, -1)[:, :, :-1]
    rows = jnp.concatenate([first, rest], axis=2).reshape(num, k * c, -1)
    logprobs, entropy = sequence_logprobs_and_entropy(decoder, rows, flat, chunk)
    return ResponseLogprobs(logprobs.reshape(num, k, c), entropy.reshape(num, k, c))
