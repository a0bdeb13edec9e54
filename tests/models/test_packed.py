"""Packed groups against K separate sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.logprobs import sequence_logprobs
from vqathinker_jax.models.packed import packed_logprobs
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config
from vqathinker_jax.models.visibility import Group

CONFIG = Qwen2Config(
    vocab_size=53,
    hidden_size=24,
    intermediate_size=37,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_type="default",
    vocab_multiple=8,
)
LENGTHS = np.array([7, 11, 5], np.int32)


def make_decoder() -> Qwen2:
    return Qwen2(CONFIG, param_dtype=jnp.float32, rngs=nnx.Rngs(3))


def make_groups(k: int, c: int, p: int = 11, seed: int = 0):
    """Prompts of ragged length with garbage in the pads, responses, and their masks."""
    rng = np.random.default_rng(seed)
    embeds = rng.normal(size=(len(LENGTHS), p, CONFIG.hidden_size)).astype(np.float32)
    for i, length in enumerate(LENGTHS):
        embeds[i, length:] = 1e3
    responses = rng.integers(0, CONFIG.vocab_size, (len(LENGTHS), k, c)).astype(np.int32)
    lengths = rng.integers(1, c + 1, (len(LENGTHS), k))
    lengths[0, 0] = 1  # a response that is its end token only
    mask = np.arange(c) < lengths[..., None]
    return jnp.asarray(embeds), jnp.asarray(responses), jnp.asarray(mask)


def naive_logprobs(decoder, embeds, responses, i):
    """The K responses of a video as K unpadded rows, the layout of the published trainer."""
    length, num = int(LENGTHS[i]), responses.shape[1]
    prompts = jnp.broadcast_to(embeds[i, :length], (num, length, embeds.shape[-1]))
    joined = jnp.concatenate([prompts, decoder.embed_tokens(responses[i], embeds.dtype)], axis=1)
    positions = jnp.broadcast_to(jnp.arange(joined.shape[1], dtype=jnp.int32), joined.shape[:2])
    hidden = decoder(joined, positions, None)[:, length - 1 : -1]
    return sequence_logprobs(decoder, hidden, responses[i], chunk=responses.shape[2])


def packed_loss(decoder, embeds, responses, mask, weights):
    out = packed_logprobs(decoder, embeds, jnp.asarray(LENGTHS), responses, chunk=5)
    return jnp.where(mask, out.logprobs * weights[..., None], 0).sum()


def naive_loss(decoder, embeds, responses, mask, weights):
    total = jnp.float32(0)
    for i in range(responses.shape[0]):
        logprobs = naive_logprobs(decoder, embeds, responses, i)
        total += jnp.where(mask[i], logprobs * weights[i][:, None], 0).sum()
    return total


def largest(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("k", [2, 5, 8])
def test_packed_equals_naive_in_loss_and_gradients(k):
    decoder = make_decoder()
    embeds, responses, mask = make_groups(k, c=6)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=mask.shape[:2]).astype(np.float32))
    graphdef, params = nnx.split(decoder)

    def value_and_grad(loss):
        return jax.jit(
            jax.value_and_grad(
                lambda params, embeds: loss(
                    nnx.merge(graphdef, params), embeds, responses, mask, weights
                ),
                argnums=(0, 1),
            )
        )(params, embeds)

    packed, packed_grads = value_and_grad(packed_loss)
    naive, naive_grads = value_and_grad(naive_loss)
    np.testing.assert_allclose(packed, naive, rtol=1e-5)
    difference = jax.tree.map(lambda a, b: a - b, packed_grads, naive_grads)
    assert largest(difference) <= 1e-5 * largest(naive_grads)


def test_other_responses_and_pads_have_no_influence():
    decoder = make_decoder()
    embeds, responses, _ = make_groups(k=3, c=6)
    lengths = jnp.asarray(LENGTHS)
    before = packed_logprobs(decoder, embeds, lengths, responses, chunk=7).logprobs
    changed = responses.at[:, 1].set((responses[:, 1] + 1) % CONFIG.vocab_size)
    pads = jnp.arange(embeds.shape[1]) >= lengths[:, None]
    garbage = jnp.where(pads[..., None], -777.0, embeds)
    after = packed_logprobs(decoder, garbage, lengths, changed, chunk=7).logprobs
    np.testing.assert_array_equal(before[:, [0, 2]], after[:, [0, 2]])
    assert float(jnp.abs(before[:, 1] - after[:, 1]).min(axis=-1).max()) > 1e-3


def test_longer_slots_change_nothing():
    decoder = make_decoder()
    embeds, responses, _ = make_groups(k=3, c=6)
    lengths = jnp.asarray(LENGTHS)
    short = packed_logprobs(decoder, embeds, lengths, responses, chunk=4)
    embeds = jnp.pad(embeds, ((0, 0), (0, 5), (0, 0)), constant_values=9.0)
    responses = jnp.pad(responses, ((0, 0), (0, 0), (0, 3)), constant_values=1)
    long = packed_logprobs(decoder, embeds, lengths, responses, chunk=4)
    np.testing.assert_allclose(long.logprobs[..., :6], short.logprobs, atol=2e-6)
    np.testing.assert_allclose(long.entropy[..., :6], short.entropy, atol=2e-6)


def test_training_pass_gives_the_samplers_logprobs():
    decoder = make_decoder()
    embeds, _, _ = make_groups(k=4, c=9)
    lengths = jnp.asarray(LENGTHS)
    keys = jax.random.split(jax.random.key(0), len(LENGTHS))
    sampling = SamplingConfig(
        eos_id=2, pad_id=1, max_new_tokens=9, temperature=0.7, top_k=9, suppressed_ids=(4, 5)
    )
    generation = decode(decoder, prefill(decoder, embeds, lengths), keys, 4, sampling)
    out = packed_logprobs(decoder, embeds, lengths, generation.tokens, chunk=8)
    mask = jnp.arange(9) < generation.lengths[..., None]
    np.testing.assert_allclose(
        jnp.where(mask, out.logprobs, 0), jnp.where(mask, generation.logprobs, 0), atol=1e-5
    )


def test_group_mask_by_hand():
    # two prompt slots, two responses of two
    wanted = """
    100000
    110000
    111000
    111100
    110010
    110011
    """
    rows = [[c == "1" for c in row] for row in wanted.split()]
    slot = np.arange(6)
    np.testing.assert_array_equal(Group(2, 2, 2).sees(slot[:, None], slot[None]), rows)
