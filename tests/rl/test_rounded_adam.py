"""Moments in bfloat16: right on average, never stuck, the same after a pause and on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rounded_adam import round_at_random, scale_by_rounded_adam

B1, B2 = 0.9, 0.999


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    # 1 + 3/8 of the distance to the next bfloat16, and values that lie on one.
    x = jnp.concatenate([jnp.full(40_000, 1 + 3 / 8 / 128), -jnp.full(40_000, 1 + 3 / 8 / 128)])
    rounded = np.asarray(round_at_random(x, jax.random.key(0)), np.float32)
    assert set(np.unique(np.abs(rounded))) == {1.0, 1 + 1 / 128}
    # The share rounded away from zero is 3/8; its standard error over 40,000 draws is 0.0024.
    for half in (rounded[:40_000], rounded[40_000:]):
        np.testing.assert_allclose((np.abs(half) > 1).mean(), 3 / 8, atol=4 * 0.0024)
    exact = jnp.array([0.0, -0.0, 1.0, -2.5, 3e38, 1e-38, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(
        np.asarray(round_at_random(exact, jax.random.key(1)), np.float32)[:4], exact[:4]
    )
    assert np.isinf(np.asarray(round_at_random(exact, jax.random.key(1)), np.float32)[-2:]).all()
    assert np.isnan(np.asarray(round_at_random(jnp.array([jnp.nan]), jax.random.key(2)))).all()


def last_second_moment(round_to, num_steps: int, size: int) -> np.ndarray:
    """b2's average of a squared gradient that falls to a tenth after half of the steps."""

    def step(v, number):
        g = jnp.where(number < num_steps // 2, 1.0, 0.1)
        new = B2 * v.astype(jnp.float32) + (1 - B2) * g**2
        return round_to(jnp.broadcast_to(new, (size,)), number), None

    first = jnp.zeros((size,), jnp.bfloat16)
    run = jax.jit(lambda v: jax.lax.scan(step, v, jnp.arange(num_steps))[0])
    return np.asarray(run(first), np.float32)


def test_the_second_moment_does_not_stall():
    num_steps = 6000
    exact = (1 - B2**3000) * B2**3000 + 0.01 * (1 - B2**3000)
    nearest = last_second_moment(lambda v, _: v.astype(jnp.bfloat16), num_steps, 1)
    # A thousandth of 0.1^2 is lost beside what the first half has left: nearest numbers are stuck.
    assert abs(nearest[0] / exact - 1) > 1
    key = jax.random.key(3)
    at_random = last_second_moment(
        lambda v, number: round_at_random(v, jax.random.fold_in(key, number)), num_steps, 4096
    )
    # A step adds an error with a standard deviation of half an ulp at most, v / 256, which then
    # shrinks no faster than v: sqrt(6000) / 256 = 30 % of an element after all of them, 0.5 % of
    # the mean of 4096.
    assert abs(at_random.mean() / exact - 1) < 4 * 0.005
    assert at_random.std() / exact < 0.3


def test_it_is_adam_but_for_the_rounding():
    rng = np.random.default_rng(0)
    params = {"a": jnp.zeros((7, 5)), "b": jnp.zeros(11)}
    exact, rounded = optax.scale_by_adam(B1, B2), scale_by_rounded_adam(B1, B2, 0)
    states = [exact.init(params), rounded.init(params)]
    with jax.numpy_dtype_promotion("standard"):
        for number in range(5):
            grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape, "f4")), params)
            directions = []
            for i, adam in enumerate((exact, rounded)):
                direction, states[i] = adam.update(grads, states[i])
                directions.append(direction)
            # Nothing is rounded before the first step; then each moment is within 2^-7 per step.
            tolerance = 1e-6 if number == 0 else 2.0**-7 * number
            for name in params:
                np.testing.assert_allclose(*(d[name] for d in directions), atol=tolerance * 3)
    assert states[1].nu["a"].dtype == states[1].mu["b"].dtype == jnp.bfloat16
    assert int(states[1].count) == 5


def test_a_seed_draws_the_same_again_and_another_one_differently():
    grads = {"a": jnp.asarray(np.random.default_rng(1).standard_normal(1000, np.float32))}

    def second_moments(seed: int, pause: bool) -> np.ndarray:
        adam = scale_by_rounded_adam(B1, B2, seed)
        state = adam.init(grads)
        for _ in range(3):
            if pause:  # as a checkpoint keeps it
                arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
                state = jax.tree.unflatten(jax.tree.structure(state), map(jnp.asarray, arrays))
                adam = scale_by_rounded_adam(B1, B2, 99)
            state = adam.update(grads, state)[1]
        return np.asarray(state.nu["a"], np.float32)

    np.testing.assert_array_equal(second_moments(4, False), second_moments(4, True))
    assert (second_moments(4, False) != second_moments(5, False)).mean() > 0.1


def test_float32_moments_are_those_of_optax_bit_for_bit():
    cfg = OptimizerConfig(learning_rate=1e-3, total_steps=9, warmup_steps=2, weight_decay=0.1)
    chain = optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.adamw(cfg.schedule(), cfg.b1, cfg.b2, weight_decay=cfg.weight_decay),
    )
    params = {"a": jnp.linspace(-1, 1, 12)}
    states = [cfg.make(7).init(params), chain.init(params)]
    with jax.numpy_dtype_promotion("standard"):
        for number in range(3):
            grads = {"a": jnp.sin(params["a"] * (number + 3))}
            updates = []
            for i, optimizer in enumerate((cfg.make(), chain)):
                update, states[i] = optimizer.update(grads, states[i], params)
                updates.append(update)
            np.testing.assert_array_equal(updates[0]["a"], updates[1]["a"])
    assert jax.tree.all(jax.tree.map(np.array_equal, *states))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"moment_dtype must be one of \('float32', 'bfloat16'\)"):
        dataclasses.replace(OptimizerConfig(), moment_dtype="float16")
