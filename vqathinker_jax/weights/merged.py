"""A model with its adapter merged into it, part by part: what is exported and what is converted."""

from __future__ import annotations

import numpy as np

from vqathinker_jax.weights.adapter import FACTORS, Adapter, factor_path, kernel_paths
from vqathinker_jax.weights.folder_writer import RegionSource


class MergedSource:
    """Parameters of a model with an adapter merged into them: `kernel + scale * A B`.

    The sum is made in float32 and rounded once to the kernel's dtype, a layer at a time. So every
    part of a layer has the same bits, however it is asked for.

    Args:
      base: parameters without the adapter; may hold other ones too.
      adapter: what to merge.
    """

    def __init__(self, base: RegionSource, adapter: Adapter):
        self._base = base
        self._adapter = adapter
        self._kernels = frozenset(kernel_paths(adapter.lora))
        self._last: tuple[tuple[str, int], np.ndarray] | None = None

    def dtype(self, path: str) -> np.dtype:
        source = self._adapter.values if path in self._adapter.replaced else self._base
        return source.dtype(path)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        if path in self._adapter.replaced:
            return self._adapter.values.region(path, region)
        if path not in self._kernels:
            return self._base.region(path, region)
        layer, *rest = region
        if self._last is None or self._last[0] != (path, layer):
            self._last = ((path, layer), self._merged(path, layer))
        return self._last[1][tuple(rest)]

    def _merged(self, path: str, layer: int) -> np.ndarray:
        kernel = self._base.region(path, (layer,))
        a, b = (
            self._adapter.values.region(factor_path(path, factor), (layer,)).astype(np.float32)
            for factor in FACTORS
        )
        change = np.tensordot(a, b, 1)
        change *= np.float32(self._adapter.lora.scale)
        change += kernel.astype(np.float32)
        return change.astype(kernel.dtype)
