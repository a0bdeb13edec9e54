"""The mesh, and the one table from logical axes to mesh axes.

Models name logical axes only; everything about devices is decided here. The table is active on a
single CPU too, so that the layout is exercised by every test.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, UInt8

M = TypeVar("M", bound=nnx.Module)
T = TypeVar("T")

MESH_AXES = ("data", "fsdp", "tensor")

LOGICAL_AXES: dict[str, str | tuple[str, ...] | None] = {
    # parameters
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    # The head keeps all of D and splits the vocabulary over both axes, see `Qwen2.logits`.
    "head_embed": None,
    "head_vocab": ("tensor", "fsdp"),
    "heads": "tensor",
    "kv_heads": "tensor",
    "qkv": None,
    "head_dim": None,
    "mlp": "tensor",
    "vision_embed": "fsdp",
    "vision_heads": "tensor",
    "vision_mlp": "tensor",
    "position": None,
    "patch": None,
    "rank": None,  # of LoRA adapters; their other axes are those of the layer they adapt
    "norm": None,  # scales, biases of norms and layer-scale vectors: too small to split
    # SlowFast is 34 million frozen parameters with channel counts down to 8: replicated everywhere.
    "conv_window": None,
    "conv_in": None,
    "conv_out": None,
    # activations
    "batch": ("data", "fsdp"),
    "data_batch": "data",  # rows whose D or vocabulary is split over `fsdp` for a moment
    "frames": None,
    "tokens": None,
    "samples": None,
}
"""Logical axis -> mesh axis (or axes, or None for replicated)."""


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Builds the `(data, fsdp, tensor)` mesh.

    Args:
      data, fsdp, tensor: devices along each mesh axis.
      devices: the devices to use; default, the first `data * fsdp * tensor` of this process, or
        all devices of all processes, those of a process side by side: `data` is laid over the
        processes first.

    Raises:
      ValueError: the product is not the number of devices given, or exceeds those there are; or
        there are several processes, and it is not the number of all their devices.
    """
    wanted = data * fsdp * tensor
    if devices is None:
        devices = devices_by_process()
        if jax.process_count() > 1 and wanted != len(devices):
            raise ValueError(
                f"mesh data={data} x fsdp={fsdp} x tensor={tensor} needs {wanted} devices, and the "
                f"{jax.process_count()} processes have {len(devices)}: none may be left out"
            )
        devices = devices[:wanted]
    if len(devices) != wanted:
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} x tensor={tensor} needs {wanted} devices, "
            f"there are {len(devices)}"
        )
    grid = np.asarray(devices).reshape(data, fsdp, tensor)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def platform_of(device: jax.Device) -> str:
    """`cpu`, `tpu`, `cuda`, or jax's own name of another platform.

    `cuda` are NVIDIA cards from Ampere on (compute capability 8.0), which cuDNN's fused attention
    needs. Others stay `gpu`, as jax calls the cards of every maker. The device may be one that is
    only described.
    """
    if device.platform != "gpu":
        return device.platform
    # "9.0" on an NVIDIA card, "gfx942" on one of AMD's.
    major = device.compute_capability.split(".")[0]
    return "cuda" if major.isdigit() and int(major) >= 8 else "gpu"


def devices_by_process() -> list[jax.Device]:
    """All devices, those of a process side by side; on TPU pods `jax.devices()` goes by place.

    Raises:
      ValueError: the processes have different numbers of devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{count} on process {index}" for index, count in counts.items())
        raise ValueError(f"the processes have different numbers of devices: {each}")
    return devices


@dataclasses.dataclass(frozen=True)
class RowReaders:
    """Which rows of a global batch each process brings.

    The batch is cut into as many parts as there are readers, in the order of its rows. Processes
    over which the devices of one row are spread (`tensor` wider than a host) bring the same part.
    """

    of_process: tuple[int, ...]
    """The part that each process brings."""

    @property
    def count(self) -> int:
        """Parts of a batch."""
        return max(self.of_process) + 1

    @property
    def mine(self) -> int:
        """The part of this process."""
        return self.of_process[jax.process_index()]

    def parts(self, table: Int32[np.ndarray, "processes n"]) -> Int32[np.ndarray, "count n"]:
        """What was gathered from the processes, once for each part of the batch.

        Raises:
          ValueError: processes that bring the same part differ.
        """
        firsts = [self.of_process.index(part) for part in range(self.count)]
        for process, part in enumerate(self.of_process):
            if (table[process] != table[firsts[part]]).any():
                raise ValueError(
                    f"processes {firsts[part]} and {process} bring the same rows, and differ"
                )
        return table[firsts]


def row_readers(mesh: Mesh) -> RowReaders:
    """The readers of batches that lie over `("data", "fsdp")` of a mesh.

    Raises:
      ValueError: processes whose rows overlap, but are not the same.
    """
    by_row = mesh.devices.reshape(-1, mesh.shape["tensor"])
    rows = collections.defaultdict(set)
    for row, devices in enumerate(by_row):
        for device in devices:
            rows[device.process_index].add(row)
    parts = sorted(set(map(frozenset, rows.values())), key=min)
    size = len(by_row) // len(parts)
    if [list(range(size * n, size * (n + 1))) for n in range(len(parts))] != list(
        map(sorted, parts)
    ):
        raise ValueError(
            f"mesh tensor={mesh.shape['tensor']} and {mesh.devices.size // len(rows)} devices a "
            "process: one must be a multiple of the other"
        )
    return RowReaders(tuple(parts.index(frozenset(rows[index])) for index in sorted(rows)))


def place_rows(
    batch: UInt8[np.ndarray, "..."], mesh: Mesh, readers: RowReaders
) -> UInt8[Array, "..."]:
    """A global batch on the devices, from the part that each process brings.

    Args:
      batch: the rows of this process.
      mesh: where they go.
      readers: of that mesh.
    """
    shape = (len(batch) * readers.count, *batch.shape[1:])
    first = len(batch) * readers.mine

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        return batch[start - first : stop - first]

    axes = ("batch", *[None] * (batch.ndim - 1))
    return jax.make_array_from_callback(shape, named_sharding(mesh, axes, shape), part)


def to_host(array: Array | np.ndarray) -> np.ndarray:
    """The whole of an array, on every process; all of them must ask for it."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather_rows(values: Int32[np.ndarray, "n"]) -> Int32[np.ndarray, "processes n"]:
    """The values of every process, on every process."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """Translates logical axis names to a PartitionSpec; raises KeyError on an unknown name."""
    return PartitionSpec(*(None if axis is None else LOGICAL_AXES[axis] for axis in axes))


def named_sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """The sharding of an array with these logical axes and this shape.

    Raises:
      ValueError: a dimension is not divisible by the mesh axes it is laid over.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}")
    spec = partition_spec(axes)
    for axis, size, mesh_axes in zip(axes, shape, spec, strict=True):
        if mesh_axes is None:
            continue
        names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            raise ValueError(
                f"axis {axis!r} of size {size} cannot be split over mesh axes {names} "
                f"({parts} devices)"
            )
    return NamedSharding(mesh, spec)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to lay `x` out by logical axes; the identity when no mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))


def num_shares(mesh: Mesh | None = None) -> int:
    """Parts that a mesh, by default the one in use, splits a batch into; 1 when none is set."""
    if mesh is None:
        mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in LOGICAL_AXES["batch"])


def per_shard(
    f: Callable[..., jax.Array],
    in_axes: Sequence[Sequence[str | None] | None],
    out_axes: Sequence[str | None],
) -> Callable[..., jax.Array]:
    """`f` applied by every device to its own part of the arguments; `f` itself without a mesh.

    For kernels that the compiler cannot split. A batch that its mesh axes do not divide stays
    whole: every device then computes all of it.

    Args:
      f: must need nothing from other parts.
      in_axes: logical axes of every argument; None for one that every device gets whole.
      out_axes: of the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return f

    def run(*args) -> jax.Array:
        rows = [
            arg.shape[axes.index("batch")]
            for arg, axes in zip(args, in_axes, strict=True)
            if axes is not None and "batch" in axes
        ]
        is_even = all(size % num_shares() == 0 for size in rows)

        def spec(axes: Sequence[str | None] | None) -> PartitionSpec:
            axes = () if axes is None else axes
            return partition_spec([None if a == "batch" and not is_even else a for a in axes])

        return jax.shard_map(
            f, in_specs=tuple(map(spec, in_axes)), out_specs=spec(out_axes), check_vma=False
        )(*args)

    return run


def logical_axes(path: tuple, variable: nnx.Variable) -> tuple[str, ...]:
    """The axis names of a parameter; raises ValueError if it was made without them."""
    metadata = variable.get_metadata()
    if "logical_axes" not in metadata:
        raise ValueError(f"parameter {'.'.join(map(str, path))} has no logical axes")
    return metadata["logical_axes"]


def state_shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """A tree like `state` (concrete or abstract) with a NamedSharding at every leaf.

    Raises:
      ValueError: a parameter has no logical axes, or a size that its mesh axes do not divide.
    """
    return nnx.map_state(lambda path, variable: _sharded(path, variable, mesh), state)


def _sharded(path: tuple, variable: nnx.Variable, mesh: Mesh) -> nnx.Variable:
    axes = logical_axes(path, variable)
    try:
        return variable.replace(named_sharding(mesh, axes, variable.get_value().shape))
    except ValueError as error:
        raise ValueError(f"parameter {'.'.join(map(str, path))}: {error}") from None


def tree_shardings(tree: T, mesh: Mesh) -> T:
    """A tree like `tree` with a NamedSharding at every leaf, for what is more than parameters.

    Parameters, and what an optimizer keeps of each, go by their logical axes; everything else
    (counters, keys) is on all devices.

    Raises:
      ValueError: as `state_shardings`.
    """

    def one(path: tuple, node: nnx.Variable | jax.Array) -> nnx.Variable | NamedSharding:
        if isinstance(node, nnx.Variable):
            return _sharded(_names(path), node, mesh)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_variable)


def constrain_tree(tree: T) -> T:
    """Asks the compiler for the layout of `tree_shardings`; the identity when no mesh is set.

    A compiled function without it chooses the layout of its results: gradients summed on every
    device in full, or norms split that came in whole, for which the next call compiles anew.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree

    def one(path: tuple, node: nnx.Variable | jax.Array) -> nnx.Variable | jax.Array:
        if isinstance(node, nnx.Variable):
            axes = logical_axes(_names(path), node)
            return node.replace(constrain(node.get_value(), *axes))
        return constrain(node, *[None] * node.ndim)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_variable)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _is_variable(node: object) -> bool:
    return isinstance(node, nnx.Variable)


def born_sharded(make: Callable[[nnx.Rngs], M], mesh: Mesh, seed: int = 0) -> M:
    """Builds a module whose parameters are created in their final layout, never on one device.

    Args:
      make: builds the module from its random streams.
      mesh: where it lives.
      seed: root of the initialisation.
    """
    with jax.set_mesh(mesh):
        graphdef, abstract = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(seed))))
        shardings = state_shardings(abstract, mesh)

        @jax.jit
        def init() -> nnx.State:
            state = nnx.state(make(nnx.Rngs(seed)))
            return jax.lax.with_sharding_constraint(state, shardings)

        return nnx.merge(graphdef, init())
