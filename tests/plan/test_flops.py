"""Operations of traced programs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.qwen2 import DecoderLayer, rotary_table
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.plan.flops import count_flops


def flops(function, *shapes, **options) -> float:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flops(jax.jit(function).trace(*arguments).jaxpr.jaxpr, **options)


def test_products_and_batches():
    assert flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    batched = flops(lambda a, b: jnp.einsum("nij,njk->nik", a, b), (2, 3, 5), (2, 5, 7))
    assert batched == 2 * 2 * 3 * 5 * 7


def test_convolutions_and_their_groups():
    def convolve(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=2
        )

    # 5 x 7 places, 6 output channels, a 3 x 3 window on half of the 4 input channels.
    assert flops(convolve, (1, 5, 7, 4), (3, 3, 2, 6)) == 2 * 5 * 7 * 6 * 3 * 3 * 2


def test_scans_count_every_pass_and_remat_the_forward_pass_again():
    def loss(a, b):
        def step(carry, _):
            return jax.checkpoint(lambda x: jnp.tanh(x @ b))(carry), None

        return jax.lax.scan(step, a, None, length=5)[0].sum()

    one = 2 * 3 * 7 * 7
    assert flops(loss, (3, 7), (7, 7)) == 5 * one
    # Forwards, once more, and the gradient by a; by b it would be one more.
    assert flops(jax.grad(loss), (3, 7), (7, 7)) == 3 * 5 * one
    assert flops(jax.grad(loss, argnums=(0, 1)), (3, 7), (7, 7)) == 4 * 5 * one


def test_while_loops_need_their_length():
    def loop(a, b):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ b, a)

    assert flops(loop, (3, 7), (7, 7), loop_trips=11) == 11 * 2 * 3 * 7 * 7
    with pytest.raises(ValueError, match="loop_trips"):
        flops(loop, (3, 7), (7, 7))


def test_branches_count_the_longest():
    def branch(a, b):
        return jax.lax.cond(a.sum() > 0, lambda: a @ b @ b, lambda: a @ b)

    assert flops(branch, (3, 7), (7, 7)) == 2 * 2 * 3 * 7 * 7


def test_shard_map_counts_all_devices():
    mesh = make_mesh(fsdp=8)
    spec = jax.sharding.PartitionSpec("fsdp")

    def product(a, b):
        inner = lambda a, b: a @ b  # noqa: E731
        whole = jax.sharding.PartitionSpec()
        return jax.shard_map(inner, mesh=mesh, in_specs=(spec, whole), out_specs=spec)(a, b)

    assert flops(product, (16, 5), (5, 7)) == 2 * 16 * 5 * 7


def test_linear_layers_of_the_8b_decoder():
    """13.05 GFLOP a token, as counted from the published sizes."""
    cfg = PRESETS["internvl3-8b"].decoder
    d, ffn, e = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    kv = cfg.num_key_value_heads * e
    by_hand = 2 * (2 * d * d + 2 * d * kv + 3 * d * ffn) * cfg.num_hidden_layers
    assert by_hand / 1e9 == pytest.approx(13.05, abs=0.01)

    tokens = 16
    layer = nnx.eval_shape(lambda: DecoderLayer(cfg, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(layer)

    def run(state, x, positions):
        attend = lambda q, k, v: q  # noqa: E731
        return nnx.merge(graphdef, state)(x, rotary_table(cfg, positions), attend)[0]

    x = jax.ShapeDtypeStruct((1, tokens, d), jnp.bfloat16)
    positions = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    counted = count_flops(jax.jit(run).trace(state, x, positions).jaxpr.jaxpr)
    assert counted == pytest.approx(by_hand / cfg.num_hidden_layers * tokens)
