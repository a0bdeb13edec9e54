"""Random decoders for tests, filled on the host: nothing to compile."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config


def make_decoder(cfg: Qwen2Config, dtype=jnp.float32, *, std: float = 0.3, seed: int = 1) -> Qwen2:
    """Normal kernels and biases of spread `std`, norm scales around 1; the same at every call."""
    rng = np.random.default_rng(seed)

    def fill(path: tuple, param: nnx.Variable) -> nnx.Variable:
        value = std * rng.standard_normal(param.get_value().shape, np.float32)
        return param.replace(jnp.asarray(value + (path[-1] == "scale"), dtype))

    abstract = nnx.eval_shape(lambda: Qwen2(cfg, param_dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    return nnx.merge(graphdef, nnx.map_state(fill, state))
