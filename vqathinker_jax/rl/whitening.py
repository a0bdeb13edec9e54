"""First filters that see fine structure, scaled to the training patches.

A few directions of low frequency hold nearly all of the variance of image patches, so random
filters see little of blur, noise or blocks. The tower's patch embedding gets cosines of all
frequencies instead, each scaled so that its output has variance 1, and the tower's first two layers
start as what turns these into the energy of each band over the whole image
(`rectify`, `average`). SlowFast's stems, which have few filters and a rectifier of their own,
get random mixtures of the eigenvectors v_i (eigenvalues e_i) of the patches' covariance, with
Gaussian numbers g_i,

w = sum_i g_i v_i / sqrt(max(e_i, floor e_1)),   scaled likewise.

The bias removes the mean.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vqathinker_jax.models.internvit import InternViT
from vqathinker_jax.models.pixels import normalize_pixels, shown_images
from vqathinker_jax.models.slowfast import StemPathway
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.spec import VideoSpec

EIGENVALUE_FLOOR = 3e-5
"""Share of the largest eigenvalue under which directions are not amplified further."""
NUM_CLIPS = 256
PATCHES_PER_CLIP = 96
SMALLEST_DEVIATION = 1e-3
"""Of what a filter gives on training patches: one that sees nothing is not amplified further."""
SHARPNESS = 4.0
"""Of the rectifier: |x| is told apart from about 1 / SHARPNESS on."""
BEND = 0.75
FLATTENING = 0.9
RECTIFIER_GAIN = 3.0
"""How strongly energies stand beside what they are made from."""
MEAN_GAIN = 8.0
"""How strongly the mean over the tokens stands beside what is each token's own."""
OTHERS_GAIN = 0.1
"""How much what stays random in these two layers is weakened."""
REFERENCE = 4.0
"""What two channels of the patch embedding always hold, one of them negated: beside it, the norms
leave a flat or dark patch smaller than a rich one, instead of bringing all to one size."""


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


def cosine_filters(patches: Float[np.ndarray, "n P P 3"], num_filters: int) -> Filters:
    """Two-dimensional cosines of lightness and of two colour differences, outputs of variance 1.

    Cosines hardly differ from the principal components of pictures, but each has one frequency
    along rows and one along columns, so that what changes in one direction only is told apart.

    Args:
      patches: float, at least two.
      num_filters: O.

    Raises:
      TrainingError: O is more than 3 P^2, and so many cosines there are not.
    """
    size = patches.shape[1]
    if num_filters > 3 * size**2:
        raise TrainingError(
            f"model.whiten: patches of {size} x {size} pixels have {3 * size**2} cosines, but the "
            f"tower is {num_filters} wide"
        )
    place = np.arange(size)
    waves = np.cos(np.pi * (place + 0.5) * place[:, None] / size)
    colours = ((1, 1, 1), (1, -1, 0), (1, 1, -2))
    kernel = np.stack(
        [
            np.einsum("i,j,c->ijc", waves[down], waves[across], colours[colour]).reshape(-1)
            for colour, down, across in choose_cosines(size, num_filters)
        ],
        axis=1,
    )
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    mean = flat.mean(0)
    kernel = kernel / np.maximum(((flat - mean) @ kernel).std(0), SMALLEST_DEVIATION)
    return Filters(kernel.astype(np.float32), (-mean @ kernel).astype(np.float32))


def with_reference(filters: Filters) -> Filters:
    """Two more filters, blind ones, that always give `REFERENCE` and its negative."""
    blind = np.zeros((len(filters.kernel), 2), np.float32)
    return Filters(
        np.concatenate([filters.kernel, blind], axis=1),
        np.concatenate([filters.bias, np.array([REFERENCE, -REFERENCE], np.float32)]),
    )


def choose_cosines(size: int, num: int) -> list[tuple[int, int, int]]:
    """Colour (0 lightness, 1 and 2 differences) and frequencies down and across of `num` cosines.

    First the three means; then lightness along one direction at every frequency, and along both on
    a grid; then colours on a coarser grid; then whatever is left, low frequencies first.
    """
    axes = [(0, k, 0) for k in range(1, size)] + [(0, 0, k) for k in range(1, size)]
    fine, coarse = (
        np.unique(np.geomspace(1, size - 1, steps).round().astype(int)).tolist() for steps in (6, 3)
    )
    mixed = [(0, down, across) for down in fine for across in fine]
    coloured = [
        (colour, down, across)
        for colour in (1, 2)
        for down in (0, *coarse)
        for across in (0, *coarse)
    ]
    everything = sorted(itertools.product(range(3), range(size), range(size)), key=sum)
    means = [(colour, 0, 0) for colour in range(3)]
    return list(dict.fromkeys([*means, *axes, *mixed, *coloured, *everything]))[:num]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of what the second layer's attention averages, over training images."""

    centre: Float[np.ndarray, "D"]
    scale: Float[np.ndarray, "D"]
    """Standard deviation among images of one kind (mosaics, whole frames, slices)."""


def fits_statistics(tower: InternViT) -> bool:
    """Whether a tower has the layers and the width that `rectify` and `average` need."""
    layers, width, hidden = tower.layers.mlp.fc1.kernel.shape
    return layers >= 2 and hidden >= 4 * width


def rectify(tower: InternViT) -> None:
    """Makes the MLP of the first layer start as a rectifier, in place.

    For each channel x of the normalised input it adds c(|x|), which rises by 1 up to `BEND` and by
    `1 - FLATTENING` beyond it, as a logarithm would: four hidden units a channel do it,
    gelu(+-s x) and gelu(+-s x - s BEND) with s = `SHARPNESS`.
    """
    mlp, attention = tower.layers.mlp, tower.layers.attn
    fc1, fc2 = (np.array(linear.kernel.get_value()) for linear in (mlp.fc1, mlp.fc2))
    bias, out = np.array(mlp.fc1.bias.get_value()), np.array(attention.proj.kernel.get_value())
    width = fc1.shape[1]
    one = np.eye(width, dtype=fc1.dtype)
    scale = np.array(tower.layers.ls2.get_value())[0]
    fc1[0, :, : 4 * width] = SHARPNESS * np.concatenate([one, -one, one, -one], axis=1)
    bias[0, 2 * width : 4 * width] = -SHARPNESS * BEND
    rising = RECTIFIER_GAIN / SHARPNESS / scale * one
    falling = -FLATTENING * rising
    fc2[0, : 4 * width] = np.concatenate([rising, rising, falling, falling])
    fc2[0, 4 * width :] *= OTHERS_GAIN
    out[0] *= OTHERS_GAIN
    set_values(mlp.fc1.kernel, fc1)
    set_values(mlp.fc1.bias, bias)
    set_values(mlp.fc2.kernel, fc2)
    set_values(attention.proj.kernel, out)


def measure_statistics(tower: InternViT, images: Float[np.ndarray, "N J S S 3"]) -> Statistics:
    """What `average` has to centre and scale; the first layer is that of `rectify`.

    Args:
      tower: the tower.
      images: normalised pixels of N clips, J kinds of images each.
    """
    graphdef, state = nnx.split(tower)

    @jax.jit
    def means(state: nnx.State, images: Array) -> Array:
        tower = nnx.merge(graphdef, state)
        return _normed(tower(images, 1)).mean(1)

    seen = np.stack([np.asarray(means(state, jnp.asarray(clip))) for clip in images])
    scale = np.sqrt(seen.var(axis=0).mean(axis=0))
    return Statistics(seen.mean(axis=(0, 1)), np.maximum(scale, SMALLEST_DEVIATION))


def average(tower: InternViT, statistics: Statistics) -> None:
    """Makes the attention of the second layer start as the mean over all tokens, in place.

    Each token then holds the energy of every band, centred and scaled over the training images:
    `MEAN_GAIN` times a number of mean 0 and variance 1 a channel.
    """
    attention = tower.layers.attn
    qkv, out, bias = (
        np.array(parameter.get_value())
        for parameter in (attention.qkv.kernel, attention.proj.kernel, attention.proj.bias)
    )
    one = np.eye(qkv.shape[1], dtype=qkv.dtype)
    gain = MEAN_GAIN / statistics.scale / np.array(tower.layers.ls1.get_value())[1]
    qkv[1, :, :2] *= OTHERS_GAIN
    qkv[1, :, 2] = one.reshape(qkv[1, :, 2].shape)
    out[1] = (one * gain).reshape(out[1].shape)
    bias[1] = -statistics.centre * gain
    set_values(attention.qkv.kernel, qkv)
    set_values(attention.proj.kernel, out)
    set_values(attention.proj.bias, bias)


def _normed(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)


def whiten(
    model: VQAThinker, clips: UInt8[np.ndarray, "N I S S 3"], video: VideoSpec, seed: int
) -> None:
    """Gives the patch embedding and, where it runs, SlowFast's stems whitened filters, in place.

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
    patches = cut_patches(pixels, (1, patch, patch), rng).reshape(-1, patch, patch, 3)
    filters = with_reference(cosine_filters(patches, embedding.kernel.shape[-1] - 2))
    set_values(embedding.kernel, filters.kernel)
    set_values(embedding.bias, filters.bias)
    if fits_statistics(model.vision):
        rectify(model.vision)
        shown = np.asarray(shown_images(jnp.asarray(pixels), video))
        average(model.vision, measure_statistics(model.vision, shown))
    if not video.has_motion:
        return
    frames = pixels[:, : video.num_frames]
    for stem in (model.slowfast.stem.slow, model.slowfast.stem.fast):
        window = stem.conv.kernel.shape[:3]
        patches = cut_patches(frames, window, rng)
        set_stem(stem, whitened_filters(patches, stem.conv.kernel.shape[-1], rng))


def whiten_once(
    model: VQAThinker,
    kept: Path,
    read: Callable[[], UInt8[np.ndarray, "N I S S 3"]],
    video: VideoSpec,
    seed: int,
) -> None:
    """As `whiten`; what it sets is kept in a file, from which a resumed run has the very same.

    What does not train is in no checkpoint, and another machine's linear algebra would give other
    signs.

    Args:
      model, video, seed: as for `whiten`.
      kept: the file, in the folder of the run; `.npz`.
      read: gives the clips; called where there is no such file.

    Raises:
      TrainingError: the file is damaged or belongs to another model.
    """
    parameters = filters_of(model, video)
    if not kept.exists():
        whiten(model, read(), video, seed)
        if jax.process_index() == 0:
            partial = kept.with_name(f".partial-{kept.name}")
            np.savez(partial, **{name: np.asarray(p.get_value()) for name, p in parameters.items()})
            os.replace(partial, kept)
        return
    try:
        with np.load(kept, allow_pickle=False) as file:
            for name, parameter in parameters.items():
                set_values(parameter, file[name])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{kept}: its filters cannot be used ({error})") from None


def filters_of(model: VQAThinker, video: VideoSpec) -> dict[str, nnx.Param]:
    """The parameters that `whiten` sets, by name."""
    embedding, layers = model.vision.patch_embedding, model.vision.layers
    named = {
        "embedding_kernel": embedding.kernel,
        "embedding_bias": embedding.bias,
        "fc1_kernel": layers.mlp.fc1.kernel,
        "fc1_bias": layers.mlp.fc1.bias,
        "fc2_kernel": layers.mlp.fc2.kernel,
        "qkv_kernel": layers.attn.qkv.kernel,
        "proj_kernel": layers.attn.proj.kernel,
        "proj_bias": layers.attn.proj.bias,
    }
    if video.has_motion:
        for name, stem in (("slow", model.slowfast.stem.slow), ("fast", model.slowfast.stem.fast)):
            named |= {f"{name}_kernel": stem.conv.kernel, f"{name}_mean": stem.norm.mean}
    return named


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
