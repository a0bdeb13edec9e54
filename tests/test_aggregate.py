"""Statistics of several answers, by hand and by simulation."""

import numpy as np
import pytest
import scipy.stats

from vqathinker_jax.aggregate import predictive_interval, spread, trimmed_mean


def test_by_hand():
    found = spread([2.0, 4.0, 3.1])
    assert found.mean == pytest.approx(9.1 / 3)
    assert found.median == 3.1
    assert found.trimmed_mean == pytest.approx(9.1 / 3)  # a fifth of three is none
    assert found.std == pytest.approx(np.std([2, 4, 3.1], ddof=1))
    half = scipy.stats.t.ppf(0.95, 2) * found.std * np.sqrt(4 / 3)
    assert found.interval == (1.0, 5.0) and half > 2  # clipped to the scale
    low, high = spread([3.0, 3.1, 3.2, 3.1]).interval
    half = scipy.stats.t.ppf(0.95, 3) * np.std([3, 3.1, 3.2, 3.1], ddof=1) * np.sqrt(5 / 4)
    assert (low, high) == pytest.approx((3.1 - half, 3.1 + half))


def test_of_one_and_of_none():
    one = spread([3.5])
    assert (one.mean, one.median, one.trimmed_mean) == (3.5, 3.5, 3.5)
    assert one.std is None and one.interval is None
    assert set(vars(spread([])).values()) == {None}


def test_trimming_equals_scipy():
    rng = np.random.default_rng(0)
    for count in range(1, 23):
        numbers = rng.uniform(1, 5, count).tolist()
        assert trimmed_mean(numbers) == pytest.approx(scipy.stats.trim_mean(numbers, 0.2))
    assert trimmed_mean([1.0, 3.0, 3.2, 3.4, 99.0]) == pytest.approx(3.2)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_interval_holds_one_more_answer_nine_times_in_ten(count):
    rng = np.random.default_rng(count)
    draws = rng.normal(3.0, 0.2, (4000, count + 1))
    held = []
    for row in draws:
        low, high = predictive_interval(row[:-1].tolist())
        held.append(low <= row[-1] <= high)
    # Four standard errors of 4,000 draws are 0.019; clipping at 1 and 5 takes next to nothing.
    assert np.mean(held) == pytest.approx(0.9, abs=0.019)
