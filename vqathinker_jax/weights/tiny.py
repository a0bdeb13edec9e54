"""A complete random model folder in the published layout, small enough to try everything with."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.folder_writer import new_folder, write_folder
from vqathinker_jax.weights.mapping import make_table
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes
from vqathinker_jax.weights.small_tokenizer import prompt_texts, write_tokenizer

TINY_VIDEO = VideoSpec(num_frames=8, image_size=224, slow_divisor=4, motion_repeat=4)
TINY_MODEL = PRESETS["tiny"]
"""About four million parameters; the vocabulary is set by the tokenizer."""


def make_tiny(
    dst: Path,
    seed: int = 0,
    *,
    model: VQAThinkerConfig = TINY_MODEL,
    video: VideoSpec = TINY_VIDEO,
    kind: str = "random",
) -> FolderConfig:
    """Writes a random model folder: config, two weight files with an index, tokenizer.

    Args:
      dst: must not exist, or be empty.
      seed: root of the weights; the same seed gives the same bytes.
      model: its architecture; the vocabulary size is replaced by the tokenizer's.
      video: the geometry it says it is meant for.
      kind: the label it carries.

    Raises:
      WeightsError: `dst` is in use or cannot be made.
    """
    with new_folder(dst) as folder:
        vocab_size = write_tokenizer(folder, prompt_texts())
        model = dataclasses.replace(
            model, decoder=dataclasses.replace(model.decoder, vocab_size=vocab_size)
        )
        config = FolderConfig(model, video=video, kind=kind)
        _, state = abstract_model(model)
        source = RandomSource(parameter_shapes(state), seed)
        table = make_table(model, "official")
        total = sum(2 * math.prod(shape) for shape in source.shapes.values())
        write_folder(
            folder,
            table,
            source,
            config,
            counters={name: np.zeros((), np.int64) for name in table.counters},
            source_files=None,
            max_shard_bytes=0.6 * total,
        )
    return config


class RandomSource:
    """Random bfloat16 parameters, each drawn from the seed and its own path.

    They come from NumPy: compiling the modules' own initialisation takes minutes on a small
    machine. Norms stay near the identity, so that activations keep their size.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self.shapes = shapes
        self.seed = seed
        self.values: dict[str, np.ndarray] = {}

    def dtype(self, path: str) -> np.dtype:
        return np.dtype(jnp.bfloat16)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        if path not in self.values:
            self.values[path] = self._draw(path).astype(jnp.bfloat16)
        return self.values[path][region]

    def _draw(self, path: str) -> np.ndarray:
        shape = self.shapes[path]
        rng = np.random.default_rng([self.seed, zlib.crc32(path.encode())])
        module, name = path.split(".")[0], path.split(".")[-1]
        if module == "motion_projector" and name == "kernel":
            return rng.uniform(0, 0.01, shape)
        if module == "slowfast" and name == "kernel":
            return rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        if name in ("scale", "var"):
            return rng.uniform(0.9, 1.1, shape)
        if name in ("ls1", "ls2"):
            return rng.normal(0.1, 0.01, shape)
        return rng.normal(0, 0.02, shape)
