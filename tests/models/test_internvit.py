"""The vision tower by itself: layers selected, dtypes, invariances, sharding, gradients."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax import parallel
from vqathinker_jax.models import attention
from vqathinker_jax.models.internvit import (
    InternViT,
    InternViTConfig,
    attend_image,
    bicubic_weights,
    interpolate_positions,
)

CFG = InternViTConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_size=5,
    image_size=15,
    qk_normalization=True,
)
SIDE = 20  # a 4 x 4 grid, where the table holds 3 x 3
TOKENS = 17


def random(shape: tuple[int, ...]) -> jax.Array:
    values = np.random.default_rng(7).standard_normal(shape, np.float32)
    return jnp.asarray(values)


@functools.cache
def tower(**changes) -> InternViT:
    """A tower whose biases, scales and layer scales are random too."""
    cfg = dataclasses.replace(CFG, **changes)
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: InternViT(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))
    )
    noise = np.random.default_rng(1)

    def fill(path, value):
        name = jax.tree_util.keystr(path)
        mean = 1.0 if "scale" in name or "ls" in name else 0.0
        return jnp.asarray(noise.normal(mean, 0.1, value.shape), jnp.float32)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def pixels_of(num: int, side: int = SIDE) -> jax.Array:
    return random((num, side, side, 3))


@nnx.jit(static_argnums=2)
def encode(vision: InternViT, pixels: jax.Array, select_layer: int = -1) -> jax.Array:
    return vision(pixels, select_layer)


def test_parameter_tree():
    """The names the weight table relies on."""
    flat = nnx.to_flat_state(nnx.state(tower()))
    shapes = {".".join(map(str, path)): leaf.get_value().shape for path, leaf in flat}
    assert shapes == {
        "class_embedding": (24,),
        "position_embedding": (10, 24),
        "patch_embedding.kernel": (5, 5, 3, 24),
        "patch_embedding.bias": (24,),
        "layers.norm1.scale": (3, 24),
        "layers.norm1.bias": (3, 24),
        "layers.norm2.scale": (3, 24),
        "layers.norm2.bias": (3, 24),
        "layers.attn.qkv.kernel": (3, 24, 3, 4, 6),
        "layers.attn.qkv.bias": (3, 3, 4, 6),
        "layers.attn.q_norm.scale": (3, 24),
        "layers.attn.k_norm.scale": (3, 24),
        "layers.attn.proj.kernel": (3, 4, 6, 24),
        "layers.attn.proj.bias": (3, 24),
        "layers.mlp.fc1.kernel": (3, 24, 40),
        "layers.mlp.fc1.bias": (3, 40),
        "layers.mlp.fc2.kernel": (3, 40, 24),
        "layers.mlp.fc2.bias": (3, 24),
        "layers.ls1": (3, 24),
        "layers.ls2": (3, 24),
    }


def test_optional_parameters_are_absent():
    vision = tower(qk_normalization=False, qkv_bias=False, norm_type="rms_norm")
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(vision))}
    absent = ("attn.q_norm.scale", "attn.k_norm.scale", "attn.qkv.bias", "norm1.bias", "norm2.bias")
    assert not names & {f"layers.{name}" for name in absent}
    assert len(names) == 20 - len(absent)


def test_select_layer_indexes_from_both_ends():
    vision, pixels = tower(), pixels_of(2)
    outputs = [encode(vision, pixels, layer) for layer in (0, 2, 3)]
    for layer, expected in zip((-4, -2, -1), outputs, strict=True):
        np.testing.assert_array_equal(encode(vision, pixels, layer), expected)
    for first, second in itertools.pairwise(outputs):
        assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("select_layer", [4, -5])
def test_select_layer_out_of_range(select_layer):
    with pytest.raises(ValueError, match="between -4 and 3"):
        tower()(pixels_of(1), select_layer)


def test_embeddings_by_hand():
    """Layer 0: each patch dotted with the kernel, after the class token, plus positions."""
    vision, pixels = tower(), np.asarray(pixels_of(2))
    kernel = np.asarray(vision.patch_embedding.kernel[...])
    row, column = 2, 1
    patch = pixels[1, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
    positions = interpolate_positions(vision.position_embedding[...], 4)
    out = encode(vision, jnp.asarray(pixels), 0)
    assert out.shape == (2, TOKENS, 24)
    index = 1 + 4 * row + column
    expected = np.tensordot(patch, kernel, 3) + vision.patch_embedding.bias[...] + positions[index]
    np.testing.assert_allclose(out[1, index], expected, rtol=0, atol=1e-5)
    class_token = vision.class_embedding[...] + vision.position_embedding[...][0]
    np.testing.assert_array_equal(out[:, 0], np.stack([class_token] * 2))


@functools.cache
def gradients(select_layer: int = -1, **changes) -> nnx.State:
    """Of the sum of the squared output with respect to every parameter."""
    pixels = pixels_of(2)

    def loss(vision):
        return jnp.square(vision(pixels, select_layer)).sum()

    return nnx.jit(nnx.grad(loss))(tower(**changes))


def test_layers_above_the_selected_one_get_no_gradient():
    for select_layer, depth in ((-2, 2), (-1, 3)):
        for path, leaf in nnx.to_flat_state(gradients(select_layer)):
            value = np.abs(leaf.get_value())
            if path[0] == "layers":
                largest = value.reshape(3, -1).max(1)
                assert largest[:depth].min() > 0 and not largest[depth:].any(), path
            else:
                assert value.max() > 0, path


@pytest.mark.parametrize("remat", ["names", "full"])
def test_rematerialisation_changes_no_gradient(remat):
    pairs = zip(jax.tree.leaves(gradients(remat=remat)), jax.tree.leaves(gradients()), strict=True)
    for value, expected in pairs:
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_attention_on_cpu_equals_the_general_kernel():
    """Values and gradients: the head-by-head form is only another order of the same sums."""
    q, k, v = 3.0 * random((3, 2, 7, 3, 5))
    weights = jnp.arange(2 * 7 * 3 * 5, dtype=jnp.float32).reshape(2, 7, 3, 5) / 100

    def run(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return (out * weights).sum(), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    ours, out = run(attend_image("head_by_head", 7))
    general, expected = run(functools.partial(attention.attend, mask=None))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    for value, wanted in zip(ours, general, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-5)


def test_attention_softmax_is_float32():
    """257 equal scores: a bfloat16 sum of ones would stop at 256."""
    q = jnp.zeros((1, 257, 1, 2), jnp.bfloat16)
    v = jnp.ones((1, 257, 1, 2), jnp.bfloat16)
    attend = attend_image("head_by_head", 257)
    out = jax.jit(attend)(q, q, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), np.ones(v.shape, np.float32))
    large = jnp.full((1, 3, 1, 2), 100.0)
    assert np.isfinite(attend(large, large, large)).all()


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_compute_dtype_is_that_of_the_pixels(param_dtype):
    reference = tower()
    graphdef, state = nnx.split(reference)
    vision = nnx.merge(graphdef, jax.tree.map(lambda value: value.astype(param_dtype), state))
    pixels = pixels_of(2)
    expected = encode(reference, pixels)
    out = encode(vision, pixels.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    error = np.abs(out.astype(jnp.float32) - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.03
    assert encode(vision, pixels).dtype == jnp.float32


def test_jit_equals_eager():
    vision, pixels = tower(), pixels_of(2)
    np.testing.assert_allclose(encode(vision, pixels), vision(pixels), rtol=0, atol=1e-5)


def test_images_do_not_see_each_other():
    vision, pixels = tower(), pixels_of(3)
    together = encode(vision, pixels)
    for i in range(3):
        alone = encode(vision, pixels[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encode(vision, pixels[::-1]), together[::-1], rtol=0, atol=1e-5)


def test_sharded_equals_one_device():
    def make(rngs):
        return InternViT(CFG, param_dtype=jnp.float32, rngs=rngs)

    pixels = pixels_of(8)
    expected = encode(parallel.born_sharded(make, parallel.make_mesh()), pixels)
    mesh = parallel.make_mesh(data=1, fsdp=2, tensor=4)
    vision = parallel.born_sharded(make, mesh)
    shard = vision.layers.attn.qkv.kernel[...].sharding.shard_shape((3, 24, 3, 4, 6))
    assert shard == (3, 12, 3, 1, 6)
    with jax.set_mesh(mesh):
        out = encode(vision, pixels)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_a_batch_that_the_mesh_does_not_divide():
    vision, pixels = tower(), pixels_of(3)
    expected = encode(vision, pixels, 0)
    with jax.set_mesh(parallel.make_mesh(2, 2, 2)):
        np.testing.assert_allclose(encode(vision, pixels, 0), expected, rtol=0, atol=1e-5)


def test_bicubic_weights_by_hand():
    """Doubling: centres fall a quarter off the taps; at the border two taps share the edge."""
    t = 0.25
    a = -0.75
    outer = [a * ((d - 5) * d + 8) * d - 4 * a for d in (2 - t, 1 + t)]
    inner = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (1 - t, t)]
    weights = bicubic_weights(5, 10)
    taps = [outer[1], inner[1], inner[0], outer[0]]  # at distances 1.25, 0.25, 0.75, 1.75
    np.testing.assert_allclose(weights[5], [0, *taps], rtol=0, atol=1e-7)
    # Output 1 is centred at 0.25: its first tap is at -1, on the border.
    np.testing.assert_allclose(weights[1], [taps[0] + taps[1], *taps[2:], 0, 0], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("size_in", "size_out"), [(32, 40), (7, 3), (3, 11), (2, 5)])
def test_bicubic_weights_sum_to_one(size_in, size_out):
    weights = bicubic_weights(size_in, size_out)
    assert weights.shape == (size_out, size_in)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=0, atol=1e-6)
    # Mirrored input gives the mirrored output.
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=0, atol=1e-5)


def test_equal_grids_leave_the_table_alone():
    np.testing.assert_array_equal(bicubic_weights(6, 6), np.eye(6))
    table = random((37, 5))
    np.testing.assert_array_equal(interpolate_positions(table, 6), table)


def test_the_class_position_is_not_resampled():
    table = random((37, 5))
    np.testing.assert_array_equal(interpolate_positions(table, 8)[0], table[0])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 22, 22, 3), jnp.float32, "multiple of the patch size 5"),
        ((1, 20, 25, 3), jnp.float32, "multiple of the patch size 5"),
        ((1, 20, 20, 4), jnp.float32, "multiple of the patch size 5"),
        ((1, 20, 20, 3), jnp.uint8, "floating"),
    ],
)
def test_unsuitable_pixels(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        tower()(jnp.zeros(shape, dtype))


def test_unknown_remat():
    with pytest.raises(ValueError, match="remat"):
        dataclasses.replace(CFG, remat="some")
