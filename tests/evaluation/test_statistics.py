"""Compiled statistics against scipy, and the coverage of the intervals."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from vqathinker_jax import metrics
from vqathinker_jax.evaluation import statistics
from vqathinker_jax.evaluation.statistics import (
    BootstrapConfig,
    bootstrap_statistics,
    judge_agreement,
    percentile_interval,
    statistics_of_counts,
)

FEW = BootstrapConfig(draws=64)


def noisy(num: int, seed: int, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.uniform(1, 5, num)
    return np.round(y + rng.normal(0, noise, num), 2), y


def test_a_thousand_random_cases_with_ties_as_scipy():
    rng = np.random.default_rng(0)
    num_compared = 0
    while num_compared < 1000:
        num = int(rng.integers(3, 60))
        x, y = rng.integers(0, rng.integers(2, 30), (2, num)) / 7 + 1
        if len(set(x)) < 2 or len(set(y)) < 2:
            continue
        made = statistics_of_counts(x, y, None, np.ones((1, num), int))
        wanted = (
            stats.spearmanr(x, y).statistic,
            stats.pearsonr(x, y).statistic,
            stats.kendalltau(x, y).statistic,
        )
        found = (made.srcc[0], made.plcc[0], made.krcc[0])
        assert np.abs(np.subtract(found, wanted)).max() < 1e-9
        assert metrics.srcc(x, y) == pytest.approx(wanted[0], abs=1e-9)
        assert metrics.krcc(x, y) == pytest.approx(wanted[2], abs=1e-9)
        num_compared += 1


def test_a_large_set_as_scipy_and_as_metrics():
    x, y = noisy(1500, seed=1)
    parameters = metrics.logistic_parameters(x, y)
    made = statistics_of_counts(x, y, parameters, np.ones((1, 1500), int))
    assert made.krcc[0] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)
    assert made.srcc[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    fitted = metrics.logistic(x, parameters)
    assert made.rmse[0] == pytest.approx(metrics.rmse(fitted, y), abs=1e-6)
    assert made.plcc_fitted[0] == pytest.approx(metrics.plcc(fitted, y), abs=1e-6)


def test_counts_are_repetitions():
    x, y = noisy(40, seed=2)
    rng = np.random.default_rng(5)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=3)
    made = statistics_of_counts(x, y, metrics.logistic_parameters(x, y), counts)
    for row, times in enumerate(counts):
        repeated_x, repeated_y = np.repeat(x, times), np.repeat(y, times)
        wanted = metrics.agreement(repeated_x, repeated_y)
        assert made.srcc[row] == pytest.approx(wanted.srcc, abs=1e-9)
        assert made.plcc[row] == pytest.approx(wanted.plcc, abs=1e-9)
        assert made.krcc[row] == pytest.approx(wanted.krcc, abs=1e-9)
        # The draw's own fit in few steps: at most 0.3% above the best one where it was measured.
        assert made.rmse[row] == pytest.approx(wanted.rmse_logistic, rel=5e-3)


def test_chunks_change_nothing(monkeypatch):
    x, y = noisy(50, seed=3)
    whole = bootstrap_statistics(x, y, None, FEW)
    monkeypatch.setattr(statistics, "CHUNK_VALUES", 64 * 9)
    for name, values in vars(bootstrap_statistics(x, y, None, FEW)).items():
        assert values.shape == (64,)
        np.testing.assert_allclose(values, vars(whole)[name], atol=1e-12)


def test_seed_decides():
    x, y = noisy(50, seed=4)
    assert judge_agreement(x, y, FEW) == judge_agreement(x, y, FEW)
    other = judge_agreement(x, y, dataclasses.replace(FEW, seed=1))
    assert other.srcc.value == judge_agreement(x, y, FEW).srcc.value
    assert other.srcc.low != judge_agreement(x, y, FEW).srcc.low


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Correlation 0.6, 60 videos: SRCC of the population is 6/pi arcsin(0.3)."""
    rho, num, repeats = 0.6, 60, 250
    true = {
        "plcc": rho,
        "srcc": 6 / math.pi * math.asin(rho / 2),
        "krcc": 2 / math.pi * math.asin(rho),
    }
    rng = np.random.default_rng(7)
    covered = dict.fromkeys(true, 0)
    for repeat in range(repeats):
        x = rng.normal(size=num)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=num)
        drawn = bootstrap_statistics(x, y, None, BootstrapConfig(draws=200, seed=repeat))
        for name, value in true.items():
            low, high = percentile_interval(vars(drawn)[name], 0.95)
            covered[name] += low <= value <= high
    for name, count in covered.items():
        # 250 repeats: a standard error of 1.4 points; small samples cover a little less than 95%.
        assert 0.89 <= count / repeats <= 0.99, (name, count / repeats)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([3.0] * 7, [1, 2, 3, 4, 5, 6, 7], "all predictions are equal"),
        ([1, 2, 3, 4.0], [2, 2, 2, 2], "all labels are equal"),
        ([1.0, 2.0], [1.0, 2.0], "2 scored videos, at least 3 are needed"),
        ([], [], "0 scored videos, at least 3 are needed"),
    ],
)
def test_undefined_is_said(x, y, why):
    made = judge_agreement(x, y, FEW)
    assert made.why_undefined == why
    assert made.num_scored == len(x) and made.logistic is None
    for estimate in (made.srcc, made.plcc, made.plcc_fitted, made.krcc, made.rmse):
        assert all(map(math.isnan, vars(estimate).values()))


def test_three_videos_have_correlations_and_no_fit():
    made = judge_agreement([1.0, 2.0, 4.0], [10.0, 30.0, 20.0], FEW)
    assert made.srcc.value == pytest.approx(0.5)
    assert math.isnan(made.rmse.value) and made.why_undefined.startswith("no logistic")


def test_no_draws_no_intervals():
    made = judge_agreement(*noisy(30, seed=5), BootstrapConfig(draws=0))
    assert made.srcc.value > 0.9 and math.isnan(made.srcc.low)
    with pytest.raises(ValueError, match="level"):
        BootstrapConfig(level=1.0)
