"""Adapters for tests of whole models, and parameters of a state by name."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vqathinker_jax.models.lora import LoraConfig
from vqathinker_jax.weights.readers import dotted

LORA = LoraConfig(3, 6.0, ("q_proj", "o_proj", "down_proj"))


def moved(trained: nnx.State) -> nnx.State:
    """Parameters after some training."""
    rng = np.random.default_rng(0)

    def move(path: tuple, param: nnx.Variable) -> nnx.Variable:
        change = 0.05 * rng.standard_normal(param.shape, np.float32)
        return param.replace(param.get_value() + jnp.asarray(change))

    return nnx.map_state(move, trained)


def flat(state: nnx.State) -> dict[str, np.ndarray]:
    return {dotted(path): param.get_value() for path, param in nnx.to_flat_state(state)}
