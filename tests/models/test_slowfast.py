"""The motion encoder by itself: pooling by hand, invariances, frozenness, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax.models.slowfast import (
    BatchNorm,
    Conv3D,
    SlowFast,
    SlowFastConfig,
    StemConv,
    check_geometry,
    pooling_weights,
    slow_indices,
)
from vqathinker_jax.parallel import make_mesh, state_shardings
from vqathinker_jax.spec import INFERENCE, TRAINING, VideoSpec

CFG = SlowFastConfig(
    stem_width=6, fast_ratio=2, depths=(1, 1, 1, 1), slow_pool=(5, 2, 1), fast_pool=(11, 1, 2)
)
PUBLISHED = SlowFastConfig()


@pytest.fixture(scope="module")
def model() -> SlowFast:
    """Random weights and statistics, drawn by numpy: compiling the initialisers takes longer."""
    model = abstract_model()
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape = variable.get_value().shape
        if path[-1] == "kernel":
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[:4])), shape)
        else:
            value = rng.uniform(0.5, 1.0, shape)
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def abstract_model() -> SlowFast:
    return nnx.eval_shape(lambda: SlowFast(CFG, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))


def pixels(batch: int, dtype=jnp.float32) -> jax.Array:
    rng = np.random.default_rng(batch)
    return jnp.asarray(rng.standard_normal((batch, 5, 37, 37, 3)), dtype)


def encode(model: SlowFast, x: jax.Array) -> jax.Array:
    graphdef, state = nnx.split(model)
    return encode_state(graphdef, state, x)


@functools.partial(jax.jit, static_argnums=0)
def encode_state(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(x, 2, 3)


def test_slow_indices_of_the_published_geometries():
    assert slow_indices(12, 4).tolist() == [0, 5, 11]
    assert slow_indices(6, 3).tolist() == [0, 5]
    assert slow_indices(8, 4).tolist() == [0, 7]
    assert slow_indices(4, 4).tolist() == [0]


def test_inner_positions_weigh_more():
    """Windows of 2 over 4 positions are 3: the ends lie in one, the others in two."""
    np.testing.assert_allclose(pooling_weights(4, 2), [1 / 6, 1 / 3, 1 / 3, 1 / 6], rtol=1e-6)
    # a a b b c c in windows of 5: aabbc and abbcc
    np.testing.assert_allclose(pooling_weights(3, 5, repeat=2), [0.3, 0.4, 0.3], rtol=1e-6)
    np.testing.assert_allclose(pooling_weights(7, 7), np.full(7, 1 / 7), rtol=1e-6)


def test_batch_norm_uses_its_stored_statistics():
    norm = BatchNorm(2, param_dtype=jnp.float32)
    norm.mean.set_value(jnp.array([1.0, -2.0]))
    norm.var.set_value(jnp.array([4.0, 0.25]))
    norm.scale.set_value(jnp.array([3.0, 0.5]))
    norm.bias.set_value(jnp.array([0.5, 7.0]))
    np.testing.assert_allclose(norm(jnp.array([[5.0, -1.0]])), [[6.5, 8.0]], rtol=3e-5)


def test_convolution_over_time_by_hand():
    """Window 3, stride 2, one channel, kernel (1, 10, 100), zeros beyond the ends."""
    conv = Conv3D((3, 1, 1), 1, 1, stride=(2, 1, 1), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    conv.kernel.set_value(jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1, 1))
    frames = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1, 1)
    np.testing.assert_array_equal(conv(frames).ravel(), [210.0, 432.0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("window", "height", "width"), [((5, 7, 7), 12, 15), ((1, 7, 7), 9, 8), ((3, 3, 5), 6, 7)]
)
def test_stems_are_convolutions_of_volumes(window, height, width, dtype):
    made = StemConv(window, 3, 4, param_dtype=jnp.float32, rngs=nnx.Rngs(1))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, height, width, 3)), dtype)
    expected = jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        made.kernel[...].astype(dtype).astype(jnp.float32),
        window_strides=(1, 2, 2),
        padding=[(size // 2, size // 2) for size in window],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    found = jax.jit(lambda x: made(x))(x)
    assert found.dtype == x.dtype
    # bfloat16 rounds the products and, once more, what comes out.
    rtol = 1e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=rtol, atol=rtol)


def test_feature_has_the_advertised_width_and_moves_with_the_clip(model):
    feature = encode(model, pixels(2))
    assert feature.shape == (2, CFG.feature_size) and feature.dtype == jnp.float32
    assert jnp.isfinite(feature).all()
    backwards = encode(model, pixels(2)[:, ::-1])
    assert jnp.abs(feature - backwards).max() > 1e-2
    assert PUBLISHED.feature_size == 2304


def test_a_clip_is_encoded_the_same_whatever_the_batch(model):
    together = encode(model, pixels(2))
    alone = jnp.concatenate([encode(model, pixels(2)[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_near_float32(model):
    exact = encode(model, pixels(2))
    rounded = encode(model, pixels(2, jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    error = jnp.abs(rounded.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
    assert 0 < error < 0.02


def test_parameters_fit_any_mesh():
    """Fast layers are as narrow as 3 channels here: nothing may have to divide them."""
    state_shardings(nnx.state(abstract_model()), make_mesh(data=2, fsdp=4))


def test_initial_kernels_keep_the_size_of_activations():
    conv = Conv3D((5, 3, 1), 17, 23, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert conv.kernel.shape == (5, 3, 1, 17, 23) and conv.kernel.dtype == jnp.bfloat16
    assert conv.kernel[...].astype(jnp.float32).std() == pytest.approx(
        np.sqrt(2 / (5 * 3 * 17)), rel=0.03
    )


def test_published_geometries_pass():
    check_geometry(PUBLISHED, INFERENCE)
    check_geometry(PUBLISHED, TRAINING)
    check_geometry(PUBLISHED, dataclasses.replace(TRAINING, image_size=193))
    check_geometry(PUBLISHED, dataclasses.replace(TRAINING, image_size=56, has_motion=False))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            dataclasses.replace(INFERENCE, slow_divisor=3),
            r"num_frames=12 with slow_divisor=3 gives 4 slow frames.* to 3",
        ),
        (dataclasses.replace(TRAINING, slow_divisor=4), r"gives 1 slow frames.* to 2"),
        (
            dataclasses.replace(INFERENCE, motion_repeat=2),
            r"slow feature map has 3 .* = 6, but .*slow_pool=\(8, 7, 7\) needs 8; "
            r"raise VideoSpec.motion_repeat to at least 3",
        ),
        (
            dataclasses.replace(TRAINING, motion_repeat=5),
            r"fast feature map has 6 .* = 30, .* needs 32; .* at least 6",
        ),
        (
            dataclasses.replace(TRAINING, image_size=192),
            r"image_size=192 gives a 6 x 6 feature map.* 7 x 7; raise VideoSpec.image_size "
            r"to at least 193",
        ),
    ],
)
def test_geometries_that_cannot_run_are_explained(spec: VideoSpec, words: str):
    with pytest.raises(ValueError, match=words):
        check_geometry(PUBLISHED, spec)


def test_the_encoder_refuses_at_trace_time(model):
    def trace(height: int, width: int, slow_divisor: int, motion_repeat: int):
        x = jax.ShapeDtypeStruct((1, 5, height, width, 3), jnp.float32)
        return jax.eval_shape(lambda x: model(x, slow_divisor, motion_repeat), x)

    assert trace(37, 37, 2, 3).shape == (1, CFG.feature_size)
    with pytest.raises(ValueError, match=r"raise VideoSpec.image_size to at least 33"):
        trace(32, 32, 2, 3)
    with pytest.raises(ValueError, match="5 slow frames"):
        trace(37, 37, 1, 3)
    with pytest.raises(ValueError, match="motion_repeat=2 times = 4"):
        trace(37, 37, 2, 2)
    with pytest.raises(ValueError, match="must be square, got 37 x 41"):
        trace(37, 41, 2, 3)


def test_config_rejects_a_width_that_the_ratio_does_not_divide():
    with pytest.raises(ValueError, match="stem_width 10 is not divisible by fast_ratio 8"):
        SlowFastConfig(stem_width=10)
