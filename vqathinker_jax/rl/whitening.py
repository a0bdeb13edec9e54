"""First filters that see fine structure, scaled to the training patches.

A few directions of low frequency hold nearly all of the variance of image patches, so random
filters see little of blur, noise or blocks. The tower's patch embedding gets cosines of all
frequencies instead, each scaled so that its output has variance 1, and the tower's first two layers
start as what turns these into the energy of each band over the whole image
(`first_layers.py`). SlowFast's stems, which have few filters and a rectifier of their own,
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
from jaxtyping import Float, UInt8

from vqathinker_jax.models.internvit import InternViT
from vqathinker_jax.models.pixels import normalize_pixels, shown_images
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.parallel import to_host
from vqathinker_jax.processes import first_does
from vqathinker_jax.rl.first_layers import (
    average,
    measure_statistics,
    rectify,
    require_room,
    set_values,
    start_parameters,
)
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.spec import VideoSpec

EIGENVALUE_FLOOR = 3e-5
"""Share of the largest eigenvalue under which directions are not amplified further."""
NUM_CLIPS = 256
PATCHES_PER_CLIP = 96
SMALLEST_DEVIATION = 1e-3
"""Of what a filter gives on training patches: one that sees nothing is not amplified further."""
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
            f"tower needs {num_filters}"
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


def made_filters(
    model: VQAThinker,
    tower: InternViT,
    clips: UInt8[np.ndarray, "N I S S 3"],
    video: VideoSpec,
    seed: int,
) -> dict[str, np.ndarray]:
    """Filters for the patch embedding, the layers behind it and, where it runs, SlowFast's stems.

    Args:
      model: only its shapes are looked at.
      tower: a copy of its tower on a device of this process, which is changed.
      clips: the images of some training clips: the first F of each are its frames.
      video: their geometry.
      seed: of the choice of patches and of the mixtures.

    Returns:
      The values of `filters_of`, each in any shape of as many numbers.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    pixels = np.asarray(normalize_pixels(jnp.asarray(clips)))
    embedding = tower.patch_embedding
    patch = embedding.kernel.shape[0]
    patches = cut_patches(pixels, (1, patch, patch), rng).reshape(-1, patch, patch, 3)
    filters = with_reference(cosine_filters(patches, embedding.kernel.shape[-1] - 2))
    set_values(embedding.kernel, filters.kernel)
    set_values(embedding.bias, filters.bias)
    rectify(tower)
    shown = np.asarray(shown_images(jnp.asarray(pixels), video))
    average(tower, measure_statistics(tower, shown))
    values = {name: np.asarray(one.get_value()) for name, one in tower_parameters(tower).items()}
    if not video.has_motion:
        return values
    frames = pixels[:, : video.num_frames]
    for name, stem in (("slow", model.slowfast.stem.slow), ("fast", model.slowfast.stem.fast)):
        window = stem.conv.kernel.shape[:3]
        patches = cut_patches(frames, window, rng)
        filters = whitened_filters(patches, stem.conv.kernel.shape[-1], rng)
        # The convolution has no bias: the norm after it subtracts the mean.
        values |= {f"{name}_kernel": filters.kernel, f"{name}_mean": -filters.bias}
    return values


def whiten_once(
    model: VQAThinker,
    kept: Path,
    read: Callable[[], UInt8[np.ndarray, "N I S S 3"]],
    video: VideoSpec,
    seed: int,
) -> None:
    """Gives a model the filters of `made_filters`, in place.

    They are kept in a file, from which a resumed run has the very same. What does not train is in
    no checkpoint, and another machine's linear algebra would give other signs: of several processes
    the first one makes them for all.

    Args:
      model: with parameters of its own.
      video, seed: as for `made_filters`.
      kept: the file, in the folder of the run; `.npz`.
      read: gives the clips; called where there is no such file.

    Raises:
      TrainingError: the file is damaged or belongs to another model, or the tower is too small.
    """
    require_room(model.vision)
    graphdef, state = nnx.split(model.vision)
    values = jax.tree.map(to_host, state)

    def make() -> None:
        if not kept.exists():
            tower = nnx.merge(graphdef, jax.tree.map(jnp.array, values))
            partial = kept.with_name(f".partial-{kept.name}")
            np.savez(partial, **made_filters(model, tower, read(), video, seed))
            os.replace(partial, kept)

    first_does(make, f"making {kept}", (TrainingError,))
    try:
        with np.load(kept, allow_pickle=False) as file:
            for name, parameter in filters_of(model, video).items():
                set_values(parameter, file[name])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{kept}: its filters cannot be used ({error})") from None


def tower_parameters(tower: InternViT) -> dict[str, nnx.Param]:
    """The parameters of a tower that `made_filters` gives values for, by name."""
    embedding = tower.patch_embedding
    filters = {"embedding_kernel": embedding.kernel, "embedding_bias": embedding.bias}
    return filters | start_parameters(tower)


def filters_of(model: VQAThinker, video: VideoSpec) -> dict[str, nnx.Param]:
    """The parameters that `whiten_once` sets, by name."""
    named = tower_parameters(model.vision)
    if video.has_motion:
        for name, stem in (("slow", model.slowfast.stem.slow), ("fast", model.slowfast.stem.fast)):
            named |= {f"{name}_kernel": stem.conv.kernel, f"{name}_mean": stem.norm.mean}
    return named


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
