"""C9's rollouts are what an update takes."""

import jax.numpy as jnp
import numpy as np

from benchmarks.c9_recompiles import random_rollout
from vqathinker_jax.rl.stages import make_prompts
from vqathinker_jax.rl.train import pack


def test_random_rollouts_are_packed_to_the_bucket_of_the_longest(small_model):
    model = small_model.loaded
    prompts = make_prompts(model, "train", 2, 20)
    pixels, advantages = jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((2, 3))
    slots = set()
    for seed in range(8):
        rollout = random_rollout(np.random.default_rng(seed), 2, 3, 20, 50)
        batch = pack(prompts, pixels, rollout, advantages, None, 20)
        assert int(rollout.clean.lengths.max()) <= batch.responses.shape[2]
        np.testing.assert_array_equal(batch.response_mask.sum(-1), rollout.clean.lengths)
        slots.add(batch.responses.shape[2])
    assert slots == {16, 20}
