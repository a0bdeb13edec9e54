"""Linear layers: the gradient that is written by hand against the one JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqathinker_jax.models.layers import contract

SHAPES = {
    "widening": ((4, 7, 6), (6, 10), 1),
    "narrowing": ((4, 7, 10), (10, 6), 1),
    "into heads": ((4, 7, 6), (6, 3, 8), 1),
    "out of heads": ((4, 7, 3, 8), (3, 8, 6), 2),
    "one vector": ((6,), (6, 10), 1),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_of_a_contraction_are_those_of_jax(name, dtype):
    x_shape, kernel_shape, num = SHAPES[name]
    keys = jax.random.split(jax.random.key(3), 3)
    x, kernel = (
        jax.random.normal(key, shape, dtype)
        for key, shape in zip(keys[:2], (x_shape, kernel_shape), strict=True)
    )
    out = contract(x, kernel, num)
    weights = jax.random.normal(keys[2], out.shape, dtype)

    def of_jax(x, kernel):
        return jnp.tensordot(x, kernel, num)

    np.testing.assert_array_equal(out, of_jax(x, kernel))
    _, ours = jax.vjp(lambda x, kernel: contract(x, kernel, num), x, kernel)
    _, theirs = jax.vjp(of_jax, x, kernel)
    for found, expected in zip(ours(weights), theirs(weights), strict=True):
        assert found.dtype == expected.dtype == jnp.dtype(dtype)
        atol = (1e-6 if dtype == "float32" else 1e-2) * float(jnp.abs(expected).max())
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), rtol=0, atol=atol
        )
