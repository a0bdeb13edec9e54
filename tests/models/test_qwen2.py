"""The decoder by itself: masks, steps, rematerialisation, dtypes, limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.models.tiny_decoder import make_decoder
from vqathinker_jax.models.attention import attend
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config, rotary_table, rotate
from vqathinker_jax.models.visibility import Group, Visibility
from vqathinker_jax.parallel import logical_axes
from vqathinker_jax.records import KVCache

CFG = Qwen2Config(
    vocab_size=37,
    hidden_size=24,
    intermediate_size=34,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
    vocab_multiple=8,
)


def positions_of(n: int, length: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(length), (n, length))


@nnx.jit
def run(decoder: Qwen2, embeds: jax.Array) -> jax.Array:
    return decoder(embeds, positions_of(*embeds.shape[:2]), None)


def test_attend_by_hand():
    """One query head pair on one key head: equal scores average the values they may see."""
    q = jnp.zeros((1, 3, 2, 5))
    k = jax.random.normal(jax.random.key(0), (1, 3, 1, 5))
    v = jnp.arange(15.0).reshape(1, 3, 1, 5)
    mask = jnp.array([[1, 0, 0], [1, 0, 1], [1, 1, 1]], bool)[None, None]
    out = attend(q, k, v, mask)
    np.testing.assert_allclose(out[0, 1, 0], (v[0, 0, 0] + v[0, 2, 0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(out[0, :, 0], out[0, :, 1])
    causal = attend(q, k, v, None, is_causal=True)
    np.testing.assert_allclose(causal[0, 1, 0], v[0, :2, 0].mean(0), rtol=1e-6)


def test_attend_matches_a_plain_softmax_and_groups_heads_consecutively():
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, length, heads, 5))
        for i, (length, heads) in enumerate([(3, 6), (7, 2), (7, 2)])
    )
    out = attend(q, k, v, None)
    k, v = (np.asarray(a)[:, :, [0, 0, 0, 1, 1, 1]] for a in (k, v))
    weights = np.exp(np.einsum("nlhe,nshe->nhls", q, k) / np.sqrt(5))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(out, np.einsum("nhls,nshe->nlhe", weights, v), atol=1e-6)


def test_a_fully_masked_row_is_finite():
    q = jnp.ones((1, 2, 1, 3))
    assert jnp.isfinite(attend(q, q, q, jnp.zeros((1, 1, 2, 2), bool))).all()


def test_rotary_angles_are_those_of_torch_far_into_a_prompt():
    """Compiled too: one bit of a frequency is 5e-4 of a radian at a prompt's last positions."""
    positions = np.array([[0, 1, 777, 4999]], np.int32)
    cfg = dataclasses.replace(CFG, hidden_size=128 * 6, rope_theta=1e6)
    exponents = torch.arange(0, 128, 2, dtype=torch.int64).float() / 128
    angles = torch.tensor(positions).float()[..., None] * (1.0 / (1e6**exponents))
    cos, sin = jax.jit(lambda positions: rotary_table(cfg, positions))(positions)
    np.testing.assert_allclose(cos[:, :, 0], angles.cos(), atol=2e-5)
    np.testing.assert_allclose(sin[:, :, 0], angles.sin(), atol=2e-5)


def test_rotary_by_hand():
    cfg = dataclasses.replace(CFG, hidden_size=24, num_attention_heads=6, rope_theta=100.0)
    x = jnp.array([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)  # E = 4: pairs (0, 2) and (1, 3)
    turned = rotate(x, rotary_table(cfg, jnp.array([[3]])))[0, 0, 0]
    a, b = 3.0, 3.0 / 10  # 3 * theta^0 and 3 * theta^(-2/4)
    expected = [np.cos(a), -2 * np.sin(b), np.sin(a), 2 * np.cos(b)]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_padded_vocabulary_never_wins():
    decoder = make_decoder(CFG)
    decoder.lm_head.kernel[...] = decoder.lm_head.kernel[...].at[:, 37:].set(9.0)
    logits = decoder.logits(jnp.ones((2, 24)))
    assert logits.shape == (2, 40) and logits.dtype == jnp.float32
    assert (logits[:, 37:] == -jnp.inf).all() and jnp.isfinite(logits[:, :37]).all()


def test_too_long_a_sequence_is_refused():
    decoder = make_decoder(CFG)
    embeds = jnp.zeros((1, 65, 24))
    with pytest.raises(ValueError, match="65 positions exceeds max_position_embeddings=64"):
        decoder(embeds, positions_of(1, 65), None)
    with pytest.raises(ValueError, match="max_position_embeddings=64"):
        decoder.prefill(embeds, positions_of(1, 65), None)
    packed = positions_of(1, 65) % 40
    group = Visibility(Group(15, 2, 25))
    assert jax.eval_shape(lambda: decoder(embeds, packed, group, longest=40)).shape == (1, 65, 24)


def test_steps_after_a_prefill_equal_one_full_pass():
    """Two responses per video, prompts of different lengths, garbage in the pad slots."""
    decoder = make_decoder(CFG)
    lengths, p, k, c = jnp.array([7, 4]), 7, 2, 3
    prompt = jax.random.normal(jax.random.key(2), (2, p, 24))
    response = jax.random.normal(jax.random.key(3), (2, k, c, 24))
    prefill = nnx.jit(lambda decoder, x: decoder.prefill(x, positions_of(2, p), None)[1])
    cache = prefill(decoder, prompt)
    assert cache.keys.shape == (3, 2, 2, 4, 7) and cache.values.shape == (3, 2, 2, 7, 4)
    prefix = [jax.tree.map(lambda a, i=i: a[i], cache) for i in range(3)]
    prefix_mask = jnp.arange(p) < lengths[:, None]
    empty = jnp.full((2, 2, k, 5, 4), 77.0)  # two slots more than are used
    suffix = tuple(KVCache(empty.swapaxes(3, 4), empty) for _ in range(3))

    @jax.jit
    def decode_step(embeds, positions, suffix, step):
        layers = decoder.unstacked_layers()
        return decoder.decode_step(layers, embeds, positions, prefix, prefix_mask, suffix, step)

    steps = []
    for step in range(c):
        hidden, suffix = decode_step(response[:, :, step], lengths + step, suffix, jnp.int32(step))
        steps.append(hidden)
    steps = jnp.stack(steps, 2)
    for video, length in enumerate([7, 4]):
        for sample in range(k):
            row = jnp.concatenate([prompt[video, :length], response[video, sample]])[None]
            full = run(decoder, row)[0, length:]
            np.testing.assert_allclose(steps[video, sample], full, atol=1e-5)
    assert (suffix[0].values[..., 3:, :] == 77.0).all()


def test_pads_change_nothing_that_is_real():
    decoder = make_decoder(CFG)
    embeds = jax.random.normal(jax.random.key(4), (1, 11, 24))
    short = run(decoder, embeds[:, :6])
    long = run(decoder, embeds.at[:, 6:].multiply(50.0))
    np.testing.assert_allclose(long[:, :6], short, atol=1e-5)


def test_rematerialisation_changes_no_number_and_saves_memory():
    embeds = jax.random.normal(jax.random.key(6), (2, 9, 24))
    gradients, saved = {}, {}
    for remat in ("none", "names", "full"):
        decoder = make_decoder(dataclasses.replace(CFG, remat=remat))
        graphdef, state = nnx.split(decoder)

        def loss(state, graphdef=graphdef):
            return jnp.square(nnx.merge(graphdef, state)(embeds, positions_of(2, 9), None)).sum()

        residuals = jax.eval_shape(lambda s, loss=loss: jax.vjp(loss, s)[1], state)
        saved[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
        if remat != "full":
            gradients[remat] = jax.jit(jax.grad(loss))(state)
    assert saved["none"] > saved["names"] > saved["full"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradients["none"],
        gradients["names"],
    )


def test_bfloat16_stays_close_to_float32():
    embeds = jax.random.normal(jax.random.key(7), (1, 9, 24))
    exact = run(make_decoder(CFG), embeds)
    decoder = make_decoder(CFG, jnp.bfloat16)
    hidden = run(decoder, embeds.astype(jnp.bfloat16))
    assert hidden.dtype == jnp.bfloat16 and decoder.logits(hidden).dtype == jnp.float32
    assert float(jnp.abs(hidden.astype(jnp.float32) - exact).mean()) < 0.05


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_has_logical_axes(tied):
    decoder = make_decoder(dataclasses.replace(CFG, tie_word_embeddings=tied))
    flat = nnx.to_flat_state(nnx.state(decoder))
    axes = {".".join(map(str, path)): logical_axes(path, param) for path, param in flat}
    assert axes["layers.attn.k.kernel"] == ("layers", "embed", "kv_heads", "head_dim")
    assert ("lm_head.kernel" in axes) is not tied
    assert len(axes) == (14 if tied else 15)
