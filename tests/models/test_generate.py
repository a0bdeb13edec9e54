"""Prefill and decode: shared prefixes, sampling, ends of responses, buckets, sharding."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tests.models.tiny_decoder import make_decoder
from vqathinker_jax import parallel
from vqathinker_jax.models import generate
from vqathinker_jax.models.generate import (
    SamplingConfig,
    bucket_length,
    candidates,
    choose_tokens,
    decode,
    prefill,
    suffix_capacities,
)
from vqathinker_jax.models.layers import round_up
from vqathinker_jax.models.logprobs import sequence_logprobs
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config
from vqathinker_jax.records import Generation

CFG = Qwen2Config(
    vocab_size=37,
    hidden_size=24,
    intermediate_size=34,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    vocab_multiple=8,
)
EOS, PAD = 35, 36
GREEDY = SamplingConfig(eos_id=EOS, pad_id=PAD, max_new_tokens=9)
SAMPLED = dataclasses.replace(GREEDY, temperature=4.0, top_k=20, top_p=0.95, suppressed_ids=(1, 2))


def make() -> Qwen2:
    return make_decoder(CFG)


def prompts(lengths: list[int], slots: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Prompt embeddings with loud garbage in the pad slots, and lengths."""
    embeds = np.random.default_rng(seed).standard_normal((len(lengths), slots, 24), np.float32)
    for row, length in enumerate(lengths):
        embeds[row, length:] = 99.0
    return jnp.asarray(embeds), jnp.asarray(lengths, jnp.int32)


def keys_of(*videos: int) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(11)))(jnp.array(videos))


@functools.cache
def shared() -> Generation:
    """Two responses to each of two videos, prompts of 7 and 3 tokens in 7 slots."""
    decoder = make()
    return decode(decoder, prefill(decoder, *prompts([7, 3], 7)), keys_of(4, 8), 2, SAMPLED)


def test_responses_share_a_prefix_and_equal_ones_run_alone():
    """Neither the batch, nor the place in it, nor the pads, nor K change a video's responses."""
    decoder, together = make(), shared()
    assert len({tuple(row) for row in np.asarray(together.tokens).reshape(4, -1)}) == 4
    embeds, lengths = prompts([7, 3], 7)
    swapped = prefill(decoder, embeds[::-1], lengths[::-1])
    swapped = decode(decoder, swapped, keys_of(8, 4), 2, SAMPLED)
    np.testing.assert_array_equal(swapped.tokens[::-1], together.tokens)
    alone = decode(decoder, prefill(decoder, embeds[1:, :3], lengths[1:]), keys_of(8), 1, SAMPLED)
    np.testing.assert_array_equal(alone.tokens[0, 0], together.tokens[1, 0])
    np.testing.assert_allclose(alone.logprobs[0, 0], together.logprobs[1, 0], atol=1e-4)


def test_recorded_logprobs_are_those_of_the_training_pass():
    """Untouched softmax: no temperature, truncation or suppression in the normaliser."""
    decoder, out = make(), shared()
    embeds, _ = prompts([7, 3], 7)

    @nnx.jit
    def replay(decoder, prompt, tokens):
        row = jnp.concatenate([prompt, decoder.embed_tokens(tokens, jnp.float32)])[None]
        hidden = decoder(row, jnp.arange(row.shape[1])[None], None)
        rows = hidden[:, prompt.shape[0] - 1 : -1]
        return sequence_logprobs(decoder, rows, tokens[None], 4)[0]

    for video, length in enumerate([7, 3]):
        for sample in range(2):
            count = int(out.lengths[video, sample])
            expected = replay(decoder, embeds[video, :length], out.tokens[video, sample])
            recorded = out.logprobs[video, sample]
            np.testing.assert_allclose(recorded[:count], expected[:count], atol=1e-4)
            assert (recorded[count:] == 0).all()
    assert not np.isin(out.tokens, SAMPLED.suppressed_ids).any()


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"),
    [(0, 1.0, 0.7), (5, 1.0, 0.9), (0, 0.8, 1.0), (11, 0.6, 1.7), (50, 0.01, 1.0)],
)
def test_candidates_equal_the_processors_of_transformers(top_k, top_p, temperature):
    logits = 3 * np.random.default_rng(0).standard_normal((4, 41)).astype(np.float32)
    scores = torch.tensor(logits)
    chain = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(temperature)])
    if top_k:
        chain.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(transformers.TopPLogitsWarper(top_p))
    expected = torch.softmax(chain(None, scores), -1).numpy()
    sampling = SamplingConfig(eos_id=0, pad_id=0, temperature=temperature, top_k=top_k, top_p=top_p)
    values, ids = candidates(jnp.asarray(logits), sampling)
    ours = np.zeros_like(expected)
    np.put_along_axis(ours, np.asarray(ids), np.asarray(jax.nn.softmax(values, -1)), -1)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_array_equal(ours > 0, expected > 0)


def test_draws_follow_the_distribution_and_never_a_suppressed_or_padded_id():
    logits = jnp.asarray([2.0, 1.0, 0.0, 9.0, -1.0, -jnp.inf])
    sampling = SamplingConfig(
        eos_id=0, pad_id=0, temperature=2.0, top_k=4, suppressed_ids=(3,), max_new_tokens=1
    )
    videos = keys_of(*range(50))
    draws = choose_tokens(jnp.broadcast_to(logits, (50, 80, 6)), videos, jnp.int32(3), sampling)
    share = np.bincount(np.asarray(draws).ravel(), minlength=6) / draws.size
    expected = np.exp(np.array([2.0, 1.0, 0.0, -np.inf, -1.0, -np.inf]) / 2)
    # 4,000 draws: four standard errors are 0.032.
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.032)
    assert share[3] == 0 and share[5] == 0
    greedy = dataclasses.replace(sampling, temperature=0.0)
    assert (choose_tokens(jnp.broadcast_to(logits, (1, 2, 6)), None, 0, greedy) == 3).all()


def test_draws_differ_between_steps_samples_and_videos():
    logits = jnp.zeros((3, 4, 997))
    sampling = SamplingConfig(eos_id=0, pad_id=0, temperature=1.0, top_k=0)
    draws = [choose_tokens(logits, keys_of(0, 1, 2), jnp.int32(t), sampling) for t in range(2)]
    assert len(np.unique(np.stack(draws))) > 20


def test_greedy_is_the_unmasked_argmax():
    """Reference quirk: greedy decoding may say an image placeholder, as the published one may."""
    logits = jnp.zeros((1, 1, 7)).at[..., 5].set(1.0)
    sampling = SamplingConfig(eos_id=0, pad_id=0, suppressed_ids=(5,))
    assert choose_tokens(logits, None, jnp.int32(0), sampling).item() == 5


def fixed_head(token: int) -> Qwen2:
    """A decoder that always says `token`: the last norm gives a constant feature to the head."""
    decoder = make()
    layers = decoder.layers
    for kernel in (layers.attn.o.kernel, layers.mlp.down.kernel):
        kernel[...] = jnp.zeros_like(kernel[...])
    table = decoder.embed.embedding
    table[...] = table[...].at[:, 0].set(50.0)
    decoder.lm_head.kernel[...] = jnp.zeros((24, 40)).at[0, token].set(1.0)
    return decoder


def test_a_response_that_only_ends():
    embeds, lengths = prompts([5, 3], 5)
    decoder = fixed_head(EOS)
    prefix = prefill(decoder, embeds.at[..., 0].set(50.0), lengths)
    out = decode(decoder, prefix, None, 2, GREEDY)
    assert (out.lengths == 1).all() and (out.tokens[..., 0] == EOS).all()
    assert (out.tokens[..., 1:] == PAD).all() and (out.logprobs[..., 1:] == 0).all()
    assert (out.logprobs[..., 0] < 0).all()


def test_ends_are_counted_and_padded():
    """The same draws with another end token: equal up to it, padded after it."""
    decoder, free = make(), shared()
    tokens = np.asarray(free.tokens).reshape(4, 9)
    sampling = dataclasses.replace(SAMPLED, eos_id=int(tokens[2, 1]))
    prefix = prefill(decoder, *prompts([7, 3], 7))
    out = decode(decoder, prefix, keys_of(4, 8), 2, sampling)
    for row, count, whole in zip(
        np.asarray(out.tokens).reshape(4, 9), np.asarray(out.lengths).ravel(), tokens, strict=True
    ):
        assert (row[:count] != sampling.eos_id)[:-1].all()
        assert count == 9 or (row[count - 1] == sampling.eos_id and (row[count:] == PAD).all())
        known = min(count, *(np.flatnonzero(whole == EOS) + 1), 9)
        np.testing.assert_array_equal(row[:known], whole[:known])
    assert out.lengths[1, 0] <= 2 and len(np.unique(out.lengths)) > 1


def test_the_loop_stops_when_every_response_has_ended():
    decoder = make()
    embeds, lengths = prompts([4], 4)
    prefix = prefill(decoder, embeds, lengths)
    free = decode(decoder, prefix, None, 1, GREEDY).tokens[0, 0]
    end = int(free[4])
    first = int(np.flatnonzero(np.asarray(free) == end)[0])
    sampling = dataclasses.replace(GREEDY, eos_id=end)
    graphdef, params = nnx.split(decoder)
    state = generate.start_decode(graphdef, params, prefix, None, 1, 9, sampling)
    state = generate.decode_segment(graphdef, params, prefix, None, state, jnp.int32(9), sampling)
    assert int(state.step) == first + 1 < 9 and bool(state.is_done)


def test_buffers_grow_without_changing_a_token(monkeypatch):
    decoder, whole = make(), shared()
    prefix = prefill(decoder, *prompts([7, 3], 7))
    monkeypatch.setattr(generate, "FIRST_CAPACITY", 4)
    assert suffix_capacities(9) == (4, 8, 9)
    before = generate.decode_segment._cache_size()
    for _ in range(2):
        grown = decode(decoder, prefix, keys_of(4, 8), 2, SAMPLED)
        np.testing.assert_array_equal(grown.tokens, whole.tokens)
        np.testing.assert_allclose(grown.logprobs, whole.logprobs, atol=1e-4)
    assert (grown.lengths == 9).any()
    assert generate.decode_segment._cache_size() - before == 2  # capacity 9 was there before


def test_no_step_copies_a_response_buffer():
    decoder = make()
    prefix = prefill(decoder, *prompts([7, 3], 7))
    graphdef, params = nnx.split(decoder)
    state = generate.start_decode(graphdef, params, prefix, None, 5, 9, GREEDY)
    text = (
        generate.decode_segment.lower(graphdef, params, prefix, None, state, state.step, GREEDY)
        .compile()
        .as_text()
    )
    assert "f32[2,2,5,4,9]" in text and "f32[2,2,5,9,4]" in text  # keys and values
    assert not re.search(r"f32\[2,2,5,(4,9|9,4)\]\S* copy\(", text)


def test_prompts_of_many_lengths_compile_once_per_bucket():
    decoder = make()
    sampling = dataclasses.replace(GREEDY, max_new_tokens=2)
    prefills, segments = generate.prefill_split._cache_size(), generate.decode_segment._cache_size()
    for length in (1, 9, 16, 17, 30):
        embeds, lengths = prompts([length], round_up(length, 16))
        decode(decoder, prefill(decoder, embeds, lengths), None, 1, sampling)
    assert generate.prefill_split._cache_size() - prefills == 2
    assert generate.decode_segment._cache_size() - segments == 2


def test_buckets():
    assert [bucket_length(n) for n in (1, 33, 97, 128)] == [32, 64, 128, 128]
    assert [bucket_length(n) for n in (129, 257, 513, 1700)] == [160, 288, 576, 1792]
    assert all(bucket_length(n) < 1.125 * n for n in range(256, 5000))
    assert len({bucket_length(n) for n in range(1, 4097)}) == 4096 // 128 + 16
    assert suffix_capacities(64) == (64,)
    assert suffix_capacities(1024) == (128, 256, 512, 1024)
    assert suffix_capacities(300) == (128, 256, 300)


def test_bfloat16():
    decoder = make_decoder(CFG, jnp.bfloat16)
    embeds, lengths = prompts([5, 4], 5)
    prefix = prefill(decoder, embeds.astype(jnp.bfloat16), lengths)
    assert prefix.cache.keys.dtype == jnp.bfloat16
    out = decode(decoder, prefix, keys_of(0, 1), 2, SAMPLED)
    assert out.logprobs.dtype == jnp.float32 and jnp.isfinite(out.logprobs).all()


def test_a_mesh_of_eight_devices_says_the_same():
    embeds, lengths = prompts([7, 3, 5, 6], 7)
    decoder = make()
    single = decode(decoder, prefill(decoder, embeds, lengths), None, 2, GREEDY)
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    graphdef, state = nnx.split(decoder)
    state = jax.device_put(state, parallel.state_shardings(state, mesh))
    with jax.set_mesh(mesh):
        sharded = nnx.merge(graphdef, state)
        rows = parallel.named_sharding(mesh, ("batch", "tokens", None), embeds.shape)
        prefix = prefill(sharded, jax.device_put(embeds, rows), lengths)
        assert prefix.cache.keys.sharding.shard_shape(prefix.cache.keys.shape) == (1, 1, 1, 4, 7)
        out = decode(sharded, prefix, None, 2, GREEDY)
    np.testing.assert_array_equal(out.tokens, single.tokens)
    np.testing.assert_allclose(out.logprobs, single.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"pad_id": -1}, "pad_id"),
        ({"suppressed_ids": (EOS,)}, "suppressed"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GREEDY, **change)


def test_impossible_requests_are_refused():
    decoder = make()
    prefix = prefill(decoder, *prompts([5, 4], 5))
    with pytest.raises(ValueError, match="one random key per video"):
        decode(decoder, prefix, None, 2, SAMPLED)
    with pytest.raises(ValueError, match="for \\(2,\\) videos"):
        decode(decoder, prefix, keys_of(1), 2, SAMPLED)
    with pytest.raises(ValueError, match="num_samples"):
        decode(decoder, prefix, None, 0, GREEDY)
    with pytest.raises(ValueError, match="37 is outside the vocabulary"):
        decode(decoder, prefix, None, 1, dataclasses.replace(GREEDY, pad_id=37))
    with pytest.raises(ValueError, match="513 positions exceeds"):
        decode(decoder, prefix, None, 1, dataclasses.replace(GREEDY, max_new_tokens=508))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_chunks_end_in_the_tokens_of_one_decode(sampling, monkeypatch):
    """Whatever the chunk, across a growth of the buffers too."""
    monkeypatch.setattr(generate, "FIRST_CAPACITY", 4)
    sampling = dataclasses.replace(sampling, max_new_tokens=9)
    decoder = make()
    prefix, keys = prefill(decoder, *prompts([7, 3], 7)), keys_of(4, 8)
    whole = decode(decoder, prefix, keys, 2, sampling)
    for chunk in (1, 2, 5, 100):
        chunks = generate.decode_chunks(decoder, prefix, keys, 2, sampling, chunk=chunk)
        seen = [(np.array(part.tokens), np.array(part.lengths)) for part in chunks]
        np.testing.assert_array_equal(seen[-1][0], whole.tokens)
        np.testing.assert_array_equal(seen[-1][1], whole.lengths)
        lengths = [int(length[0, 0]) for _, length in seen]
        assert lengths[0] == 1 and lengths == sorted(lengths)
        for tokens, length in seen:
            count = length[0, 0]
            np.testing.assert_array_equal(tokens[0, 0, :count], whole.tokens[0, 0, :count])
    with pytest.raises(ValueError, match="chunk must be"):
        next(generate.decode_chunks(decoder, prefix, keys, 2, sampling, chunk=0))
