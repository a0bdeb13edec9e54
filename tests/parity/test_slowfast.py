"""SlowFast against pytorchvideo, on the same random weights and BatchNorm statistics."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.parity.torch_slowfast import build_torch_slowfast, copy_weights
from vqathinker_jax.models.slowfast import SlowFast, SlowFastConfig, slow_indices

NARROW = SlowFastConfig(stem_width=24, slow_pool=(5, 2, 3), fast_pool=(17, 3, 2))
SHALLOW = dataclasses.replace(NARROW, depths=(1, 2, 1, 1))
FULL = SlowFastConfig()


def paired(cfg: SlowFastConfig, seed: int):
    reference = build_torch_slowfast(cfg, seed)
    # Shapes only: `copy_weights` fills every parameter.
    model = nnx.eval_shape(lambda: SlowFast(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))
    copy_weights(reference, model)
    return reference, model


@pytest.fixture(scope="module")
def narrow():
    return paired(NARROW, 1)


@pytest.fixture(scope="module")
def shallow():
    return paired(SHALLOW, 3)


@pytest.fixture(scope="module")
def full():
    return paired(FULL, 2)


def random_pixels(batch: int, frames: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(frames * side)
    return rng.standard_normal((batch, frames, side, side, 3)).astype(np.float32)


def features(pair, pixels: np.ndarray, slow_divisor: int, motion_repeat: int):
    reference, model = pair
    frames = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3)
    expected = reference(frames, slow_divisor, motion_repeat).numpy()
    run = nnx.jit(lambda model, x: model(x, slow_divisor, motion_repeat))
    return np.asarray(run(model, jnp.asarray(pixels))), expected


def test_slow_indices_equal_torch_linspace():
    """Reference quirk: modeling_internvl_chat.py truncates a float32 linspace."""
    for divisor in range(1, 9):
        for frames in range(divisor, 65):
            expected = torch.linspace(0, frames - 1, frames // divisor).long().numpy()
            np.testing.assert_array_equal(
                slow_indices(frames, divisor), expected, f"{frames} frames, divisor {divisor}"
            )


def test_r50_matches(narrow):
    """All 32 blocks, with windows smaller than the maps."""
    ours, theirs = features(narrow, random_pixels(2, 6, 129), slow_divisor=3, motion_repeat=3)
    assert ours.shape == (2, NARROW.feature_size)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("batch", "frames", "side", "divisor", "repeat"), [(1, 12, 101, 4, 2), (3, 7, 67, 3, 5)]
)
def test_odd_sizes_match(shallow, batch, frames, side, divisor, repeat):
    """Paddings, strides, slow indices and pooling weights where nothing divides evenly."""
    ours, theirs = features(shallow, random_pixels(batch, frames, side), divisor, repeat)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("frames", "divisor", "repeat"), [(6, 3, 6), (12, 4, 4)])
def test_full_width_matches_in_both_published_geometries(full, frames, divisor, repeat):
    """At the smallest side with whole 14-pixel patches that the 7 x 7 windows admit."""
    ours, theirs = features(full, random_pixels(1, frames, 196), divisor, repeat)
    assert ours.shape == (1, 2304)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-5)
