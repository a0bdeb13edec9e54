"""First filters that see fine structure: random mixtures of whitened principal components.

A few directions of low frequency hold nearly all of the variance of image patches, so random
filters see little of blur, noise or blocks. With the eigenvectors v_i and eigenvalues e_i of the
patches' covariance and Gaussian numbers g_i, the filter

w = sum_i g_i v_i / sqrt(max(e_i, floor e_1)),   scaled so that its output has variance 1,

weighs all directions alike. The bias removes the mean.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from vqathinker_jax.models.pixels import normalize_pixels
from vqathinker_jax.models.slowfast import StemPathway
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.spec import VideoSpec

EIGENVALUE_FLOOR = 3e-5
"""Share of the largest eigenvalue under which directions are not amplified further."""
NUM_CLIPS = 256
PATCHES_PER_CLIP = 96


@dataclasses.dataclass(frozen=True)
class Filters:
    """Linear filters with unit variance on the patches that they were made from."""

    kernel: Float[np.ndarray, "P O"]
    bias: Float[np.ndarray, "O"]


def whitened_filters(
    patches: Float[np.ndarray, "n P"], num_filters: int, rng: np.random.Generator
) -> Filters:
    """Random mixtures of the whitened principal components of patches.

    Args:
      patches: float, at least two.
      num_filters: O.
      rng: draws the mixtures.
    """
    patches = patches.astype(np.float64)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    gains = 1 / np.sqrt(np.maximum(values, EIGENVALUE_FLOOR * values[-1]))
    kernel = vectors @ (gains[:, None] * rng.standard_normal((len(values), num_filters)))
    kernel /= ((patches - mean) @ kernel).std(0)
    return Filters(kernel.astype(np.float32), (-mean @ kernel).astype(np.float32))


def whiten(
    model: VQAThinker, clips: UInt8[np.ndarray, "N I S S 3"], video: VideoSpec, seed: int
) -> None:
    """Gives the patch embedding and SlowFast's stems whitened filters, in place.

    Args:
      model: with parameters of its own.
      clips: the images of some training clips: the first F of each are its frames.
      video: their geometry.
      seed: of the choice of patches and of the mixtures.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    pixels = np.asarray(normalize_pixels(jnp.asarray(clips)))
    embedding = model.vision.patch_embedding
    patch = embedding.kernel.shape[0]
    filters = whitened_filters(
        cut_patches(pixels, (1, patch, patch), rng), embedding.kernel.shape[-1], rng
    )
    set_values(embedding.kernel, filters.kernel)
    set_values(embedding.bias, filters.bias)
    frames = pixels[:, : video.num_frames]
    for stem in (model.slowfast.stem.slow, model.slowfast.stem.fast):
        window = stem.conv.kernel.shape[:3]
        patches = cut_patches(frames, window, rng)
        set_stem(stem, whitened_filters(patches, stem.conv.kernel.shape[-1], rng))


def set_stem(stem: StemPathway, filters: Filters) -> None:
    """Filters into a convolution without bias: the norm after it subtracts the mean."""
    set_values(stem.conv.kernel, filters.kernel)
    set_values(stem.norm.mean, -filters.bias)


def cut_patches(
    pixels: Float[np.ndarray, "N F S S 3"],
    window: tuple[int, int, int],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n P"]:
    """`PATCHES_PER_CLIP` windows (time, height, width) of each clip at random places, flat."""
    _, frames, height, width, _ = pixels.shape
    deep, high, wide = window
    patches = []
    for clip in pixels:
        for _ in range(PATCHES_PER_CLIP):
            t, y, x = (
                int(rng.integers(size - part + 1))
                for size, part in ((frames, deep), (height, high), (width, wide))
            )
            patches.append(clip[t : t + deep, y : y + high, x : x + wide].reshape(-1))
    return np.stack(patches)


def set_values(parameter: nnx.Param, values: np.ndarray) -> None:
    """Puts values in a parameter's shape, dtype and sharding."""
    old = parameter.get_value()
    parameter.set_value(jax.device_put(values.reshape(old.shape).astype(old.dtype), old.sharding))
