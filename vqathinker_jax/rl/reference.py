"""The reference of the KL penalty: the trained parameters as they were, kept as small as can be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

HOST_MEMORY = "pinned_host"


def make_reference(stored: nnx.State, param_dtype: str, dtype: str, memory: str) -> nnx.State:
    """Keeps the parameters that will train.

    Where passes compute in bfloat16, what a folder stored in bfloat16 stays as it is: the float32
    copy that trains begins with the same numbers, so the KL at the start is exactly 0 all the same.
    In float32 passes a stored bfloat16 table would be rounded where its float32 copy is not (the
    resampled positions of the tower), so there the reference has the dtype of what trains.

    Args:
      stored: as the folder had them; shared, not copied, where their dtype stays.
      param_dtype: of the copy that trains.
      dtype: compute dtype.
      memory: `device` or `host`.
    """

    def keep(leaf: jax.Array) -> jax.Array:
        is_exact = leaf.dtype == jnp.bfloat16 and dtype == "bfloat16"
        return leaf if is_exact else leaf.astype(param_dtype)

    reference = jax.tree.map(keep, stored)
    return _moved(reference, HOST_MEMORY) if memory == "host" else reference


def on_devices(reference: nnx.State) -> nnx.State:
    """The reference ready for a pass; itself where it never left the devices."""
    return _moved(reference, jax.local_devices()[0].default_memory().kind)


def _moved(state: nnx.State, memory: str) -> nnx.State:
    return jax.device_put(
        state, jax.tree.map(lambda leaf: leaf.sharding.with_memory_kind(memory), state)
    )
