"""Parameters out of a folder, part by part, and a model filled from them shard by shard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from vqathinker_jax import parallel
from vqathinker_jax.models.vqathinker import VQAThinker, VQAThinkerConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.pieces import Table, read_part
from vqathinker_jax.weights.tensor_files import StoredTensor

LOAD_DTYPES = {"float32": np.dtype(jnp.float32), "bfloat16": np.dtype(jnp.bfloat16)}


class ParameterReader(Protocol):
    """Gives any part of any parameter."""

    def dtype(self, path: str) -> np.dtype:
        """The dtype a parameter is stored in."""
        ...

    def read(self, path: str, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """The part that one slice an axis selects."""
        ...


class FolderReader:
    """Reads parameters from the tensors of a folder.

    Args:
      table: of the folder's layout, already checked against the tensors.
      tensors: by the names of the table.
      shapes: path -> shape of every parameter.
      extra: parameters that the folder has no tensors for, by path.
    """

    def __init__(
        self,
        table: Table,
        tensors: Mapping[str, StoredTensor],
        shapes: Mapping[str, tuple[int, ...]],
        extra: Mapping[str, np.ndarray],
    ):
        self.pieces = table.by_path()
        self.tensors = tensors
        self.shapes = shapes
        self.extra = extra
        for pieces in self.pieces.values():
            for piece in pieces:
                stored = tensors[piece.name].dtype
                if stored.kind in "iub":
                    raise WeightsError(f"{piece.name}: is stored as {stored}, expected floats")

    def dtype(self, path: str) -> np.dtype:
        """The stored dtype.

        Raises:
          WeightsError: the layers that one of our parameters stacks are stored differently.
        """
        if path in self.extra:
            return self.extra[path].dtype
        names: dict[np.dtype, str] = {}
        for piece in self.pieces[path]:
            names.setdefault(self.tensors[piece.name].dtype, piece.name)
        if len(names) > 1:
            found = " and ".join(f"{name} is {dtype}" for dtype, name in names.items())
            raise WeightsError(
                f"{path} needs one dtype for all its tensors, but {found}; load with an explicit "
                "dtype instead"
            )
        return next(iter(names))

    def read(self, path: str, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """Only the bytes of this part are read."""
        if path in self.extra:
            return np.ascontiguousarray(self.extra[path][index]).astype(dtype)
        return read_part(self.pieces[path], self.shapes[path], index, dtype, self._view)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        """The part that a piece of some layout's table names, in the stored dtype."""
        index = (*region, *[slice(None)] * (len(self.shapes[path]) - len(region)))
        slices = tuple(slice(i, i + 1) if isinstance(i, int) else i for i in index)
        part = self.read(path, slices, self.dtype(path))
        return part.reshape(
            [size for size, i in zip(part.shape, index, strict=True) if not isinstance(i, int)]
        )

    def _view(self, name: str) -> np.ndarray:
        return self.tensors[name].view()


def abstract_model(cfg: VQAThinkerConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The model's structure without values."""
    return nnx.split(
        nnx.eval_shape(lambda: VQAThinker(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))
    )


def dotted(path: tuple) -> str:
    """A parameter's path as one name."""
    return ".".join(map(str, path))


def parameter_shapes(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """Dotted path -> shape of every parameter."""
    return {dotted(path): v.get_value().shape for path, v in nnx.to_flat_state(state)}


def fill_model(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    reader: ParameterReader,
    mesh: Mesh | None,
    dtype: str,
) -> VQAThinker:
    """Makes every parameter in its final layout, reading for each device only its own part.

    Args:
      graphdef, state: from `abstract_model`.
      reader: where the values come from.
      mesh: where they go; None, the first device.
      dtype: `auto` (each parameter as stored), `float32` or `bfloat16`.

    Raises:
      WeightsError: an unknown dtype, or a mesh that does not divide a parameter.
    """
    if dtype != "auto" and dtype not in LOAD_DTYPES:
        raise WeightsError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    shardings = None
    if mesh is not None:
        try:
            shardings = dict(nnx.to_flat_state(parallel.state_shardings(state, mesh)))
        except ValueError as error:
            raise WeightsError(str(error)) from None

    def fill(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        name = dotted(path)
        shape = variable.get_value().shape
        as_dtype = reader.dtype(name) if dtype == "auto" else LOAD_DTYPES[dtype]
        if shardings is None:
            sharding = SingleDeviceSharding(jax.local_devices()[0])
        else:
            sharding = shardings[path].get_value()
        parts: dict[tuple, np.ndarray] = {}

        def part(index: tuple[slice, ...]) -> np.ndarray:
            # Devices that hold the same part share one reading of it.
            key = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
            if key not in parts:
                parts[key] = reader.read(name, index, as_dtype)
            return parts[key]

        value = jax.make_array_from_callback(shape, sharding, part)
        # Waiting keeps at most one parameter's parts on the host.
        return variable.replace(jax.block_until_ready(value))

    return nnx.merge(graphdef, nnx.map_state(fill, state))


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers in all parameters."""
    return sum(math.prod(shape) for shape in shapes.values())
