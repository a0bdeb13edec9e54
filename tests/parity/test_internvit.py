"""The vision half against torch: transformers' InternVL, F.interpolate, and torch tensor ops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.parity.torch_internvit import build_torch_vision, copy_vision, torch_image_features
from vqathinker_jax.models.internvit import InternViT, InternViTConfig, interpolate_positions
from vqathinker_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize_pixels
from vqathinker_jax.models.projectors import MLPProjector, pixel_shuffle

CFG = InternViTConfig(
    hidden_size=30,
    intermediate_size=44,
    num_hidden_layers=3,
    num_attention_heads=5,
    patch_size=7,
    image_size=42,
    layer_norm_eps=1e-3,  # large, so that a wrong epsilon shows
)
OUT_DIM = 26
NUM = 2

# Largest differences seen: 2.6e-6 among features of size 6, 7.7e-7 among tokens of size 2, 3.3e-6
# among positions of size 4.
FEATURE_ATOL = 1e-5
TOKEN_ATOL = 2e-6
POSITION_ATOL = 1e-5


def both(cfg: InternViTConfig, seed: int = 0):
    theirs = build_torch_vision(cfg, OUT_DIM, seed)

    def make():
        rngs = nnx.Rngs(0)
        projector = MLPProjector(4 * cfg.hidden_size, OUT_DIM, param_dtype=jnp.float32, rngs=rngs)
        return InternViT(cfg, param_dtype=jnp.float32, rngs=rngs), projector

    # Built from shapes alone: every value is about to be replaced.
    graphdef, state = nnx.split(nnx.eval_shape(make))
    state = jax.tree.map(lambda value: jnp.asarray(np.full(value.shape, np.nan, np.float32)), state)
    vision, projector = nnx.merge(graphdef, state)
    copy_vision(theirs, vision, projector)
    return theirs, vision, projector


def pixels_of(side: int) -> np.ndarray:
    return np.random.default_rng(side).standard_normal((NUM, side, side, 3), np.float32)


def check(cfg: InternViTConfig, sides: tuple[int, ...], select_layers: tuple[int, ...]) -> None:
    """Features of every selected layer, and the visual tokens made of them, for every side."""
    theirs, vision, projector = both(cfg)
    encode = nnx.jit(lambda vision, pixels, layer: vision(pixels, layer), static_argnums=2)
    project = nnx.jit(lambda projector, x: projector(pixel_shuffle(x, 2, "v2")))
    for side in sides:
        pixels = np.random.default_rng(side).standard_normal((NUM, side, side, 3), np.float32)
        channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            states = theirs.vision_tower(channels_first, output_hidden_states=True).hidden_states
        assert len(states) == cfg.num_hidden_layers + 1
        for layer in select_layers:
            ours = encode(vision, jnp.asarray(pixels), layer)
            np.testing.assert_allclose(ours, states[layer].numpy(), rtol=0, atol=FEATURE_ATOL)
            grid = side // cfg.patch_size
            patches = ours[:, 1:].reshape(NUM, grid, grid, cfg.hidden_size)
            tokens = project(projector, patches)
            expected = torch_image_features(theirs, pixels, layer)
            np.testing.assert_allclose(tokens, expected, rtol=0, atol=TOKEN_ATOL)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("qk_normalization", [True, False])
@pytest.mark.parametrize("norm_type", ["layer_norm", "rms_norm"])
def test_every_variant_matches(norm_type, qk_normalization, qkv_bias):
    cfg = dataclasses.replace(
        CFG, norm_type=norm_type, qk_normalization=qk_normalization, qkv_bias=qkv_bias
    )
    check(cfg, sides=(42,), select_layers=(-1,))


def test_every_selected_layer_matches():
    check(CFG, sides=(42,), select_layers=(-1, -2, 2, 1, -4))  # transformers cannot be asked for 0


def test_images_smaller_and_larger_than_the_position_grid_match():
    check(CFG, sides=(28, 70), select_layers=(-1,))


def torch_positions(table: torch.Tensor, grid: int) -> torch.Tensor:
    """The table resampled by torch in float32 and returned in its own dtype."""
    stored = round((table.shape[0] - 1) ** 0.5)
    patches = table[1:].float().T.reshape(1, -1, stored, stored)
    patches = torch.nn.functional.interpolate(
        patches, size=(grid, grid), mode="bicubic", align_corners=False
    )
    return torch.cat([table[:1], patches[0].reshape(-1, grid * grid).T.to(table.dtype)])


@pytest.mark.parametrize(("stored", "grid"), [(6, 10), (6, 4), (7, 3), (32, 40), (5, 5), (3, 11)])
def test_position_table_matches(stored, grid):
    table = np.random.default_rng(7).standard_normal((1 + stored**2, 13), np.float32)
    ours = interpolate_positions(jnp.asarray(table), grid)
    expected = torch_positions(torch.from_numpy(table), grid)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0 if stored == grid else POSITION_ATOL)


def test_bfloat16_position_table_is_resampled_in_float32():
    table = torch.randn((1 + 32**2, 13), generator=torch.manual_seed(1)).bfloat16()
    expected = torch_positions(table, 40).float().numpy()
    stored = jnp.asarray(table.float().numpy(), jnp.bfloat16)
    ours = interpolate_positions(stored, 40)
    assert ours.dtype == jnp.bfloat16
    ours = np.asarray(ours.astype(jnp.float32))
    # One rounding: only values on the edge of two bfloat16 numbers may differ, by one step.
    np.testing.assert_allclose(ours, expected, rtol=2**-7, atol=1e-5)
    assert (ours != expected).mean() < 1e-3


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_matches_its_definition(version, factor):
    """Two narrowing reshapes, one per axis, the axes swapped after each; v1 omits the last swap."""
    grid, channels = 6, 5
    x = torch.arange(2 * grid * grid * channels, dtype=torch.float32)
    x = x.reshape(2, grid, grid, channels)
    half = x.reshape(2, grid, grid // factor, channels * factor).transpose(1, 2)
    merged = half.reshape(2, grid // factor, grid // factor, channels * factor**2)
    if version == "v2":
        merged = merged.transpose(1, 2)
    expected = merged.reshape(2, -1, channels * factor**2)
    ours = pixel_shuffle(jnp.asarray(x.numpy()), factor, version)
    np.testing.assert_array_equal(ours, expected.numpy())


def test_pixel_shuffle_matches_transformers():
    theirs = build_torch_vision(CFG, OUT_DIM, seed=0)
    x = torch.randn((2, 6, 6, 5), generator=torch.manual_seed(2))
    expected = theirs.pixel_shuffle(x, scale_factor=0.5).reshape(2, 9, 20)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(x.numpy()), 2, "v2"), expected.numpy())


@pytest.mark.parametrize("jitted", [True, False])
def test_normalised_pixels_match(jitted):
    values = np.arange(256, dtype=np.uint8)
    frames = np.stack([values, values[::-1], np.roll(values, 77)], -1).reshape(16, 16, 3)
    x = torch.from_numpy(frames).permute(2, 0, 1).to(torch.float32).div(255)
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = x.sub_(mean[:, None, None]).div_(std[:, None, None]).permute(1, 2, 0).numpy()
    ours = (jax.jit(normalize_pixels) if jitted else normalize_pixels)(jnp.asarray(frames))
    assert ours.dtype == jnp.float32
    # Two units in the last place of the largest values; torch itself is 3.7e-7 off the formula.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-7)
    formula = (frames / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(ours, formula, rtol=0, atol=2.5e-7)
