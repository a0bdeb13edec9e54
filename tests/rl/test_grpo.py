"""Advantages and objective against plain loops, and the policy gradient of an enumerable toy."""

import itertools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqathinker_jax.rl import grpo


def reference_advantages(r, ddof, eps, scale):
    spread = statistics.stdev if ddof else statistics.pstdev

    def std(values):
        return spread(values) if len(values) > ddof else 0.0

    everything = [x for row in r for x in row]
    result = []
    for row in r:
        divisor = {"none": 1.0, "group": std(row) + eps, "batch": std(everything) + eps}[scale]
        result.append([(x - statistics.fmean(row)) / divisor for x in row])
    return result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1]), st.sampled_from(grpo.ADVANTAGE_SCALES))
def test_advantages_as_loops(seed, ddof, scale):
    rng = np.random.default_rng(seed)
    shape = [(3, 4), (1, 1)][seed % 2]
    r = np.round(rng.uniform(0, 3, shape), int(rng.choice([0, 3])))
    with jax.enable_x64(True):
        result = np.asarray(grpo.group_advantages(r, ddof, scale=scale))
    np.testing.assert_allclose(
        result, reference_advantages(r.tolist(), ddof, 1e-4, scale), rtol=0, atol=1e-9
    )


def test_advantages_by_hand():
    r = jnp.array([[1.0, 2.0, 3.0], [0.7, 0.7, 0.7]])
    result = grpo.group_advantages(r)
    assert result[0].tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001], abs=1e-6)
    for scale in grpo.ADVANTAGE_SCALES:
        for ddof in (0, 1):
            equal = grpo.group_advantages(jnp.full((7, 5), 0.1), ddof, scale=scale)
            assert (equal == 0).all()
    assert (grpo.group_advantages(r)[1] == 0).all()
    gradient = jax.grad(lambda r: (grpo.group_advantages(r) * r).sum())(r)
    assert (gradient == grpo.group_advantages(r)).all()
    with pytest.raises(ValueError, match="batch"):
        grpo.group_advantages(r, scale="std")
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        grpo.group_advantages(r, ddof=2)


def reference_loss(lp, old, ref, mask, adv, beta, low, high, loss_type, longest, num_tokens):
    num, length = lp.shape
    counts = [int(sum(mask[b])) for b in range(num)]
    per_sequence, kl_sum, clipped = [], 0.0, 0
    for b in range(num):
        kept = [t for t in range(length) if mask[b][t]]
        sequence = math.exp(sum(lp[b][t] - old[b][t] for t in kept) / max(counts[b], 1))
        total = 0.0
        for t in kept:
            ratio = sequence if loss_type == "gspo" else math.exp(lp[b][t] - old[b][t])
            bounded = min(max(ratio, 1 - low), 1 + high)
            gap = ref[b][t] - lp[b][t]
            kl = math.exp(gap) - gap - 1
            kl_sum += kl
            total += -min(ratio * adv[b], bounded * adv[b]) + beta * kl
            clipped += (ratio < 1 - low and adv[b] < 0) or (ratio > 1 + high and adv[b] > 0)
        per_sequence.append(total)
    tokens = max(sum(counts), 1)
    match loss_type:
        case "grpo" | "gspo":
            means = [x / max(n, 1) for x, n in zip(per_sequence, counts, strict=True)]
            loss = sum(means) / num
        case "bnpo":
            loss = sum(per_sequence) / tokens
        case "dapo":
            loss = sum(per_sequence) / (num_tokens or tokens)
        case "dr_grpo":
            loss = sum(per_sequence) / (num * longest)
    return loss, kl_sum / tokens, clipped / tokens


def sequences(seed, shape=(2, 3, 7), spread=0.3):
    """Log-probs of three policies with garbage behind the mask."""
    rng = np.random.default_rng(seed)
    lp = -rng.exponential(1, shape)
    old, ref = (lp + rng.normal(0, spread, shape) for _ in range(2))
    lengths = rng.integers(0, shape[-1] + 1, shape[:-1])
    mask = np.arange(shape[-1]) < lengths[..., None]
    garbage = [np.nan, np.inf, -np.inf, 1e30]
    lp, old, ref = (np.where(mask, x, rng.choice(garbage, shape)) for x in (lp, old, ref))
    return lp, old, ref, mask, rng.normal(0, 1, shape[:-1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(grpo.LOSS_TYPES), st.booleans())
def test_loss_as_loops(seed, loss_type, with_kl):
    lp, old, ref, mask, adv = sequences(seed)
    beta, low, high = (0.04, 0.2, 0.28) if with_kl else (0.0, 0.1, 0.1)
    with jax.enable_x64(True):
        result = grpo.grpo_loss(
            *map(jnp.asarray, (lp, old, ref, mask, adv)), beta, low, high, loss_type, 11, 29
        )
    flat = [x.reshape(6, 7) for x in (lp, old, ref, mask)]
    expected = reference_loss(*flat, adv.reshape(6), beta, low, high, loss_type, 11, 29)
    got = (result.loss, result.kl_token_mean, result.clip_fraction)
    assert [float(x) for x in got] == pytest.approx(list(expected), abs=1e-9)


@pytest.mark.parametrize("loss_type", grpo.LOSS_TYPES)
def test_garbage_behind_the_mask_has_no_influence(loss_type):
    lp, old, ref, mask, adv = (jnp.asarray(x, jnp.asarray(x).dtype) for x in sequences(3))
    mask = mask.at[0, 0].set(False)  # a sequence without any token

    def loss(lp, old, ref):
        return grpo.grpo_loss(
            lp, old, ref, mask, adv, loss_type=loss_type, max_completion_length=7
        ).loss

    dirty = jax.value_and_grad(loss)(lp, old, ref)
    clean = jax.value_and_grad(loss)(*(jnp.where(mask, x, -1.0) for x in (lp, old, ref)))
    assert dirty[0] == clean[0] and np.isfinite(dirty[0])
    assert (dirty[1] == clean[1]).all()
    assert (dirty[1][~mask] == 0).all()
    assert (jnp.abs(dirty[1]).sum(-1)[mask.any(-1)] > 0).all()


def test_one_update_per_batch():
    """Without old log-probs the ratio is 1 and the gradient is the policy gradient."""
    lp, _, _, mask, adv = (jnp.asarray(x) for x in sequences(4))

    def loss(lp, old):
        return grpo.grpo_loss(lp, old, None, mask, adv, beta=0.0).loss

    value, gradient = jax.value_and_grad(loss)(lp, None)
    same = jax.value_and_grad(loss)(lp, lp)
    assert value == same[0] and (gradient == same[1]).all()
    length = np.maximum(np.asarray(mask).sum(-1, keepdims=True), 1).astype(np.float32)
    expected = jnp.where(mask, -adv[..., None] / length, 0) / adv.size
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
    result = grpo.grpo_loss(lp, None, lp, mask, adv)
    assert result.kl_token_mean == 0 and result.clip_fraction == 0


def test_clipping_by_hand():
    """Ratio 2: clipped upwards at 1.2 for a good response, taken as it is for a bad one."""
    lp, mask = jnp.log(jnp.array([[1.0]])), jnp.ones((1, 1), bool)
    old = jnp.log(jnp.array([[0.5]]))
    for advantage, expected, clipped in ((1.0, -1.2, 1), (-1.0, 2.0, 0)):
        result = grpo.grpo_loss(lp, old, None, mask, jnp.array([advantage]), beta=0.0)
        assert result.loss == pytest.approx(expected, abs=1e-6)
        assert result.clip_fraction == clipped
    for advantage, expected, clipped in ((1.0, -0.5, 0), (-1.0, 0.8, 1)):
        result = grpo.grpo_loss(old, lp, None, mask, jnp.array([advantage]), beta=0.0)
        assert result.loss == pytest.approx(expected, abs=1e-6)
        assert result.clip_fraction == clipped


def test_dapo_micro_batches_add_up_to_the_whole():
    arrays = [jnp.asarray(x) for x in sequences(6, (4, 3, 7))]
    tokens = arrays[3].sum()
    whole = grpo.grpo_loss(*arrays, loss_type="dapo").loss
    parts = [[x[i : i + 2] for x in arrays] for i in (0, 2)]
    added = sum(grpo.grpo_loss(*p, loss_type="dapo", num_tokens=tokens).loss for p in parts)
    assert added == pytest.approx(float(whole), abs=1e-6)
    own = [grpo.grpo_loss(*p, loss_type="bnpo").loss for p in parts]
    assert abs(sum(own) / 2 - whole) > 1e-4  # a local count weighs micro-batches differently
    averaged = sum(grpo.grpo_loss(*p).loss for p in parts) / 2
    assert averaged == pytest.approx(float(grpo.grpo_loss(*arrays).loss), abs=1e-6)


def test_extreme_ratios_stay_finite():
    lp, mask = jnp.array([[-1e-3, -900.0, -1e30]]), jnp.ones((1, 3), bool)
    other = jnp.array([[-1e4, -1.0, -2.0]])
    for advantage in (-1.0, 0.0, 1.0):
        adv = jnp.array([advantage])
        for loss_type in ("grpo", "gspo"):

            def loss(x, adv=adv, loss_type=loss_type):
                return grpo.grpo_loss(x, other, other, mask, adv, loss_type=loss_type).loss

            value, gradient = jax.value_and_grad(loss)(lp)
            assert np.isfinite(value) and np.isfinite(np.asarray(gradient)).all()


def test_half_precision_is_computed_in_float32():
    lp, old, ref, mask, adv = (jnp.asarray(x) for x in sequences(7))
    half = (x.astype(jnp.bfloat16) for x in (lp, old, ref))
    result = grpo.grpo_loss(*half, mask, adv)
    assert result.loss.dtype == jnp.float32


def test_refuses():
    lp, _, _, mask, adv = (jnp.asarray(x) for x in sequences(1))
    with pytest.raises(ValueError, match="dr_grpo"):
        grpo.grpo_loss(lp, lp, lp, mask, adv, loss_type="ppo")
    with pytest.raises(ValueError, match="needs ref_logps"):
        grpo.grpo_loss(lp, lp, None, mask, adv)
    with pytest.raises(ValueError, match="max_completion_length"):
        grpo.grpo_loss(lp, lp, lp, mask, adv, loss_type="dr_grpo")
    with pytest.raises(ValueError, match="beta=-1"):
        grpo.grpo_loss(lp, lp, lp, mask, adv, beta=-1.0)
    with pytest.raises(ValueError, match="bool"):
        grpo.grpo_loss(lp, lp, lp, mask.astype(jnp.float32), adv)
    with pytest.raises(ValueError, match="advantages must be"):
        grpo.grpo_loss(lp, lp, lp, mask, adv[0])


# --- a toy that can be enumerated ---------------------------------------------------------------

NUM_ACTIONS, NUM_DRAWS = 3, 3
ACTION_REWARDS = np.array([0.2, 1.0, 0.5])


def toy(scale):
    """Expected update over all K-tuples of one-token responses, and the exact policy gradient."""
    logits = jnp.array([0.3, -0.4, 0.1])
    tuples = np.array(list(itertools.product(range(NUM_ACTIONS), repeat=NUM_DRAWS)))

    def loss(logits, actions):
        lp = jax.nn.log_softmax(logits)[actions][:, None]  # [K, C=1]
        group = jnp.asarray(ACTION_REWARDS)[actions][None]
        advantages = grpo.group_advantages(group, scale=scale)[0]
        mask = jnp.ones(lp.shape, bool)
        return grpo.grpo_loss(lp, None, None, mask, advantages, beta=0.0).loss

    updates = -jax.vmap(jax.grad(loss), (None, 0))(logits, jnp.asarray(tuples))
    probability = jax.nn.softmax(logits)
    weight = probability[tuples].prod(1)
    expected = (weight[:, None] * updates).sum(0)
    exact = jax.grad(lambda x: (jax.nn.softmax(x) * ACTION_REWARDS).sum())(logits)
    return expected, exact, (tuples, np.asarray(weight), np.asarray(probability))


def test_unscaled_expected_update_is_the_policy_gradient():
    """The group mean contains the response itself, which costs the factor (K - 1) / K."""
    with jax.enable_x64(True):
        expected, exact, _ = toy("none")
        np.testing.assert_allclose(
            expected, (NUM_DRAWS - 1) / NUM_DRAWS * exact, rtol=0, atol=1e-12
        )


def test_group_scaled_expected_update_is_the_enumerated_estimator():
    with jax.enable_x64(True):
        expected, exact, (tuples, weight, probability) = toy("group")
    total = np.zeros(NUM_ACTIONS)
    for actions, w in zip(tuples, weight, strict=True):
        r = [float(ACTION_REWARDS[a]) for a in actions]
        advantages = reference_advantages([r], 1, 1e-4, "group")[0]
        for a, advantage in zip(actions, advantages, strict=True):
            score = np.eye(NUM_ACTIONS)[a] - probability  # gradient of the log-softmax
            total += w * advantage * score / NUM_DRAWS
    np.testing.assert_allclose(expected, total, rtol=0, atol=1e-12)
    assert np.abs(np.asarray(exact) - total).max() > 1e-2
