"""Pixel shuffle, projection MLPs and pixel normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax import parallel
from vqathinker_jax.models.pixels import IMAGENET_MEAN, normalize_pixels
from vqathinker_jax.models.projectors import MLPProjector, motion_init, pixel_shuffle


def random(shape: tuple[int, ...]) -> jax.Array:
    values = np.random.default_rng(7).standard_normal(shape, np.float32)
    return jnp.asarray(values)


def test_pixel_shuffle_by_hand():
    """Patch (row, column) holds 10 * row + column; one channel; a 4 x 4 grid."""
    grid = 10 * jnp.arange(4)[:, None] + jnp.arange(4)[None]
    x = grid[None, :, :, None].astype(jnp.float32)
    upper_left, upper_right = [0, 1, 10, 11], [2, 3, 12, 13]
    lower_left, lower_right = [20, 21, 30, 31], [22, 23, 32, 33]
    rows_first = [upper_left, upper_right, lower_left, lower_right]
    np.testing.assert_array_equal(pixel_shuffle(x, 2, "v2")[0], rows_first)


def test_pixel_shuffle_v1_is_transposed():
    """Reference quirk: v1 lists the tokens column by column; each token is the same as in v2."""
    x = random((2, 6, 6, 5))
    v1, v2 = pixel_shuffle(x, 3, "v1"), pixel_shuffle(x, 3, "v2")
    assert v1.shape == v2.shape == (2, 4, 45)
    transposed = v2.reshape(2, 2, 2, 45).swapaxes(1, 2).reshape(2, 4, 45)
    np.testing.assert_array_equal(v1, transposed)
    assert not np.array_equal(v1, v2)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_pixel_shuffle_takes_any_leading_axes(batch):
    x = random((*batch, 4, 4, 3))
    flat = pixel_shuffle(x.reshape(-1, 4, 4, 3), 2, "v2")
    np.testing.assert_array_equal(pixel_shuffle(x, 2, "v2"), flat.reshape(*batch, 4, 12))


def test_pixel_shuffle_rejects_what_it_cannot_merge():
    x = jnp.zeros((1, 5, 5, 3))
    with pytest.raises(ValueError, match="5 x 5 patches cannot be merged by 2"):
        pixel_shuffle(x, 2, "v2")
    with pytest.raises(ValueError, match="v1 or v2"):
        pixel_shuffle(x, 5, "v3")


def test_gradients_pass_the_pixel_shuffle():
    x = random((2, 4, 4, 3))
    weights = jnp.arange(2 * 4 * 12, dtype=jnp.float32).reshape(2, 4, 12)
    gradient = jax.grad(lambda x: (pixel_shuffle(x, 2, "v1") * weights).sum())(x)
    np.testing.assert_array_equal(pixel_shuffle(gradient, 2, "v1"), weights)


def test_projector_by_hand():
    """Two inputs normalise to (-1, 1); the identity and a sum then leave gelu(-1) + gelu(1)."""
    projector = MLPProjector(2, 2, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    projector.fc1.kernel[...] = jnp.eye(2)
    projector.fc2.kernel[...] = jnp.ones((2, 2))
    projector.fc2.bias[...] = jnp.array([0.0, 3.0])
    # The exact GELU gives gelu(1) + gelu(-1) = erf(1/sqrt(2)) = 0.6826895.
    y = projector(jnp.array([[-1000.0, 1000.0]]))
    np.testing.assert_allclose(y, [[0.6826895, 3.6826895]], rtol=0, atol=1e-6)
    # Deviations of sqrt(1e-5) are halved in square by the epsilon: the input is (-1, 1) / sqrt(2).
    y = projector(jnp.array([[-(1e-5**0.5), 1e-5**0.5]]))
    np.testing.assert_allclose(y[0, 0], 0.5**0.5 * 0.5204999, rtol=1e-6)


def test_projector_keeps_the_activation_dtype_and_jits():
    projector = MLPProjector(6, 10, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = random((2, 3, 6))
    y = projector(x)
    assert y.shape == (2, 3, 10) and y.dtype == jnp.float32
    assert projector(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_allclose(nnx.jit(projector)(x), y, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_motion_projector_starts_as_published(dtype):
    projector = motion_init(37, 64, param_dtype=dtype, rngs=nnx.Rngs(0))
    kernels = []
    for layer, shape in ((projector.fc1, (37, 64)), (projector.fc2, (64, 64))):
        kernel = layer.kernel[...]
        assert kernel.shape == shape and kernel.dtype == dtype
        kernel = np.asarray(kernel.astype(jnp.float32))
        assert kernel.min() >= 0 and kernel.max() <= 0.01001
        np.testing.assert_allclose(kernel.mean(), 0.005, rtol=0.05)
        np.testing.assert_allclose(kernel.std(), 0.01 / 12**0.5, rtol=0.05)
        assert not layer.bias[...].any()
        kernels.append(kernel)
    assert not np.array_equal(kernels[0][:37], kernels[1][:37])
    plain = MLPProjector(37, 64, param_dtype=dtype, rngs=nnx.Rngs(0))
    assert jax.tree.structure(nnx.state(projector)) == jax.tree.structure(nnx.state(plain))


@pytest.mark.parametrize("make_projector", [MLPProjector, motion_init])
def test_sharded_projector_equals_one_device(make_projector):
    def make(rngs):
        return make_projector(12, 24, param_dtype=jnp.float32, rngs=rngs)

    x = random((8, 5, 12))
    expected = nnx.jit(make(nnx.Rngs(0)))(x)
    mesh = parallel.make_mesh(data=1, fsdp=2, tensor=4)
    projector = parallel.born_sharded(make, mesh)
    assert projector.fc1.kernel[...].sharding.shard_shape((12, 24)) == (6, 6)
    with jax.set_mesh(mesh):
        y = nnx.jit(lambda projector, x: projector(x))(projector, x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_pixels_of_the_mean_colour_become_zero():
    mean = np.round(255 * np.array(IMAGENET_MEAN)).astype(np.uint8)
    frames = np.broadcast_to(mean, (2, 3, 3, 3))
    out = normalize_pixels(jnp.asarray(frames))
    assert out.shape == frames.shape
    assert np.abs(out).max() < 0.5 / 255 / 0.224  # half a level


def test_normalize_pixels_rejects_other_inputs():
    with pytest.raises(TypeError, match="float32"):
        normalize_pixels(jnp.zeros((2, 2, 3), jnp.float32))
    with pytest.raises(ValueError, match="three channels"):
        normalize_pixels(jnp.zeros((3, 2, 2), jnp.uint8))
