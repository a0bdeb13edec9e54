"""VQAThinker's rewards against plain loops that restate the specification."""

import contextlib
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vqathinker_jax import parallel
from vqathinker_jax.rl import grpo, rewards

X64 = 1e-9
X32 = 2e-5


def phi(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def reference_regression(s, m, g, sigma=0.5, alpha=0.8, variant="paper", decimals=None):
    result = [[0.0] * len(row) for row in s]
    for i, row in enumerate(s):
        for k, score in enumerate(row):
            if not m[i][k]:
                continue
            # An overflowing square is a prediction infinitely far away.
            offset = abs(score - g[i]) / sigma
            bell = math.exp(-(offset**2) / 2) if offset < 1e100 else 0.0
            coarse = variant == "paper" or decimals[i][k] < 2
            result[i][k] = bell * (alpha if coarse else 1)
    return result


def reference_ranking(s, m, g, partners="all", ddof=1, eps=1e-6):
    num = len(s)
    groups = [[s[i][k] for k in range(len(s[i])) if m[i][k]] for i in range(num)]
    mean = [statistics.fmean(group) if group else None for group in groups]
    spread = statistics.variance if ddof == 1 else statistics.pvariance
    var = [spread(group) if len(group) > ddof else 0.0 for group in groups]
    result = [[0.0] * len(row) for row in s]
    for i in range(num):
        for k in range(len(s[i])):
            if not m[i][k]:
                continue
            pairs = []
            for j in range(num) if partners == "all" else [partners[i]]:
                if j == i or not groups[j]:
                    continue
                p = phi((s[i][k] - mean[j]) / math.sqrt(var[i] + var[j] + eps))
                t = 1 if g[i] > g[j] else 0 if g[i] < g[j] else 0.5
                pairs.append(math.sqrt(p * t + eps) + math.sqrt((1 - p) * (1 - t) + eps))
            result[i][k] = statistics.fmean(pairs) if pairs else 0.0
    return result


def reference_temporal(r, m, r2, m2, variant, gate_value=None, delta=0.3, tau=0.5, gate=0.5):
    num = len(r)

    def mean(rewards, valid, videos):
        kept = [x for i in videos for x, ok in zip(rewards[i], valid[i], strict=True) if ok]
        # Exact, as the comparison is.
        return math.fsum(kept) / len(kept) if kept else None

    result = [[0.0] * len(row) for row in r]
    for i in range(num):
        videos = range(num) if variant == "official_code" else [i]
        raw, other = mean(r, m, videos), mean(r2, m2, videos)
        for k in range(len(r[i])):
            if not m[i][k] or raw is None or other is None or raw < other:
                continue
            value = r if variant == "official_code" or gate_value is None else gate_value
            passed = raw > tau if variant == "paper" else value[i][k] > gate
            result[i][k] = delta if passed else 0.0
    return result


SHAPES = [(5, 3), (1, 4), (5, 1)]
"""Few, because each is compiled for."""


def batch(seed, scale=1.0):
    """Scores with ties and groups of equal scores, masks from empty to full."""
    rng = np.random.default_rng(seed)
    num, k = SHAPES[seed % len(SHAPES)]
    s = np.round(rng.normal(3, rng.choice([0, 0.05, 1]), (num, k)), 2) * scale
    m = rng.random((num, k)) < rng.choice([0, 0.4, 0.8, 1])
    g = np.round(rng.uniform(1, 5, num), int(rng.choice([0, 2])))
    return s, m, g


@contextlib.contextmanager
def precision(dtype):
    with jax.enable_x64(dtype == np.float64):
        yield


def poisoned(s, m, dtype):
    """Garbage where there is no score."""
    return jnp.asarray(np.where(m, s, np.nan), dtype)


def compare(result, expected, dtype):
    result = np.asarray(result)
    assert result.dtype == dtype
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected, rtol=0, atol=X64 if dtype == np.float64 else X32)


DTYPES = [np.float64, np.float32]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(0, True), (1, False)]), st.sampled_from(DTYPES))
def test_ranking_as_loops(seed, options, dtype):
    s, m, g = batch(seed)
    ddof, one_partner = options
    partners = "all"
    if one_partner:
        partners = np.random.default_rng(seed).integers(0, len(g), len(g)).astype(np.int32)
    with precision(dtype):
        result = rewards.ranking_reward(poisoned(s, m, dtype), m, g, partners, ddof)
        named = partners if isinstance(partners, str) else partners.tolist()
        # The reference sees the scores that the function sees.
        expected = reference_ranking(s.astype(dtype).tolist(), m, g.astype(dtype), named, ddof)
        # Equal scores leave a denominator of 1e-3, which amplifies a float32 mean's rounding.
        compare(result, expected, dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(rewards.REGRESSION_VARIANTS),
    st.sampled_from([1.0, 1e30, 1e300]),
    st.sampled_from(DTYPES),
)
def test_regression_as_loops(seed, variant, scale, dtype):
    s, m, g = batch(seed, scale)
    decimals = np.random.default_rng(seed).integers(0, 4, s.shape).astype(np.int32)
    with precision(dtype), np.errstate(over="ignore"):
        result = rewards.regression_reward(
            poisoned(s, m, dtype), m, g, variant=variant, decimals=decimals
        )
    compare(result, reference_regression(s, m, g, variant=variant, decimals=decimals), dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(rewards.TEMPORAL_VARIANTS),
    st.booleans(),
    st.sampled_from(DTYPES),
)
def test_temporal_as_loops(seed, variant, with_gate_value, dtype):
    rng = np.random.default_rng(seed)
    num, k, j = [(5, 3, 2), (1, 1, 1)][seed % 2]
    # Eighths: the means compare exactly, ties included.
    r, r2 = rng.integers(0, 9, (num, k)) / 8, rng.integers(0, 9, (num, j)) / 8
    m, m2 = rng.random((num, k)) < 0.8, rng.random((num, j)) < rng.choice([0, 0.8])
    value = rng.integers(0, 9, (num, k)) / 8 if with_gate_value else None
    with precision(dtype):
        result = rewards.temporal_reward(
            poisoned(r, m, dtype),
            m,
            poisoned(r2, m2, dtype),
            m2,
            gate_value=None if value is None else jnp.asarray(value, dtype),
            variant=variant,
        )
    expected = reference_temporal(r.tolist(), m, r2.tolist(), m2, variant, value)
    compare(result, expected, dtype)


def test_regression_by_hand():
    s, m = jnp.array([[3.0, 3.5, 9.0]]), jnp.array([[True, True, False]])
    g = jnp.array([3.0])
    paper = rewards.regression_reward(s, m, g)
    assert paper[0] == pytest.approx([0.8, 0.8 * math.exp(-0.5), 0], abs=1e-6)
    decimals = jnp.array([[2, 1, 2]])
    code = rewards.regression_reward(s, m, g, variant="official_code", decimals=decimals)
    assert code[0] == pytest.approx([1, 0.8 * math.exp(-0.5), 0], abs=1e-6)


def test_ranking_by_hand():
    """Two certain videos: right 1.001, wrong 0.002, tie about 1."""
    s, m = jnp.array([[4.0, 4.0], [2.0, 2.0]]), jnp.ones((2, 2), bool)
    right = rewards.ranking_reward(s, m, jnp.array([4.0, 2.0]))
    wrong = rewards.ranking_reward(s, m, jnp.array([2.0, 4.0]))
    assert np.asarray(right) == pytest.approx(1 + 1e-3, abs=1e-5)
    assert np.asarray(wrong) == pytest.approx(2e-3, abs=1e-5)
    same = jnp.array([[3.0, 3.0], [3.0, 3.0]])
    tie = rewards.ranking_reward(same, m, jnp.array([3.0, 3.0]))
    assert np.asarray(tie) == pytest.approx(2 * math.sqrt(0.25 + 1e-6), abs=1e-6)
    # One score each: variances are 0, z = 0.001 / sqrt(1e-6) = 1.
    with jax.enable_x64(True):
        one = rewards.ranking_reward(
            jnp.array([[3.001], [3.0]]), jnp.ones((2, 1), bool), jnp.array([2.0, 1.0])
        )
    assert one[0, 0] == pytest.approx(math.sqrt(phi(1.0) + 1e-6) + 1e-3, abs=1e-9)


def test_ranking_without_a_comparison_is_zero():
    s, g = jnp.array([[3.0, 4.0], [2.0, 1.0]]), jnp.array([3.0, 2.0])
    m = jnp.array([[True, True], [False, False]])
    assert (rewards.ranking_reward(s, m, g) == 0).all()
    assert (rewards.ranking_reward(s, ~m & False, g) == 0).all()
    assert (rewards.ranking_reward(s[:1], m[:1], g[:1]) == 0).all()
    everyone = jnp.ones((2, 2), bool)
    itself = rewards.ranking_reward(s, everyone, g, partners=jnp.array([0, 0]))
    assert (itself[0] == 0).all() and (itself[1] > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_scores_stay_finite(dtype):
    s = np.array([[1e300, 3.0, -1e300], [3.1, 3.2, 3.3], [1e308, -1e308, 1e308]])
    m, g = np.ones(s.shape, bool), np.array([3.0, 4.0, 2.0])
    with precision(dtype), np.errstate(over="ignore"):
        scores = jnp.asarray(s.astype(dtype))
        result = rewards.total_reward(scores, m, g, m, scores[::-1], m)
        ranking = np.asarray(result.ranking)
        for term in jax.tree.leaves(result):
            assert np.isfinite(np.asarray(term)).all()
    # [1e300, 3, -1e300] has mean 1 and std 1e300: against the second video z = 1, 0, -1.
    if dtype == np.float64:
        alone = reference_z(1.0), reference_z(0.0), reference_z(-1.0)
        one = rewards_of_two(s, m, g)
        assert one == pytest.approx(alone, abs=1e-9)
    assert ranking.shape == s.shape


def reference_z(z):
    return math.sqrt(1e-6) + math.sqrt(1 - phi(z) + 1e-6)


def rewards_of_two(s, m, g):
    with jax.enable_x64(True):
        return np.asarray(rewards.ranking_reward(jnp.asarray(s[:2]), m[:2], g[:2]))[0]


def test_float32_overflow_and_nan_scores():
    """A literal beyond float32 is a prediction far away; NaN is unparseable."""
    s = jnp.array([[jnp.inf, 3.0, jnp.nan], [2.0, -jnp.inf, 2.5]])
    m = jnp.ones(s.shape, bool)
    result = rewards.total_reward(s, m, jnp.array([3.0, 2.0]), m, s, m)
    for term in jax.tree.leaves(result):
        assert np.isfinite(np.asarray(term)).all()
    for term in (result.regression, result.ranking, result.temporal):
        assert term[0, 2] == 0
    assert result.regression[0, 0] == 0


def test_equal_scores_give_exactly_equal_rewards_in_float32():
    s = jnp.full((5, 4), 3.3)
    s = s.at[1].set(2.7).at[2].set(3.30001)
    m, g = jnp.ones(s.shape, bool), jnp.array([3.0, 4, 2, 5, 1])
    ranking = rewards.ranking_reward(s, m, g)
    assert (ranking == ranking[:, :1]).all()
    assert (grpo.group_advantages(ranking) == 0).all()


def test_temporal_by_hand():
    r = jnp.array([[0.6, 0.7, 0.2], [0.9, 0.95, 0.99]])
    m = jnp.array([[True, True, False], [True, True, True]])
    worse, better = jnp.full((2, 3), 0.4), jnp.full((2, 3), 0.66)
    full = jnp.ones((2, 3), bool)
    paper = rewards.temporal_reward(r, m, worse, full, variant="paper")
    assert paper.tolist() == pytest.approx(np.float32([[0.3, 0.3, 0], [0.3, 0.3, 0.3]]))
    # The first video's mean is 0.65: below 0.66 by itself, above it with the whole batch.
    paper = rewards.temporal_reward(r, m, better, full, variant="paper")
    assert (paper[0] == 0).all() and (paper[1] == 0.3).all()
    code = rewards.temporal_reward(r, m, better, full, variant="official_code", gate=0.65)
    assert (code == jnp.array([[0, 0.3, 0], [0.3, 0.3, 0.3]])).all()
    gated = rewards.temporal_reward(
        r, m, worse, full, gate=0.9, gate_value=jnp.array([[0.95, 0.9, 0.95], [0.1, 0.1, 1.0]])
    )
    assert (gated == jnp.array([[0.3, 0, 0], [0, 0, 0.3]])).all()
    nothing = rewards.temporal_reward(r, m, worse, ~full)
    assert (nothing == 0).all()


def test_temporal_tie_does_not_depend_on_the_order():
    rng = np.random.default_rng(1)
    r = jnp.asarray(rng.uniform(0.6, 1, (53, 7)), jnp.float32)
    shuffled = jnp.asarray(rng.permuted(np.asarray(r), axis=1))
    full = jnp.ones(r.shape, bool)
    for variant in rewards.TEMPORAL_VARIANTS:
        result = rewards.temporal_reward(r, full, shuffled, full, variant=variant)
        assert (result == jnp.float32(0.3)).all()


def test_the_papers_temporal_bonus_cancels_in_the_advantage():
    """12.2-E5: constant within the group, so only the gated form reaches training."""
    s, g = jnp.array([[3.0, 3.2, 2.6], [4.0, 4.1, 3.6]]), jnp.array([3.0, 4.0])
    m, off = jnp.ones(s.shape, bool), jnp.array([[1.0, 1.5, 5.0], [3.0, 2.0, 1.0]])
    for variant, matters in (("paper", False), ("default", True)):
        plain = rewards.total_reward(s, m, g, m, variant=variant).total
        bonus = rewards.total_reward(s, m, g, m, off, m, variant=variant)
        assert (bonus.temporal > 0).any()
        change = grpo.group_advantages(bonus.total) - grpo.group_advantages(plain)
        assert (jnp.abs(change).max() > 1e-3) == matters


def test_total_is_the_weighted_sum():
    s, m, g = (jnp.asarray(x) for x in batch(8))
    s, g = s.astype(jnp.float32), g.astype(jnp.float32)
    off = s + 1
    decimals = jnp.full(s.shape, 1)
    plain = rewards.total_reward(s, m, g, ~m, off, m)
    assert (plain.format.astype(bool) == ~m).all()
    expected = plain.format + plain.regression + plain.ranking + plain.temporal
    np.testing.assert_allclose(plain.total, expected, atol=1e-6)
    weights = rewards.RewardWeights(format=0.5, regression=2, ranking=0, temporal=3)
    weighted = rewards.total_reward(s, m, g, ~m, off, m, weights=weights)
    expected = 0.5 * plain.format + 2 * plain.regression + 3 * plain.temporal
    np.testing.assert_allclose(weighted.total, expected, atol=1e-6)
    code = rewards.total_reward(
        s, m, g, m, off, m, decimals=decimals, decimals_perturbed=decimals, variant="official_code"
    )
    regression = rewards.regression_reward(s, m, g, variant="official_code", decimals=decimals)
    assert (code.regression == regression).all()


def test_total_of_each_variant_uses_its_terms():
    rng = np.random.default_rng(4)
    s, off = (jnp.asarray(rng.normal(3, 0.4, (5, 3)), jnp.float32) for _ in range(2))
    m, g = jnp.ones(s.shape, bool), jnp.array([2.6, 2.9, 3.1, 3.3, 2.2])
    decimals = jnp.asarray(rng.integers(0, 4, s.shape))
    for variant, names in {
        "default": ("paper", "gated"),
        "paper": ("paper", "paper"),
        "official_code": ("official_code", "official_code"),
    }.items():
        result = rewards.total_reward(
            s, m, g, m, off, m, decimals=decimals, decimals_perturbed=decimals, variant=variant
        )
        temporal = jnp.zeros(s.shape)
        for kind, gate in (("regression", 0.9), ("ranking", 0.5)):
            if kind == "ranking":
                pair = [rewards.ranking_reward(x, m, g) for x in (s, off)]
            else:
                pair = [
                    rewards.regression_reward(x, m, g, variant=names[0], decimals=decimals)
                    for x in (s, off)
                ]
            value = rewards.bell(s, m, g) if kind == "regression" else None
            temporal += rewards.temporal_reward(
                pair[0], m, pair[1], m, gate=gate, gate_value=value, variant=names[1]
            )
        np.testing.assert_allclose(result.temporal, temporal, atol=1e-6)
        assert 0 < (temporal > 0).sum() < temporal.size


def test_permuting_videos_and_responses_permutes_the_rewards():
    rng = np.random.default_rng(12)
    s, off = rng.normal(3, 0.5, (2, 7, 5)).astype(np.float32)
    m, g = rng.random(s.shape) < 0.8, rng.uniform(1, 5, 7).astype(np.float32)
    videos, responses = rng.permutation(7), rng.permutation(5)

    def move(x):
        return x[videos] if x.ndim == 1 else x[videos][:, responses]

    plain = rewards.total_reward(s, m, g, m, off, m)
    moved = rewards.total_reward(*(move(x) for x in (s, m, g, m, off, m)))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(move(np.asarray(one)), other, atol=X32)


def test_sharding_changes_nothing():
    rng = np.random.default_rng(13)
    s, off = rng.normal(3, 0.5, (2, 16, 5)).astype(np.float32)
    m, g = rng.random(s.shape) < 0.8, rng.uniform(1, 5, 16).astype(np.float32)
    mesh = parallel.make_mesh(data=4, fsdp=2)

    def shard(x):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))

    arrays = (s, m, g, m, off, m)
    for variant in ("default",):
        plain = rewards.total_reward(*arrays, variant=variant)
        sharded = rewards.total_reward(*map(shard, arrays), variant=variant)
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(sharded), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        np.testing.assert_allclose(
            grpo.group_advantages(plain.total),
            grpo.group_advantages(shard(np.asarray(plain.total))),
            atol=1e-6,
        )


def test_total_is_jittable_as_a_whole():
    s, m, g = (jnp.asarray(x) for x in batch(8))
    s, g = s.astype(jnp.float32), g.astype(jnp.float32)
    partners = jnp.zeros(len(g), jnp.int32)
    jitted = jax.jit(lambda s, m, g, p: rewards.total_reward(s, m, g, m, s, m, partners=p))
    one, other = (
        jitted(s, m, g, partners),
        rewards.total_reward(s, m, g, m, s, m, partners=partners),
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_refuses():
    s, m, g = jnp.ones((2, 3)), jnp.ones((2, 3), bool), jnp.ones(2)
    with pytest.raises(ValueError, match="written_decimals"):
        rewards.regression_reward(s, m, g, variant="code")
    with pytest.raises(ValueError, match="needs decimals"):
        rewards.regression_reward(s, m, g, variant="official_code")
    with pytest.raises(ValueError, match="sigma"):
        rewards.regression_reward(s, m, g, sigma=0.0)
    with pytest.raises(ValueError, match="'all'"):
        rewards.ranking_reward(s, m, g, partners="random")
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        rewards.ranking_reward(s, m, g, ddof=2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        rewards.ranking_reward(s, m, g, partners=np.array([1, 2]))
    with pytest.raises(ValueError, match="integer array"):
        rewards.ranking_reward(s, m, g, partners=jnp.ones(2))
    with pytest.raises(ValueError, match="gated"):
        rewards.temporal_reward(s, m, s, m, variant="default")
    with pytest.raises(ValueError, match="default"):
        rewards.total_reward(s, m, g, m, variant="gated")
    with pytest.raises(ValueError, match="come together"):
        rewards.total_reward(s, m, g, m, s)
    with pytest.raises(ValueError, match="bool"):
        rewards.ranking_reward(s, jnp.ones((2, 3)), g)
    with pytest.raises(ValueError, match="gt must be"):
        rewards.ranking_reward(s, m, jnp.ones(3))
    with pytest.raises(ValueError, match="floating"):
        rewards.ranking_reward(jnp.ones((2, 3), jnp.int32), m, g)
