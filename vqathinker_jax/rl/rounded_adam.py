"""Adam whose moments are stored in bfloat16, rounded up or down at random.

A second moment with b2 = 0.999 moves by at most a thousandth of itself towards a smaller gradient,
and by a thousandth of the difference towards a larger one. Neighbouring bfloat16 numbers are 1/256
to 1/128 of their size apart: rounded to the nearest, the moment would stop far from where it
belongs. Rounded up with the probability of the part that is cut off, it is right on average.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float32, Int32, Key, PyTree, UInt32

EPS = 1e-8
"""Added to the root of the second moment, as in optax's Adam."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoundedAdamState:
    """Between two updates."""

    count: Int32[Array, ""]
    """Updates done."""
    key: UInt32[Array, "2"]
    """Data of the root key of all rounding; each update folds its number into it."""
    mu: PyTree[BFloat16[Array, "..."]]
    """First moments, laid out as the parameters."""
    nu: PyTree[BFloat16[Array, "..."]]
    """Second moments."""


def scale_by_rounded_adam(b1: float, b2: float, seed: int) -> optax.GradientTransformation:
    """Adam's direction `m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8)`.

    `m` and `v` are updated in float32 and used as such; only what is stored between two updates is
    rounded. The bits depend on the seed, the number of the update and the place of the parameter in
    the tree, so that a resumed run draws what an uninterrupted one draws, on any mesh.

    Args:
      b1, b2: how much of the first and second moment stays.
      seed: root of the rounding.
    """

    def init(params: PyTree) -> RoundedAdamState:
        def zeros() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.bfloat16), params)

        key = jax.random.key_data(jax.random.key(seed))
        return RoundedAdamState(jnp.int32(0), key, zeros(), zeros())

    def update(
        grads: PyTree, state: RoundedAdamState, params: PyTree | None = None
    ) -> tuple[PyTree, RoundedAdamState]:
        count = state.count + 1
        t = count.astype(jnp.float32)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), count)
        gradients, structure = jax.tree.flatten(grads)
        directions, mus, nus = [], [], []
        old = zip(gradients, jax.tree.leaves(state.mu), jax.tree.leaves(state.nu), strict=True)
        for place, (g, mu, nu) in enumerate(old):
            m = b1 * mu.astype(jnp.float32) + (1 - b1) * g
            v = b2 * nu.astype(jnp.float32) + (1 - b2) * jnp.square(g)
            directions.append((m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + EPS))
            keys = jax.random.split(jax.random.fold_in(key, place))
            mus.append(round_at_random(m, keys[0]))
            nus.append(round_at_random(v, keys[1]))
        state = RoundedAdamState(
            count, state.key, structure.unflatten(mus), structure.unflatten(nus)
        )
        return structure.unflatten(directions), state

    return optax.GradientTransformation(init, update)


def round_at_random(x: Float32[Array, "..."], key: Key[Array, ""]) -> BFloat16[Array, "..."]:
    """`x` rounded to one of its two neighbours, to the nearer one more often: `x` on average.

    A bfloat16 is the upper half of a float32. A random lower half that is added carries into the
    upper one exactly as often as the lower half is large. What is not finite stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    kept = (bits + noise) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(kept, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
