"""Random parameters to train from: every layer keeps the size of what flows through it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

EMBEDDING_STD = 0.02
SHORTCUT_GAIN = 0.2
"""Scale of the last norm in a SlowFast block: without it the sum would grow block by block."""
LAYER_SCALE = 0.5
"""Of both branches in a layer of the tower."""
STACKED = ("layers",)
PROJECTIONS = ("q", "k", "v", "qkv")
"""Kernels with several output axes: their one leading axis (after that of the stacked layers) is
summed over, and all but the last of any other's."""


class InitialSource:
    """float32 parameters of a model, each drawn from the seed and its own path.

    Kernels have variance 1 / inputs (2 / inputs before a ReLU, 1 / inputs also in gated layers),
    tables of embeddings and the head a standard deviation of 0.02; norms start as the identity.

    Args:
      shapes: dotted path -> shape.
      seed: root.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self._shapes = shapes
        self._seed = seed

    def dtype(self, path: str) -> np.dtype:
        return np.dtype(np.float32)

    def read(self, path: str, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """A part of one parameter."""
        return self.draw(path)[index].astype(dtype)

    def draw(self, path: str) -> np.ndarray:
        """One parameter."""
        shape, names = self._shapes[path], path.split(".")
        rng = np.random.default_rng([self._seed, zlib.crc32(path.encode())])
        if names[-1] in ("scale", "var"):
            is_last_norm = names[0] == "slowfast" and names[-2] == "norm_c"
            gain = SHORTCUT_GAIN if is_last_norm and names[-1] == "scale" else 1.0
            return np.full(shape, gain, np.float32)
        if names[-1] in ("bias", "mean"):
            return np.zeros(shape, np.float32)
        if names[-1] in ("ls1", "ls2"):
            return np.full(shape, LAYER_SCALE, np.float32)
        std = EMBEDDING_STD
        if names[-1] == "kernel" and "lm_head" not in names:
            std = math.sqrt((2 if names[0] == "slowfast" else 1) / num_inputs(path, shape))
        return std * rng.standard_normal(shape, np.float32)


def num_inputs(path: str, shape: tuple[int, ...]) -> int:
    """Numbers that one output of a kernel is a sum over.

    >>> num_inputs("decoder.layers.attn.q.kernel", (3, 160, 5, 32))
    160
    >>> num_inputs("slowfast.stem.fast.conv.kernel", (5, 7, 7, 3, 8))
    735
    """
    names = path.split(".")
    if names[1] in STACKED:
        shape = shape[1:]
    axes = 1 if names[-2] in PROJECTIONS else len(shape) - 1
    return math.prod(shape[:axes])
