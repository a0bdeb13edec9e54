"""LoRA: low-rank adapters on the linear layers of the decoder, whose own kernels stay as they are.

The adapters run beside their kernels, in rollouts too. Merged into bfloat16 kernels, a change of
less than half a unit in the last place would be rounded away, weight by weight: early in training
the sampler would still be the base model. There is no dropout: the passes that are compared with
each other (policy, reference, old policy) have to be the same function of the parameters.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vqathinker_jax.models.layers import Linear, LowRank
from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.parallel import named_sharding

TARGETS = {
    "q_proj": ("attn", "q"),
    "k_proj": ("attn", "k"),
    "v_proj": ("attn", "v"),
    "o_proj": ("attn", "o"),
    "gate_proj": ("mlp", "gate"),
    "up_proj": ("mlp", "up"),
    "down_proj": ("mlp", "down"),
}
"""The published name of each linear layer in a decoder layer -> our path to it."""
ADAPTER = "adapter"
"""Attribute of `Linear` that holds its adapter."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters on the decoder: `W + alpha / rank * A B`, with W frozen.

    Raises:
      ValueError: a rank or alpha that is not positive, or a target that there is not.
    """

    rank: int = 16
    """R: columns of A and rows of B."""
    alpha: float = 32.0
    """The product of A and B is scaled by `alpha / rank`."""
    targets: tuple[str, ...] = tuple(TARGETS)
    """Which layers have adapters, by their names in `TARGETS`."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}; without adapters: null")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(
                f"targets must be some of {', '.join(TARGETS)}, each once, "
                f"got {', '.join(self.targets) or 'none'}"
            )

    @property
    def scale(self) -> float:
        """Factor of the product of A and B."""
        return self.alpha / self.rank

    def __str__(self) -> str:
        return f"LoRA of rank {self.rank}, alpha {self.alpha:g}, on {', '.join(self.targets)}"


def add_adapters(decoder: Qwen2, lora: LoraConfig, dtype: str, seed: int, mesh: Mesh) -> None:
    """Puts an adapter on every targeted layer, in place; the decoder computes what it did before.

    `A ~ U(-1 / sqrt(inputs), 1 / sqrt(inputs))`, Kaiming's rule with a slope of sqrt(5), and B = 0.

    Args:
      decoder: without adapters; its parameters are not looked at.
      lora: rank, scale and targets.
      dtype: of the adapters: `float32` or `bfloat16`.
      seed: root; every layer's draw depends on it and on the layer's name alone.
      mesh: where they go, laid out as the kernels that they adapt.
    """

    def put(value: np.ndarray, axes: tuple[str, ...]) -> jax.Array:
        value = value.astype(dtype)
        sharding = named_sharding(mesh, axes, value.shape)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    for name, layer in _targets(decoder, lora):
        shapes = _Shapes.beside(layer, lora.rank)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bound = 1 / math.sqrt(math.prod(shapes.a[1:-1]))
        a = bound * (2 * rng.random(shapes.a, np.float32) - 1)
        b = np.zeros(shapes.b, np.float32)
        layer.adapter = shapes.adapter(put(a, shapes.a_axes), put(b, shapes.b_axes), lora.scale)


def add_abstract_adapters(decoder: Qwen2, lora: LoraConfig, dtype: str) -> None:
    """As `add_adapters`, of a decoder without values: shapes and dtypes alone."""
    for _, layer in _targets(decoder, lora):
        shapes = _Shapes.beside(layer, lora.rank)
        a, b = (jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for shape in (shapes.a, shapes.b))
        layer.adapter = shapes.adapter(a, b, lora.scale)


def _targets(decoder: Qwen2, lora: LoraConfig) -> Iterator[tuple[str, Linear]]:
    for name in lora.targets:
        block, part = TARGETS[name]
        yield name, getattr(getattr(decoder.layers, block), part)


@dataclasses.dataclass(frozen=True)
class _Shapes:
    """Of the two parameters of one layer's adapter, the axis of the stacked layers first."""

    a: tuple[int, ...]
    a_axes: tuple[str, ...]
    b: tuple[int, ...]
    b_axes: tuple[str, ...]
    num_in: int

    @staticmethod
    def beside(layer: Linear, rank: int) -> _Shapes:
        shape, axes = layer.kernel.shape, layer.kernel.get_metadata()["logical_axes"]
        end = 1 + layer.num_in
        return _Shapes(
            a=(*shape[:end], rank),
            a_axes=(*axes[:end], "rank"),
            b=(shape[0], rank, *shape[end:]),
            b_axes=(axes[0], "rank", *axes[end:]),
            num_in=layer.num_in,
        )

    def adapter(self, a: jax.Array, b: jax.Array, scale: float) -> LowRank:
        return LowRank(
            nnx.Param(a, logical_axes=self.a_axes),
            nnx.Param(b, logical_axes=self.b_axes),
            num_in=self.num_in,
            scale=scale,
        )


def has_adapters(decoder: Qwen2) -> bool:
    """Whether any layer has an adapter."""
    layers = (getattr(getattr(decoder.layers, block), part) for block, part in TARGETS.values())
    return any(layer.adapter is not None for layer in layers)


def is_adapter(path: tuple) -> bool:
    """Whether the parameter at a path of the model belongs to an adapter."""
    return ADAPTER in path
