"""Groups of K responses to one prompt, forwards and backwards: packed, and as K whole rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.logprobs import sequence_logprobs_and_entropy
from vqathinker_jax.models.packed import ResponseLogprobs, packed_logprobs
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config

Logprobs = Callable[[Qwen2, Array, Array, int], ResponseLogprobs]
"""(decoder, prompt embeddings, responses, chunk) -> log-probs and entropies."""


@dataclasses.dataclass(frozen=True)
class Group:
    """N prompts with K responses each; every prompt fills its P slots."""

    prompts: Float[np.ndarray, "N P D"]
    responses: Int[np.ndarray, "N K C"]
    weights: Float[np.ndarray, "N K"]
    """What the log-probs of each response are multiplied by, as advantages do."""


def random_group(
    cfg: Qwen2Config, videos: int, prompt: int, samples: int, tokens: int, seed: int
) -> Group:
    """Random embeddings, ids and weights, float32 and int32."""
    rng = np.random.default_rng(seed)
    return Group(
        prompts=rng.standard_normal((videos, prompt, cfg.hidden_size), np.float32),
        responses=rng.integers(0, cfg.vocab_size, (videos, samples, tokens), np.int32),
        weights=rng.standard_normal((videos, samples), np.float32),
    )


def packed(
    decoder: Qwen2, prompts: Float[Array, "N P D"], responses: Int[Array, "N K C"], chunk: int
) -> ResponseLogprobs:
    """The layout of training: a prompt and its K responses are one sequence of P + K C."""
    lengths = jnp.full(prompts.shape[0], prompts.shape[1], jnp.int32)
    return packed_logprobs(decoder, prompts, lengths, responses, chunk)


def rows(
    decoder: Qwen2, prompts: Float[Array, "N P D"], responses: Int[Array, "N K C"], chunk: int
) -> ResponseLogprobs:
    """The naive layout: N K sequences of P + C, each with a copy of its prompt."""
    n, k, c = responses.shape
    flat = responses.reshape(n * k, c)
    tokens = decoder.embed_tokens(flat, prompts.dtype)
    embeds = jnp.concatenate([jnp.repeat(prompts, k, axis=0), tokens], axis=1)
    length = embeds.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (n * k, length))
    hidden = decoder(embeds, positions, None)[:, prompts.shape[1] - 1 : -1]
    # As many rows of logits at a time as the packed layout has.
    logprobs, entropy = sequence_logprobs_and_entropy(decoder, hidden, flat, max(1, chunk // k))
    return ResponseLogprobs(logprobs.reshape(n, k, c), entropy.reshape(n, k, c))


class Gradients:
    """Loss and gradients of a group in one layout, compiled once.

    The loss is `- mean(weight * logprob)`; gradients are those of every parameter of the decoder
    and of the prompts' embeddings, through which the vision tower would train. The entropy is
    computed forwards, as `rl/update.py` logs it.

    Args:
      decoder: its parameters.
      group: the inputs.
      layout: `packed` or `rows`.
      chunk: rows per video whose logits exist at one time.
    """

    def __init__(self, decoder: Qwen2, group: Group, layout: Logprobs, chunk: int):
        graphdef, params = nnx.split(decoder)

        def loss_of(params: nnx.State, prompts: Array, responses: Array, weights: Array):
            out = layout(nnx.merge(graphdef, params), prompts, responses, chunk)
            return -(weights[..., None] * out.logprobs).mean(), out.entropy.mean()

        self._arguments = (
            params,
            *map(jnp.asarray, (group.prompts, group.responses, group.weights)),
        )
        step = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))
        self._step = step.lower(*self._arguments).compile()
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes

    def __call__(self) -> tuple[float, Float[np.ndarray, "N P D"]]:
        """The loss and the prompts' gradient; waits for all gradients."""
        (loss, _), (_, prompts) = jax.block_until_ready(self._step(*self._arguments))
        return float(loss), np.asarray(prompts)
