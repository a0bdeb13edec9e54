"""The mesh, and the one table from logical axes to mesh axes.

Models name logical axes only; everything about devices is decided here. The table is active on a
single CPU too, so that the layout is exercised by every test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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
      devices: the devices to use; default, all of this job, or in a single process the first
        `data * fsdp * tensor`.

    Raises:
      ValueError: the product is not the number of devices given, or exceeds those there are.
    """
    wanted = data * fsdp * tensor
    if devices is None:
        # A process without a device in the mesh could take part in nothing.
        devices = jax.devices()[: wanted if jax.process_count() == 1 else None]
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


def num_shares() -> int:
    """Parts that the mesh in use splits a batch into; 1 when no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]


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
        parts = math.prod(mesh.shape[name] for name in LOGICAL_AXES["batch"])
        rows = [
            arg.shape[axes.index("batch")]
            for arg, axes in zip(args, in_axes, strict=True)
            if axes is not None and "batch" in axes
        ]
        is_even = all(size % parts == 0 for size in rows)

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
