"""Prefill once per video, then decode K responses that read the shared prefix.

Two programs are compiled: one per prompt bucket (`prefill`) and one per capacity of the response
buffers (`decode_segment`). Both are jitted here over the decoder's split state, so a caller passes
the module and never jits it again:

    prefix = prefill(decoder, embeds, lengths)
    generation = decode(decoder, prefix, keys, num_samples=4, sampling=sampling)

Lengths that vary from batch to batch are padded to `bucket_length`, and responses grow through
`suffix_capacities`; the number of programs is the number of buckets, whatever the lengths.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vqathinker_jax.models.layers import round_up
from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.parallel import constrain
from vqathinker_jax.records import Generation, KVCache, Prefix

FIRST_CAPACITY = 128
"""Response slots allocated before the first growth; doubled until they suffice."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen and when a response ends.

    Raises:
      ValueError: a value outside its range, or an end token that is suppressed.
    """

    eos_id: int
    """`<|im_end|>`: ends a response and counts in its length."""
    pad_id: int
    """`<|endoftext|>`: fills the slots after the end."""
    max_new_tokens: int = 1024
    """C: the longest response, end token included."""
    temperature: float = 0.0
    """Divides the logits; 0 is greedy, the published argmax over the whole vocabulary."""
    top_k: int = 50
    """Sampling keeps this many of the likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Sampling then keeps the likeliest tokens that together reach this probability."""
    suppressed_ids: tuple[int, ...] = ()
    """Never sampled (image placeholders). Greedy decoding ignores this, as published."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be finite and >= 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 keeps all), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if min(self.eos_id, self.pad_id, *self.suppressed_ids) < 0:
            raise ValueError("eos_id, pad_id and suppressed_ids must be >= 0")
        if self.eos_id in self.suppressed_ids:
            raise ValueError(f"eos_id {self.eos_id} is suppressed: no response could end")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and no randomness is used."""
        return self.temperature == 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """A decode between two segments."""

    step: Int[Array, ""]
    """int32 tokens chosen so far."""
    is_done: Bool[Array, ""]
    """Whether every response has ended."""
    ended: Bool[Array, "N K"]
    last: Int[Array, "N K"]
    """int32 tokens chosen last, not yet in the suffix."""
    generation: Generation
    suffix: tuple[KVCache, ...]
    """Per layer, rows `[N, G, K]` of as many slots as the present capacity."""


def bucket_length(length: int) -> int:
    """The prompt slots P to pad to: the least multiple of a step that holds them.

    The step is an eighth of the power of two at or below the length, at least 32 and at most 128:
    prompts of 256 tokens and more are padded by less than an eighth, and lengths up to M need
    M / 128 + 16 programs at most. Pad to the longest prompt of the batch, not to the configured
    maximum.
    """
    length = max(length, 1)
    return round_up(length, 2 ** min(max(length.bit_length() - 4, 5), 7))


def suffix_capacities(max_new_tokens: int) -> tuple[int, ...]:
    """The sizes response buffers grow through: 128, 256, 512, ... capped at `max_new_tokens`."""
    capacities = [min(FIRST_CAPACITY, max_new_tokens)]
    while capacities[-1] < max_new_tokens:
        capacities.append(min(2 * capacities[-1], max_new_tokens))
    return tuple(capacities)


def prefill(decoder: Qwen2, embeds: Float[Array, "N P D"], lengths: Int[Array, "N"]) -> Prefix:
    """Runs the prompts once; what K responses of each video then read.

    Args:
      decoder: the language decoder.
      embeds: spliced prompt embeddings, real tokens first, anything finite in the pad slots.
      lengths: int32 real lengths p_i, 1 <= p_i <= P.

    Raises:
      ValueError: P exceeds `max_position_embeddings`.
    """
    graphdef, params = nnx.split(decoder)
    return prefill_split(graphdef, params, embeds, lengths)


@functools.partial(jax.jit, static_argnums=0)
def prefill_split(
    graphdef: nnx.GraphDef, params: nnx.State, embeds: Array, lengths: Array
) -> Prefix:
    """`prefill` of a decoder that is split already: the program that it compiles."""
    decoder = nnx.merge(graphdef, params)
    n, p, _ = embeds.shape
    positions = jnp.broadcast_to(jnp.arange(p, dtype=jnp.int32), (n, p))
    # Pads stand on the right, so the causal mask alone hides them from every real token.
    hidden, cache = decoder.prefill(embeds, positions, None)
    cache = jax.tree.map(lambda a: constrain(a, "layers", "batch", "kv_heads", None, None), cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    last = constrain(last, "batch", None)
    return Prefix(cache=cache, lengths=lengths.astype(jnp.int32), last_hidden=last)


def decode(
    decoder: Qwen2,
    prefix: Prefix,
    keys: Key[Array, "N"] | None,
    num_samples: int,
    sampling: SamplingConfig,
) -> Generation:
    """Decodes K responses to each video until all have ended or are `max_new_tokens` long.

    The draw of token t of response k of a video depends on that video's key, k and t alone: not
    on the batch it is in, nor on its place there. The host looks at the device once per growth of
    the response buffers and never per token.

    Args:
      decoder: the decoder that made `prefix`.
      prefix: of N videos.
      keys: one typed key per video (fold the purpose and the video's id into the root key); may be
        None when greedy.
      num_samples: K.
      sampling: how to choose tokens.

    Raises:
      ValueError: no keys for sampling, a token id outside the vocabulary, or P + C beyond
        `max_position_embeddings`.
    """
    for so_far in decode_chunks(decoder, prefix, keys, num_samples, sampling, chunk=None):
        generation = so_far
    return generation


def decode_chunks(
    decoder: Qwen2,
    prefix: Prefix,
    keys: Key[Array, "N"] | None,
    num_samples: int,
    sampling: SamplingConfig,
    *,
    chunk: int | None,
) -> Iterator[Generation]:
    """`decode`, seen while it happens: the same tokens from the same compiled programs.

    Args:
      decoder, prefix, keys, num_samples, sampling: as for `decode`.
      chunk: tokens between two looks; None: only where the response buffers grow.

    Yields:
      The responses so far, at least once; the last are those of `decode`. Each one's arrays are
      given away when the next is asked for: copy what is to be kept.

    Raises:
      ValueError: as `decode`, or a chunk below 1.
    """
    _check(decoder, prefix, keys, num_samples, sampling)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be >= 1, got {chunk}")
    graphdef, params = nnx.split(decoder)
    capacities = suffix_capacities(sampling.max_new_tokens)
    state = start_decode(graphdef, params, prefix, keys, num_samples, capacities[0], sampling)
    yield state.generation
    done = 1
    for capacity in capacities:
        if capacity > capacities[0]:
            if bool(state.is_done):
                return
            state = _grow(state, capacity)
        stop = min(capacity + 1, sampling.max_new_tokens)
        while done < stop:
            if chunk is not None and bool(state.is_done):
                return
            done = stop if chunk is None else min(done + chunk, stop)
            state = decode_segment(graphdef, params, prefix, keys, state, jnp.int32(done), sampling)
            yield state.generation


def _check(decoder, prefix, keys, num_samples, sampling) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    if keys is None and not sampling.is_greedy:
        raise ValueError("sampling at a temperature above 0 needs one random key per video")
    if keys is not None and keys.shape != prefix.lengths.shape:
        raise ValueError(f"{keys.shape} keys for {prefix.lengths.shape} videos")
    vocab_size = decoder.cfg.vocab_size
    largest = max(sampling.eos_id, sampling.pad_id, *sampling.suppressed_ids, 0)
    if largest >= vocab_size:
        raise ValueError(f"token id {largest} is outside the vocabulary of {vocab_size}")
    decoder.check_length(prefix.cache.num_slots + sampling.max_new_tokens)


@functools.partial(jax.jit, static_argnames=("graphdef", "num_samples", "capacity", "sampling"))
def start_decode(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    prefix: Prefix,
    keys: Key[Array, "N"] | None,
    num_samples: int,
    capacity: int,
    sampling: SamplingConfig,
) -> DecodeState:
    """Allocates the buffers and chooses the first token of every response."""
    decoder = nnx.merge(graphdef, params)
    cfg = decoder.cfg
    n, k, c = prefix.lengths.shape[0], num_samples, sampling.max_new_tokens
    rows, e, dtype = (n, cfg.num_key_value_heads, k), cfg.head_dim, prefix.cache.keys.dtype
    suffix = tuple(
        KVCache(jnp.zeros((*rows, e, capacity), dtype), jnp.zeros((*rows, capacity, e), dtype))
        for _ in range(cfg.num_hidden_layers)
    )
    logits = decoder.logits(prefix.last_hidden)
    logits = jnp.broadcast_to(logits[:, None], (n, k, logits.shape[-1]))
    state = DecodeState(
        step=jnp.int32(0),
        is_done=jnp.bool_(False),
        ended=jnp.zeros((n, k), bool),
        last=jnp.zeros((n, k), jnp.int32),
        generation=Generation(
            tokens=jnp.full((n, k, c), sampling.pad_id, jnp.int32),
            lengths=jnp.zeros((n, k), jnp.int32),
            logprobs=jnp.zeros((n, k, c), jnp.float32),
        ),
        suffix=jax.tree.map(_constrain_rows, suffix),
    )
    return _record(state, logits, keys, sampling)


@functools.partial(jax.jit, static_argnames="capacity")
def _grow(state: DecodeState, capacity: int) -> DecodeState:
    """The same state with longer response buffers."""

    def longer(a: Array, axis: int) -> Array:
        pad = [(0, 0)] * a.ndim
        pad[axis] = (0, capacity - a.shape[axis])
        return _constrain_rows(jnp.pad(a, pad))

    suffix = tuple(KVCache(longer(kv.keys, 4), longer(kv.values, 3)) for kv in state.suffix)
    return dataclasses.replace(state, suffix=suffix)


@functools.partial(jax.jit, static_argnames=("graphdef", "sampling"), donate_argnames="state")
def decode_segment(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    prefix: Prefix,
    keys: Key[Array, "N"] | None,
    state: DecodeState,
    stop: Int[Array, ""],
    sampling: SamplingConfig,
) -> DecodeState:
    """Decodes until `stop` tokens are chosen or every response has ended; one `while_loop`.

    Args:
      stop: int32, at most the suffix capacity + 1 and at most C; dynamic, so any number of tokens
        can be decoded at a time by one program.
    """
    decoder = nnx.merge(graphdef, params)
    layers = decoder.unstacked_layers()
    caches = [jax.tree.map(lambda a, i=i: a[i], prefix.cache) for i in range(len(layers))]
    prefix_mask = jnp.arange(prefix.cache.num_slots) < prefix.lengths[:, None]

    def is_running(state: DecodeState) -> Array:
        return (state.step < stop) & ~state.is_done

    def one_token(state: DecodeState) -> DecodeState:
        slot = state.step - 1
        embeds = decoder.embed_tokens(state.last, prefix.last_hidden.dtype)
        hidden, suffix = decoder.decode_step(
            layers, embeds, prefix.lengths + slot, caches, prefix_mask, state.suffix, slot
        )
        suffix = jax.tree.map(_constrain_rows, suffix)
        state = dataclasses.replace(state, suffix=suffix)
        return _record(state, decoder.logits(hidden), keys, sampling)

    return jax.lax.while_loop(is_running, one_token, state)


def _constrain_rows(a: Array) -> Array:
    return constrain(a, "batch", "kv_heads", "samples", None, None)


def _record(
    state: DecodeState, logits: Array, keys: Array | None, sampling: SamplingConfig
) -> DecodeState:
    """Chooses a token of every response from `logits` [N, K, V] and writes it down."""
    chosen = choose_tokens(logits, keys, state.step, sampling)
    picked = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
    logprob = picked - jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.where(state.ended, sampling.pad_id, chosen)
    logprob = jnp.where(state.ended, 0.0, logprob)
    ended = state.ended | (chosen == sampling.eos_id)
    old = state.generation

    def write(buffer: Array, column: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, column[..., None], state.step, axis=2)

    generation = Generation(
        tokens=write(old.tokens, chosen),
        lengths=old.lengths + (~state.ended).astype(jnp.int32),
        logprobs=write(old.logprobs, logprob),
    )
    # Said at every token, so that one layout goes in and out of every segment: another would be
    # another program.
    by_video = jax.tree.map(
        lambda a: constrain(a, "batch", *[None] * (a.ndim - 1)), (ended, chosen, generation)
    )
    return DecodeState(state.step + 1, ended.all(), *by_video, suffix=state.suffix)


def choose_tokens(
    logits: Float[Array, "N K V"],
    keys: Key[Array, "N"] | None,
    step: Int[Array, ""],
    sampling: SamplingConfig,
) -> Int[Array, "N K"]:
    """int32 ids: the argmax when greedy, else a draw from `candidates`."""
    if sampling.is_greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    values, ids = candidates(logits, sampling)
    samples = jnp.arange(logits.shape[1])

    def draw(key: Array, values: Array) -> Array:
        def one(sample: Array, values: Array) -> Array:
            key_of_token = jax.random.fold_in(jax.random.fold_in(key, sample), step)
            return jax.random.categorical(key_of_token, values)

        return jax.vmap(one)(samples, values)

    place = jax.vmap(draw)(keys, values)
    return jnp.take_along_axis(ids, place[..., None], axis=-1)[..., 0].astype(jnp.int32)


def candidates(
    logits: Float[Array, "... V"], sampling: SamplingConfig
) -> tuple[Float[Array, "... M"], Int[Array, "... M"]]:
    """The tokens that may be drawn: their scores (-inf = never) and ids.

    Suppression, then temperature, then top-k, then top-p (a token stays if the tokens likelier
    than it sum to less than `top_p`; the likeliest always stays), as in transformers' processors,
    except that of tokens tied at rank `top_k` only the first ones stay.
    """
    scores = logits / sampling.temperature
    if sampling.suppressed_ids:
        scores = scores.at[..., jnp.asarray(sampling.suppressed_ids)].set(-jnp.inf)
    vocab = scores.shape[-1]
    if sampling.top_k == 0 and sampling.top_p == 1:
        return scores, jnp.broadcast_to(jnp.arange(vocab), scores.shape)
    # Sorted, likeliest first; top-p never needs to look past the top k.
    scores, ids = jax.lax.top_k(scores, min(sampling.top_k or vocab, vocab))
    if sampling.top_p < 1:
        likelihood = jax.nn.softmax(scores, axis=-1)
        likelier = jnp.cumsum(likelihood, axis=-1) - likelihood
        scores = jnp.where(likelier < sampling.top_p, scores, -jnp.inf)
    return scores, ids
