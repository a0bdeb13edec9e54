"""Adapters: nothing changes at first, then what merging says; draws, layout, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from tests.models.tiny_decoder import make_decoder
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.lora import TARGETS, LoraConfig, add_adapters, has_adapters, is_adapter
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config
from vqathinker_jax.parallel import make_mesh

CFG = Qwen2Config(
    vocab_size=37,
    hidden_size=24,
    intermediate_size=34,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
    vocab_multiple=8,
)
LORA = LoraConfig(rank=3, alpha=5.0)
GREEDY = SamplingConfig(eos_id=35, pad_id=36, max_new_tokens=4)


def adapted(lora: LoraConfig = LORA, *, seed: int = 7, dtype: str = "float32", mesh=None) -> Qwen2:
    decoder = make_decoder(CFG)
    add_adapters(decoder, lora, dtype, seed, make_mesh() if mesh is None else mesh)
    return decoder


def layer_of(decoder: Qwen2, name: str):
    block, part = TARGETS[name]
    return getattr(getattr(decoder.layers, block), part)


def with_random_b(decoder: Qwen2) -> Qwen2:
    """Trained a little: B is no longer 0."""
    rng = np.random.default_rng(5)

    def fill(path: tuple, param: nnx.Variable) -> nnx.Variable:
        if path[-2:] != ("adapter", "b"):
            return param
        return param.replace(jnp.asarray(0.3 * rng.standard_normal(param.shape, np.float32)))

    graphdef, state = nnx.split(decoder)
    return nnx.merge(graphdef, nnx.map_state(fill, state))


def merged(decoder: Qwen2, lora: LoraConfig = LORA) -> Qwen2:
    """The same function without adapters: `kernel + alpha / rank * A B`, made by NumPy."""
    plain = make_decoder(CFG)
    for name in lora.targets:
        source, target = layer_of(decoder, name), layer_of(plain, name)
        kernel, a, b = (
            np.asarray(p[...]) for p in (source.kernel, source.adapter.a, source.adapter.b)
        )
        change = [np.tensordot(a[i], b[i], 1) for i in range(len(a))]
        target.kernel[...] = jnp.asarray(kernel + lora.alpha / lora.rank * np.stack(change))
    return plain


@nnx.jit
def run(decoder: Qwen2, embeds: jax.Array) -> jax.Array:
    n, length, _ = embeds.shape
    return decoder(embeds, jnp.broadcast_to(jnp.arange(length), (n, length)), None)


@pytest.fixture(scope="module")
def embeds() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, 5, 24))


def test_new_adapters_change_no_bit(embeds):
    decoder = adapted()
    assert has_adapters(decoder) and not has_adapters(make_decoder(CFG))
    np.testing.assert_array_equal(run(decoder, embeds), run(make_decoder(CFG), embeds))


def test_adapters_compute_what_their_merged_kernels_do(embeds):
    decoder = with_random_b(adapted())
    other = merged(decoder)
    hidden = run(decoder, embeds)
    np.testing.assert_allclose(hidden, run(other, embeds), atol=1e-5)
    assert np.abs(hidden - run(make_decoder(CFG), embeds)).max() > 0.1
    # Token by token too.
    lengths = jnp.array([5, 3], jnp.int32)
    first, second = (
        decode(one, prefill(one, embeds, lengths), None, 2, GREEDY) for one in (decoder, other)
    )
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-4)


def test_only_the_targets_have_adapters_of_the_dtype_asked_for():
    decoder = adapted(LoraConfig(2, 4.0, ("o_proj", "up_proj")), dtype="bfloat16")
    flat = dict(nnx.to_flat_state(nnx.state(decoder)))
    found = {path: param.get_value() for path, param in flat.items() if is_adapter(path)}
    assert {path[1:3] for path in found} == {("attn", "o"), ("mlp", "up")}
    assert {value.dtype for value in found.values()} == {jnp.dtype("bfloat16")}
    assert found["layers", "attn", "o", "adapter", "a"].shape == (2, 6, 4, 2)
    assert found["layers", "attn", "o", "adapter", "b"].shape == (2, 2, 24)
    assert flat["layers", "attn", "o", "kernel"].get_value().dtype == jnp.float32


def test_a_is_uniform_within_one_over_the_root_of_the_inputs_and_b_is_zero():
    decoder = adapted()
    for name, inputs in (("q_proj", 24), ("o_proj", 24), ("down_proj", 34)):
        adapter = layer_of(decoder, name).adapter
        a, bound = np.asarray(adapter.a[...]), inputs**-0.5
        assert 0.9 * bound < np.abs(a).max() <= bound and abs(a.mean()) < 0.2 * bound
        np.testing.assert_allclose(a.std(), bound / 3**0.5, rtol=0.15)
        assert not np.asarray(adapter.b[...]).any()
    k, v = (np.asarray(layer_of(decoder, name).adapter.a[...]) for name in ("k_proj", "v_proj"))
    assert not np.array_equal(k, v) and not np.array_equal(k[0], k[1])
    again, other = (np.asarray(adapted(seed=s).layers.attn.k.adapter.a[...]) for s in (7, 8))
    assert np.array_equal(k, again) and not np.array_equal(k, other)


def test_adapters_are_laid_out_as_the_kernels_they_adapt():
    decoder = adapted(mesh=make_mesh(data=2, fsdp=2, tensor=2))
    for name, a, b in (
        ("q_proj", (None, "fsdp", None), (None, None, "tensor", None)),
        ("o_proj", (None, "tensor", None, None), (None, None, "fsdp")),
        ("up_proj", (None, "fsdp", None), (None, None, "tensor")),
        ("down_proj", (None, "tensor", None), (None, None, "fsdp")),
    ):
        adapter = layer_of(decoder, name).adapter
        assert adapter.a[...].sharding.spec == PartitionSpec(*a)
        assert adapter.b[...].sharding.spec == PartitionSpec(*b)
    b = layer_of(decoder, "q_proj").adapter.b[...]
    assert b.sharding.shard_shape(b.shape) == (2, 3, 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": -4}, "rank must be at least 1, got -4"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"targets": ("q_proj", "qkv")}, "some of q_proj, .* got q_proj, qkv"),
        ({"targets": ()}, "got none"),
        ({"targets": ("q_proj", "q_proj")}, "each once"),
    ],
)
def test_impossible_adapters_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**settings)


def test_scale_and_description():
    assert LoraConfig(rank=16, alpha=8.0).scale == 0.5
    assert str(LoraConfig(4, 8.0, ("v_proj",))) == "LoRA of rank 4, alpha 8, on v_proj"
