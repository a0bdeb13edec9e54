"""Chunked log-probs: equal to the plain formula, in value, gradient, memory and layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_decoder import make_decoder
from vqathinker_jax import parallel
from vqathinker_jax.models.logprobs import sequence_logprobs, sequence_logprobs_and_entropy
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config

CFG = Qwen2Config(
    vocab_size=37,
    hidden_size=24,
    intermediate_size=34,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_multiple=8,
)


def make() -> Qwen2:
    return make_decoder(CFG)


def inputs(dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    hidden = 5 * jax.random.normal(jax.random.key(0), (2, 7, 24), jnp.float32)
    return hidden.astype(dtype), jax.random.randint(jax.random.key(1), (2, 7), 0, 37)


def plain(decoder: Qwen2, hidden: jax.Array, targets: jax.Array) -> jax.Array:
    logprobs = jax.nn.log_softmax(decoder.logits(hidden)[..., :37], axis=-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_equals_the_plain_formula(chunk):
    decoder, (hidden, targets) = make(), inputs()
    out = sequence_logprobs(decoder, hidden, targets, chunk)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, plain(decoder, hidden, targets), atol=1e-6)


def test_by_hand():
    """A head of zeros: every one of the 37 real tokens is equally likely."""
    decoder, (hidden, targets) = make(), inputs()
    decoder.lm_head.kernel[...] = jnp.zeros((24, 40))
    logprobs, entropy = sequence_logprobs_and_entropy(decoder, hidden, targets, 3)
    np.testing.assert_allclose(logprobs, -np.log(37), rtol=1e-6)
    np.testing.assert_allclose(entropy, np.log(37), rtol=1e-6)


def test_entropy():
    decoder, (hidden, targets) = make(), inputs()
    logprobs, entropy = sequence_logprobs_and_entropy(decoder, hidden, targets, 2)
    everything = jax.nn.log_softmax(decoder.logits(hidden)[..., :37], axis=-1)
    np.testing.assert_allclose(entropy, -(jnp.exp(everything) * everything).sum(-1), atol=1e-5)
    np.testing.assert_allclose(logprobs, sequence_logprobs(decoder, hidden, targets, 2))


def test_gradients_equal_the_unchunked_ones():
    decoder, (hidden, targets) = make(), inputs()
    weights = jnp.arange(14.0).reshape(2, 7)

    def objective(function):
        return lambda decoder, hidden: (function(decoder, hidden) * weights).sum()

    chunked = objective(lambda d, h: sequence_logprobs(d, h, targets, 3))
    full = objective(lambda d, h: plain(d, h, targets))
    ours = nnx.jit(nnx.grad(chunked, argnums=(0, 1)))(decoder, hidden)
    expected = nnx.jit(nnx.grad(full, argnums=(0, 1)))(decoder, hidden)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-4)
    ours, expected = ours[0].lm_head.kernel[...], expected[0].lm_head.kernel[...]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)
    assert (ours[:, 37:] == 0).all() and float(jnp.abs(ours).max()) > 1

    def entropy(decoder, hidden):
        return sequence_logprobs_and_entropy(decoder, hidden, targets, 3)[1].sum()

    gradient = nnx.grad(entropy, argnums=1)(decoder, hidden)
    assert jnp.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 0


def test_bfloat16_rows_give_float32_logprobs_and_gradients():
    decoder, (hidden, targets) = make(), inputs(jnp.bfloat16)

    def total(decoder, hidden):
        return sequence_logprobs(decoder, hidden, targets, 3).sum()

    value, (kernel, rows) = nnx.value_and_grad(total, argnums=(0, 1))(decoder, hidden)
    exact = plain(decoder, hidden.astype(jnp.float32), targets).sum()
    assert value.dtype == jnp.float32 and kernel.lm_head.kernel[...].dtype == jnp.float32
    assert rows.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=2e-3)


def test_no_array_holds_all_logits():
    graphdef, state = nnx.split(make())
    hidden, targets = jnp.zeros((2, 70, 24)), jnp.zeros((2, 70), jnp.int32)

    def gradient(state, hidden):
        decoder = nnx.merge(graphdef, state)
        return sequence_logprobs(decoder, hidden, targets, 5).sum()

    text = jax.jit(jax.grad(gradient, argnums=(0, 1))).lower(state, hidden).as_text()
    shapes = [f"tensor<{lead}x40xf32>" for lead in ("2x5", "2x70", "140", "2x14x5", "14x2x5")]
    assert [shape in text for shape in shapes] == [True, False, False, False, False]


def test_split_vocabulary_needs_reductions_only():
    """Videos over `data`, vocabulary over `tensor`: no gather of logits or of rows."""
    mesh = parallel.make_mesh(data=2, tensor=2)
    graphdef, state = nnx.split(make())
    state = jax.device_put(state, parallel.state_shardings(state, mesh))
    rows = parallel.named_sharding(mesh, ("batch", "tokens", None), (2, 7, 24))
    hidden, targets = inputs()

    def total(state, hidden, targets):
        return sequence_logprobs(nnx.merge(graphdef, state), hidden, targets, 3)

    with jax.set_mesh(mesh):
        arguments = (state, jax.device_put(hidden, rows), targets)
        compiled = jax.jit(total).lower(*arguments).compile()
        out = compiled(*arguments)
    text = compiled.as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text
    np.testing.assert_allclose(out, sequence_logprobs(make(), hidden, targets, 3), atol=1e-5)


def test_wrong_arguments_are_refused():
    decoder, (hidden, targets) = make(), inputs()
    with pytest.raises(ValueError, match="chunk must be >= 1"):
        sequence_logprobs(decoder, hidden, targets, 0)
    with pytest.raises(ValueError, match=r"targets \(2, 6\)"):
        sequence_logprobs(decoder, hidden, targets[:, :6], 3)
