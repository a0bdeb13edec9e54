"""The two layouts of a run, on the same devices, and moving between them.

Updates split parameters over `fsdp` and `tensor`. Rollouts read all weights at every token, so
theirs are split over `tensor` alone, to a degree of its own, and all other devices share the
videos.
"""

from __future__ import annotations

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from vqathinker_jax.parallel import MESH_AXES, partition_spec, tree_shardings

T = TypeVar("T")


def rollout_mesh(mesh: Mesh, tensor: int | None) -> Mesh:
    """The devices of `mesh` in the same order, `tensor` of them per copy of the weights.

    Args:
      mesh: of the updates.
      tensor: tensor-parallel degree; None, that of `mesh`.

    Raises:
      ValueError: the degree does not divide the number of devices.
    """
    tensor = mesh.shape["tensor"] if tensor is None else tensor
    if mesh.size % tensor:
        raise ValueError(f"rollout_tensor {tensor} does not divide the {mesh.size} devices")
    grid = mesh.devices.reshape(mesh.size // tensor, 1, tensor)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def place_batch(tree: T, mesh: Mesh) -> T:
    """Arrays that lead with the videos of a batch, each video on the devices that work on it.

    Args:
      tree: its arrays are on the host, on one device, or laid out over another mesh of the same
        devices: then they move between devices alone.
      mesh: its axes `data` and `fsdp` divide the number of videos.
    """
    sharding = NamedSharding(mesh, partition_spec(("batch",)))
    return _moved(tree, jax.tree.map(lambda _: sharding, tree))


def place_state(state: T, mesh: Mesh) -> T:
    """Parameters in the layout of another mesh of the same devices; what is in it is not copied."""
    leaves, structure = jax.tree.flatten(state)
    shardings = jax.tree.leaves(tree_shardings(state, mesh))
    moving = [
        i
        for i, (leaf, sharding) in enumerate(zip(leaves, shardings, strict=True))
        if not leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    ]
    moved = _moved([leaves[i] for i in moving], [shardings[i] for i in moving])
    for i, leaf in zip(moving, moved, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _moved(tree: T, shardings: T) -> T:
    # `jax.device_put` may go through the host where two meshes differ in shape; a compiled
    # identity is a collective among the devices.
    return jax.jit(_identity, out_shardings=shardings)(tree)


def _identity(tree: T) -> T:
    return tree
