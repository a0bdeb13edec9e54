"""The update: same numbers in all passes, accumulation, what trains and what does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax.inference import clip_features
from vqathinker_jax.models.lora import LoraConfig, add_adapters
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rollout import RolloutConfig, roll_out
from vqathinker_jax.rl.sft import sft_update
from vqathinker_jax.rl.trainable import split_trained
from vqathinker_jax.rl.update import (
    ObjectiveConfig,
    Static,
    UpdateBatch,
    response_logprobs,
    update,
)

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, total_steps=10)


@pytest.fixture(scope="module")
def sampled(small_model):
    """Sampled responses of three videos and the batch that trains on them."""
    rng = np.random.default_rng(0)
    loaded = small_model.loaded
    video = loaded.video
    shape = (3, video.num_frames, video.image_size, video.image_size, 3)
    pixels = jnp.asarray(rng.normal(size=shape).astype(np.float32))
    rows = [small_model.build_prompt(question) for question in (None, "Is it sharp?", "Good?")]
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.full((3, lengths.max() + 3), loaded.context_id, np.int32)
    for row, prompt in enumerate(rows):
        ids[row, : len(prompt)] = prompt
    cfg = RolloutConfig(num_generations=4, max_completion_length=6, temporal=False)
    generation = roll_out(
        (loaded.graphdef, loaded.state),
        pixels,
        jnp.asarray(ids),
        jnp.asarray(lengths),
        jax.random.split(jax.random.key(1), 3),
        video=video,
        context_id=loaded.context_id,
        cfg=cfg,
        sampling=cfg.sampling(loaded.end_id, loaded.pad_id, loaded.suppressed_ids),
    ).clean
    ragged = jnp.asarray(rng.integers(1, 7, (3, 4)))
    batch = UpdateBatch(
        pixels=pixels,
        prompt_ids=jnp.asarray(ids),
        prompt_lengths=jnp.asarray(lengths),
        responses=generation.tokens,
        response_mask=jnp.arange(6) < jnp.minimum(generation.lengths, ragged)[..., None],
        advantages=jnp.asarray(rng.normal(size=(3, 4)).astype(np.float32)),
    )
    return batch, generation


def fresh(
    model, vision: str = "frozen", micro_batch: int = 3, lora: LoraConfig | None = None, **objective
):
    """Copies of the parameters (updates donate theirs), split, and what to compile for."""
    loaded = model.loaded
    state = jax.tree.map(lambda a: jnp.array(a, jnp.float32), loaded.state)
    whole = nnx.merge(loaded.graphdef, state)
    if lora is not None:
        add_adapters(whole.decoder, lora, "float32", 5, make_mesh())
    graphdef, trained, frozen = split_trained(whole, vision)
    static = Static(
        graphdef, loaded.video, loaded.context_id, ObjectiveConfig(**objective), micro_batch, 6
    )
    return trained, frozen, static


def run(model, batch, vision="frozen", micro_batch=3, optimizer=OPTIMIZER, **objective):
    trained, frozen, static = fresh(model, vision, micro_batch, **objective)
    before = jax.tree.map(np.asarray, trained)
    opt_state = optimizer.make().init(trained)
    after, _, metrics = update(trained, frozen, opt_state, batch, static, optimizer)
    return before, after, metrics


def paths_that_moved(before, after) -> set[str]:
    old = dict(nnx.to_flat_state(before))
    return {
        path[0]
        for path, value in nnx.to_flat_state(after)
        if not np.array_equal(old[path].get_value(), value.get_value())
    }


def largest_difference(a, b) -> float:
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_training_pass_gives_the_samplers_logprobs(small_model, sampled):
    batch, generation = sampled
    trained, frozen, static = fresh(small_model)
    logprobs = response_logprobs(trained, frozen, batch, static)
    mask = jnp.arange(6) < generation.lengths[..., None]
    np.testing.assert_allclose(
        jnp.where(mask, logprobs, 0), jnp.where(mask, generation.logprobs, 0), atol=2e-5
    )


def test_kl_is_exactly_zero_at_step_zero(small_model, sampled):
    batch, _ = sampled
    trained, frozen, static = fresh(small_model)
    reference = response_logprobs(trained, frozen, batch, static)
    batch = dataclasses.replace(batch, reference_logprobs=reference)
    _, _, metrics = run(small_model, batch, beta=0.04)
    assert float(metrics.kl_token_mean) == 0.0
    assert float(metrics.clip_fraction) == 0.0
    _, _, moved = run(
        small_model, dataclasses.replace(batch, reference_logprobs=reference - 0.5), beta=0.04
    )
    np.testing.assert_allclose(float(moved.kl_token_mean), np.exp(-0.5) + 0.5 - 1, rtol=1e-5)


def test_adapters_alone_train_and_the_reference_is_the_base_model(small_model, sampled):
    batch, _ = sampled
    base = response_logprobs(*fresh(small_model)[:2], batch, fresh(small_model)[2])
    trained, frozen, static = fresh(small_model, lora=LoraConfig(3, 6.0), beta=0.04)
    assert all(path[-2] == "adapter" for path, _ in nnx.to_flat_state(trained))
    start = jax.tree.map(jnp.copy, trained)
    reference = response_logprobs(start, frozen, batch, static)
    np.testing.assert_array_equal(reference, base)
    batch = dataclasses.replace(batch, reference_logprobs=reference)
    kept = jax.tree.map(np.asarray, frozen)
    opt_state = OPTIMIZER.make().init(trained)
    moved, kl = [], []
    for _ in range(2):
        before = jax.tree.map(np.asarray, trained)
        trained, opt_state, metrics = update(trained, frozen, opt_state, batch, static, OPTIMIZER)
        kl.append(float(metrics.kl_token_mean))
        old = dict(nnx.to_flat_state(before))
        moved.append(
            {
                path[-1]
                for path, value in nnx.to_flat_state(trained)
                if not np.array_equal(old[path].get_value(), value.get_value())
            }
        )
    # B = 0 keeps the gradient from A in the first step.
    assert moved == [{"b"}, {"a", "b"}] and kl[0] == 0.0 < kl[1]
    assert largest_difference(kept, frozen) == 0.0
    np.testing.assert_array_equal(response_logprobs(start, frozen, batch, static), base)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_accumulating_over_groups_equals_one_pass(small_model, sampled, loss_type):
    batch, _ = sampled
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.integers(0, 3, (3, 6)).astype(np.float32))
    batch = dataclasses.replace(
        batch,
        reference_logprobs=jnp.asarray(-rng.uniform(1, 9, (3, 4, 6)).astype(np.float32)),
        old_logprobs=jnp.asarray(-rng.uniform(1, 9, (3, 4, 6)).astype(np.float32)),
        anchor=batch.responses[:, 0],
        text_weights=weights.at[0].set(0).at[0, 0].set(0.5),
    )
    objective = {"loss_type": loss_type, "beta": 0.1, "entropy_bonus": 0.5, "anchor_weight": 0.7}
    _, _, whole = run(small_model, batch, **objective)
    _, _, parts = run(small_model, batch, micro_batch=1, **objective)
    for name, expected in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), expected, 1e-4, 1e-6, err_msg=name)


def test_a_second_update_of_a_rollout_is_held_by_clipping(small_model, sampled):
    batch, _ = sampled
    trained, frozen, static = fresh(small_model, beta=0.0, clip_low=0.01, clip_high=0.01)
    old = response_logprobs(trained, frozen, batch, static)
    batch = dataclasses.replace(batch, old_logprobs=old)
    opt_state = OPTIMIZER.make().init(trained)
    clipped, norms = [], []
    for _ in range(3):
        trained, opt_state, metrics = update(trained, frozen, opt_state, batch, static, OPTIMIZER)
        clipped.append(float(metrics.clip_fraction))
        norms.append(float(metrics.grad_norm))
    # The ratio is exactly 1 in the first update, and tokens that have moved far have no gradient.
    assert clipped[0] == 0.0 < clipped[1]
    assert norms[-1] < norms[0]


def test_features_of_frozen_encoders_stand_for_the_pixels(small_model, sampled):
    batch, _ = sampled
    loaded = small_model.loaded
    features = clip_features(loaded.graphdef, loaded.state, batch.pixels, loaded.video)
    assert features.motion.shape[:2] == (3, 1)
    blind = jnp.zeros_like(batch.pixels)
    shared = dataclasses.replace(batch, pixels=blind, features=features)
    own, others, without = (
        run(small_model, one, "projector", 1, beta=0.0)[2]
        for one in (batch, shared, dataclasses.replace(batch, pixels=blind))
    )
    for name in ("loss", "entropy", "grad_norm"):
        expected = float(getattr(own, name))
        assert float(getattr(others, name)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(without.grad_norm) != pytest.approx(float(own.grad_norm), rel=1e-3)


@pytest.mark.parametrize(
    ("vision", "moving"),
    [
        ("full", {"vision", "projector", "motion_projector", "decoder"}),
        ("projector", {"projector", "motion_projector", "decoder"}),
        ("frozen", {"decoder"}),
    ],
)
def test_what_trains(small_model, vision, moving):
    trained, frozen, _ = fresh(small_model, vision)
    assert {path[0] for path, _ in nnx.to_flat_state(trained)} == moving
    everything = moving | {path[0] for path, _ in nnx.to_flat_state(frozen)}
    assert everything == {"vision", "projector", "slowfast", "motion_projector", "decoder"}


def test_everything_that_trains_moves(small_model, sampled):
    batch, _ = sampled
    before, after, metrics = run(small_model, batch, "full", beta=0.0)
    assert paths_that_moved(before, after) == {
        "vision",
        "projector",
        "motion_projector",
        "decoder",
    }
    assert np.isfinite(float(metrics.grad_norm)) and float(metrics.grad_norm) > 0


def test_zero_advantages_leave_the_model_alone(small_model, sampled):
    batch, _ = sampled
    batch = dataclasses.replace(batch, advantages=jnp.zeros((3, 4), jnp.float32))
    before, after, metrics = run(small_model, batch, beta=0.0)
    assert paths_that_moved(before, after) == set()
    assert float(metrics.grad_norm) == 0.0


def test_advantage_raises_what_it_favours(small_model, sampled):
    batch, _ = sampled
    favoured = jnp.zeros((3, 4), jnp.float32).at[:, 2].set(1.0)
    batch = dataclasses.replace(batch, advantages=favoured)
    trained, frozen, static = fresh(small_model)
    before = response_logprobs(trained, frozen, batch, static)
    _, after, _ = run(small_model, batch, beta=0.0)
    gain = (response_logprobs(after, frozen, batch, static) - before) * batch.response_mask.astype(
        jnp.float32
    )
    assert float(gain[:, 2].sum()) > 0.1


TEXT_WEIGHTS = jnp.array(
    [[2, 1, 1, 0, 0, 0], [1, 3, 0, 2, 1, 0], [0.5, 0, 1, 1, 1, 4]], jnp.float32
)


def weighted_loss(small_model, batch) -> float:
    """-sum w log p / sum w of each video's first response."""
    trained, frozen, static = fresh(small_model)
    logprobs = np.asarray(response_logprobs(trained, frozen, batch, static))[:, 0]
    return -np.average(logprobs, weights=TEXT_WEIGHTS)


def test_entropy_bonus_and_anchor(small_model, sampled):
    batch, _ = sampled
    expected = weighted_loss(small_model, batch)
    batch = dataclasses.replace(
        batch,
        advantages=jnp.zeros((3, 4), jnp.float32),
        anchor=batch.responses[:, 0],
        text_weights=TEXT_WEIGHTS,
    )
    _, _, first = run(small_model, batch, beta=0.0, anchor_weight=1.0, entropy_bonus=0.0)
    np.testing.assert_allclose(first.loss, first.anchor_loss, rtol=1e-5)
    np.testing.assert_allclose(first.anchor_loss, expected, rtol=1e-5)
    _, _, both = run(small_model, batch, beta=0.0, anchor_weight=2.0, entropy_bonus=0.5)
    np.testing.assert_allclose(both.loss, 2 * first.anchor_loss - 0.5 * first.entropy, rtol=1e-5)
    assert 0 < float(first.entropy) < np.log(len(small_model.tokenizer))


@pytest.mark.parametrize("micro_batch", [3, 1])
def test_sft_weighs_the_tokens_of_the_whole_batch(small_model, sampled, micro_batch):
    batch, _ = sampled
    expected = weighted_loss(small_model, batch)
    batch = dataclasses.replace(
        batch,
        responses=batch.responses[:, :1],
        response_mask=TEXT_WEIGHTS[:, None] > 0,
        advantages=batch.advantages[:, :1],
        text_weights=TEXT_WEIGHTS,
    )
    trained, frozen, static = fresh(small_model, micro_batch=micro_batch)
    state = OPTIMIZER.make().init(trained)
    _, metrics = sft_update(trained, frozen, state, batch, static, OPTIMIZER)
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)


def test_refusals(small_model, sampled):
    batch, _ = sampled
    with pytest.raises(ValueError, match="not a multiple of micro_batch=2"):
        run(small_model, batch, micro_batch=2, beta=0.0)
    with pytest.raises(ValueError, match="vision must be one of"):
        fresh(small_model, "half")
    with pytest.raises(ValueError, match="loss_type must be one of"):
        ObjectiveConfig(loss_type="ppo")
    with pytest.raises(ValueError, match="warmup_steps 5"):
        OptimizerConfig(warmup_steps=5, total_steps=3)
