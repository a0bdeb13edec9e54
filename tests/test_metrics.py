"""Masked reductions against plain loops, correlations against scipy."""

import math
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vqathinker_jax import metrics

TABLES = [
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 5.0, 4.0]),
    ([1.0, 1.0, 2.0, 2.0, 2.0, 7.0], [3.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
    ([3.0, 2.0], [1.0, 5.0]),
    ([0.1, 0.1, 0.1, 0.2], [4.0, 3.0, 2.0, 1.0]),
]


def assert_as_scipy(x, y):
    assert metrics.plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert metrics.srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert metrics.krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)
    expected = math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x))
    assert metrics.rmse(x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("table", range(len(TABLES)))
def test_tables_as_scipy(table):
    assert_as_scipy(*TABLES[table])


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 41), st.integers(2, 9), st.integers(0, 10**6))
def test_random_ties_as_scipy(num, levels, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, levels, (2, num)) / 7
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert math.isnan(metrics.srcc(x, y))
        return
    assert_as_scipy(x, y)
    assert np.array_equal(metrics.average_ranks(x), stats.rankdata(x))


def test_ten_thousand_videos():
    rng = np.random.default_rng(3)
    y = rng.uniform(1, 5, 10_007)
    x = np.round(y + rng.normal(0, 0.4, y.shape), 2)
    start = time.process_time()
    metrics.krcc(x, y)
    assert time.process_time() - start < 5
    assert_as_scipy(x, y)


def test_by_hand():
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    assert metrics.srcc(x, y) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert metrics.krcc(x, y) == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert metrics.rmse(x, y) == pytest.approx(math.sqrt(0.5))
    assert metrics.plcc(x, [-v for v in x]) == -1


@pytest.mark.parametrize("x, y", [([2.0] * 5, [1.0, 2, 3, 4, 5]), ([1.0], [2.0]), ([], [])])
def test_undefined_is_nan(x, y):
    result = metrics.agreement(x, y)
    for value in (result.srcc, result.plcc, result.krcc, result.plcc_logistic):
        assert math.isnan(value)
    assert math.isnan(metrics.srcc(y, x))
    assert result.num_videos == len(x)


def test_a_constant_inexact_in_binary_is_undefined():
    assert math.isnan(metrics.plcc([0.1] * 7, np.arange(7)))


def test_refuses():
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        metrics.plcc([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="predictions hold 2"):
        metrics.srcc([1, math.nan, math.inf], [1, 2, 3])
    with pytest.raises(ValueError, match="targets hold 1"):
        metrics.rmse([1, 2, 3], [1, math.nan, 3])


def test_huge_values():
    assert metrics.plcc([1e300, 2e300, 3e300], [1, 2, 3]) == pytest.approx(1)


def test_logistic_recovers_its_own_curve():
    x = np.linspace(1, 5, 37)
    y = 8 + (93 - 8) / (1 + np.exp(-(x - 2.9) / 0.55))
    fitted = metrics.fit_logistic(x, y)
    assert np.abs(fitted - y).max() < 1e-6
    result = metrics.agreement(x, y)
    assert result.plcc_logistic == pytest.approx(1, abs=1e-9)
    assert result.rmse_logistic < 1e-6 < result.rmse
    assert result.plcc < 0.999


def test_logistic_equals_curve_fit():
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(11)
    y = rng.uniform(10, 90, 101)
    x = 1 + 4 / (1 + np.exp(-(y - 50) / 15)) + rng.normal(0, 0.2, y.shape)

    def logistic(x, b1, b2, b3, b4):
        return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / abs(b4)))

    start = (y.max(), y.min(), x.mean(), x.std() / 4)
    best, _ = curve_fit(logistic, x, y, p0=start, maxfev=20_000)
    assert np.abs(metrics.fit_logistic(x, y) - logistic(x, *best)).max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1]), st.sampled_from([0, 1, (0, 2), None]))
def test_masked_reductions_as_loops(seed, ddof, axis):
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(3, 1, (2, 3, 5)), 1)
    mask = rng.random(x.shape) < rng.choice([0.1, 0.5, 0.9])
    with jax.enable_x64(True):
        garbage = jnp.where(jnp.asarray(mask), jnp.asarray(x), jnp.nan)
        mean = np.asarray(metrics.masked_mean(garbage, jnp.asarray(mask), axis))
        var = np.asarray(metrics.masked_var(garbage, jnp.asarray(mask), axis, ddof))
        kept = np.asarray(metrics.masked_std(garbage, jnp.asarray(mask), axis, ddof, True))
    axes = tuple(range(3)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    rest = [a for a in range(3) if a not in axes]
    assert kept.shape == tuple(1 if a in axes else s for a, s in enumerate(x.shape))
    for index in np.ndindex(*(x.shape[a] for a in rest)):
        where = [slice(None)] * 3
        for a, i in zip(rest, index, strict=True):
            where[a] = i
        group = [float(v) for v in x[tuple(where)][mask[tuple(where)]]]
        assert mean[index] == pytest.approx(sum(group) / len(group) if group else 0, abs=1e-12)
        spread = (statistics.variance if ddof else statistics.pvariance) if group else None
        expected = spread(group) if len(group) > ddof else 0
        assert var[index] == pytest.approx(expected, abs=1e-12)


def test_equal_values_have_exactly_zero_spread():
    for value in (0.1, 3.3, 1e-30, 1e30):
        x = jnp.full((7, 3), value)
        mask = jnp.ones(x.shape, bool)
        assert (metrics.masked_mean(x, mask, 0) == x[0]).all()
        assert (metrics.masked_std(x, mask) == 0).all()


def test_masks_must_be_boolean():
    with pytest.raises(ValueError, match="bool"):
        metrics.masked_mean(jnp.ones(3), jnp.ones(3))


def test_order_within_groups_by_hand():
    # a: perfect; b: reversed, 1 - 6 * 8 / (3 * 8) = -1; c: not ordered; d: one pair exchanged, 0.5.
    predictions = [1.0, 1.5, 9.0, 3.0, 2.0, 1.0, 4.0, 4.0, 4.0, 2.0, 1.0, 3.0]
    targets = [1, 2, 3] * 4
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"] * 3
    assert metrics.mean_srcc_within(predictions, targets, groups) == pytest.approx(0.5 / 4)
    order = np.random.default_rng(0).permutation(12)
    mixed = [np.asarray(values)[order] for values in (predictions, targets, groups)]
    assert metrics.mean_srcc_within(*mixed) == pytest.approx(0.5 / 4)


def test_ties_within_a_group_share_ranks():
    # Ranks 1.5 1.5 3 against 1 2 3: 1.5 / sqrt(1.5 * 2).
    expected = 1.5 / math.sqrt(3)
    found = metrics.mean_srcc_within([1, 1, 2], [1, 2, 3], ["a", "a", "a"])
    assert found == pytest.approx(expected)


def test_groups_that_cannot_be_ordered():
    assert math.isnan(metrics.mean_srcc_within([], [], []))
    with pytest.raises(ValueError, match="group b have no order"):
        metrics.mean_srcc_within([1, 2, 3], [1, 2, 2], ["a", "a", "b"])
    with pytest.raises(ValueError, match="2 names of groups for 3 values"):
        metrics.mean_srcc_within([1, 2, 3], [1, 2, 3], ["a", "a"])
