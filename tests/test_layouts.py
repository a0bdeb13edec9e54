"""Two layouts on the same devices, and what they leave whole, for the full-size architecture."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from vqathinker_jax.layouts import place_batch, place_state, rollout_mesh
from vqathinker_jax.models.layers import parameter
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.parallel import MESH_AXES, make_mesh, state_shardings, tree_shardings
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.weights.readers import abstract_model, dotted

BIG = PRESETS["internvl3-8b"]
WHOLE = ("norm", "norm1", "norm2", "input_norm", "post_attention_norm")
"""Norms are not split."""


def large_mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    """A mesh of more devices than there are here."""
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def bytes_per_device(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def is_whole_on_purpose(path: tuple) -> bool:
    """SlowFast, norms, layer scales, and biases along an axis that `fsdp` has no part of."""
    return (
        path[0] == "slowfast"
        or any(name in WHOLE for name in path)
        or path[-1] in ("ls1", "ls2", "bias")
    )


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 16, 4), (1, 64, 1), (2, 4, 2)])
def test_every_state_of_the_8b_model_is_split_over_all_devices(shape):
    mesh = large_mesh(*shape)
    graphdef, state = abstract_model(BIG)
    _, trained, frozen = split_trained(nnx.merge(graphdef, state), "full")
    shardings = state_shardings(trained, mesh)
    whole = {
        path
        for path, param in nnx.to_flat_state(shardings)
        if not {"fsdp", ("tensor", "fsdp")} & set(param.get_value().spec)
    }
    assert all(is_whole_on_purpose(path) for path in whole), whole
    assert {path[0] for path, _ in nnx.to_flat_state(frozen)} == {"slowfast"}

    split = mesh.size // mesh.shape["data"]
    optimizers = {name: OptimizerConfig(moment_dtype=name, total_steps=9) for name in DTYPE_BYTES}
    states = {
        "trained": (trained, 4),
        **{
            name: (jax.eval_shape(optimizer.make().init, trained), 2 * DTYPE_BYTES[name])
            for name, optimizer in optimizers.items()
        },
    }
    num_trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained))
    for name, (tree, size) in states.items():
        here = sum(map(bytes_per_device, jax.tree.leaves(tree), _leaves(tree, mesh)))
        assert here <= 1.02 * size * num_trained / split, name
        assert here >= size * num_trained / split, name


DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


def _leaves(tree, mesh) -> list[NamedSharding]:
    return jax.tree.leaves(tree_shardings(tree, mesh))


def test_rollouts_split_the_8b_model_over_tensor_alone():
    mesh = large_mesh(2, 1, 4)
    _, state = abstract_model(BIG)
    flat = {dotted(path): param.get_value() for path, param in nnx.to_flat_state(state)}
    total = sum(math.prod(leaf.shape) for leaf in flat.values())
    shardings = _leaves(state, mesh)
    here = sum(map(bytes_per_device, jax.tree.leaves(state), shardings)) / 4
    # Beside SlowFast (34.6 million) and the like: the tower's positions, patches and norms.
    assert total / 4 < here < 1.02 * total / 4
    assert flat["decoder.lm_head.kernel"].shape == (3584, 151680)


def test_the_vocabulary_is_padded_to_what_splits():
    cfg = BIG.decoder
    assert (cfg.vocab_size, cfg.padded_vocab_size) == (151674, 151680)
    axes = {"head": ("head_embed", "head_vocab"), "table": ("vocab", "embed")}
    shapes = {"head": (3584, 151680), "table": (151680, 3584)}
    for name in axes:
        leaf = nnx.Param(jax.ShapeDtypeStruct(shapes[name], jnp.float32), logical_axes=axes[name])
        for tensor, fsdp in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 16), (1, 64)):
            mesh = large_mesh(1, fsdp, tensor)
            local = tree_shardings({"x": leaf}, mesh)["x"].get_value().shard_shape(shapes[name])
            assert math.prod(local) * fsdp * tensor == 3584 * 151680
        unpadded = nnx.Param(
            jax.ShapeDtypeStruct(tuple(151674 if n == 151680 else n for n in shapes[name]), "f4"),
            logical_axes=axes[name],
        )
        with pytest.raises(ValueError, match="size 151674 cannot be split over mesh axes"):
            tree_shardings({"x": unpadded}, large_mesh(1, 1, 4))


def test_the_rollout_mesh_has_the_same_devices_in_the_same_order():
    mesh = make_mesh(2, 2, 2)
    for tensor, shape in ((1, (8, 1, 1)), (None, (4, 1, 2)), (4, (2, 1, 4)), (8, (1, 1, 8))):
        other = rollout_mesh(mesh, tensor)
        assert other.devices.shape == shape
        assert other.devices.ravel().tolist() == mesh.devices.ravel().tolist()
    with pytest.raises(ValueError, match="rollout_tensor 3 does not divide the 8 devices"):
        rollout_mesh(mesh, 3)


def test_arrays_move_between_layouts_on_the_devices_alone():
    mesh = make_mesh(2, 2, 2)
    there = rollout_mesh(mesh, 4)
    values = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)
    state = nnx.State(
        {
            "split": parameter(jnp.asarray(values), ("embed", "mlp")),
            "whole": parameter(jnp.arange(5.0), ("norm",)),
        }
    )
    state = jax.device_put(state, state_shardings(state, mesh))
    batch = place_batch({"frames": values, "lengths": jnp.arange(8)}, mesh)
    assert batch["frames"].sharding.shard_shape((8, 16)) == (2, 16)
    with jax.transfer_guard("disallow"):
        moved, batch = place_state(state, there), place_batch(batch, there)
    assert batch["frames"].sharding.shard_shape((8, 16)) == (4, 16)
    assert moved["split"].get_value().sharding.shard_shape((8, 16)) == (8, 4)
    assert moved["whole"].get_value() is state["whole"].get_value()
    np.testing.assert_array_equal(moved["split"].get_value(), values)
    np.testing.assert_array_equal(batch["frames"], values)
    with pytest.raises(ValueError, match="parameter odd: axis 'mlp' of size 6"):
        odd = parameter(jnp.zeros((8, 6)), ("embed", "mlp"))
        place_state(nnx.State({"odd": odd}), there)
