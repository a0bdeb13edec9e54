"""Charts of a benchmark: the fit it has, the misses it names."""

import numpy as np
import pytest

from tests.reports.records import LOGISTIC, NAN, outcome_of, rows_of
from vqathinker_jax.metrics import fit_logistic
from vqathinker_jax.reports.agreement import figures, logistic, worst_misses
from vqathinker_jax.reports.charts import MOST_POINTS


def test_logistic_by_hand_and_as_the_metrics_fit_it():
    assert logistic(np.array([3.0]), LOGISTIC) == pytest.approx([3.0])
    assert logistic(np.array([3.5]), LOGISTIC) == pytest.approx([1 + 4 / (1 + np.exp(-1))])
    assert logistic(np.array([3.5]), (5.0, 1.0, 3.0, -0.5)) == pytest.approx(
        logistic(np.array([3.5]), LOGISTIC)
    )
    # Points on a logistic are fitted by that logistic.
    x = np.linspace(1, 5, 23)
    assert fit_logistic(x, logistic(x, LOGISTIC)) == pytest.approx(logistic(x, LOGISTIC), abs=1e-6)


def test_the_farthest_from_the_curve_are_named():
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    y = logistic(x, LOGISTIC) + np.array([0.0, 0.3, 0.0, -1.1, 0.0])
    misses = worst_misses(outcome_of(rows_of(y, x)), 2)
    assert [miss.row.id for miss in misses] == ["v3.mp4", "v1.mp4"]
    assert misses[0].row.label - misses[0].expected == pytest.approx(-1.1)


def test_without_a_fit_places_in_the_order_count():
    outcome = outcome_of(rows_of([10, 20, 30, 40], [1, 2, 4, 3]), logistic=None)
    assert [miss.row.id for miss in worst_misses(outcome, 2)] == ["v2.mp4", "v3.mp4"]
    assert [one.title for one in figures(outcome, [])] == [
        "Predictions and labels",
        "The predictions",
        "The labels",
    ]


def test_rows_without_a_prediction_are_in_no_chart():
    outcome = outcome_of(rows_of([10, 20, 30], [None, 2.0, 3.0]))
    assert {miss.row.id for miss in worst_misses(outcome, 9)} == {"v1.mp4", "v2.mp4"}
    assert figures(outcome, [])[0].svg.count("h0") == 2
    nothing = outcome_of(rows_of([10, 20], [None, None]))
    assert worst_misses(nothing, 3) == [] and figures(nothing, []) == []


def test_many_points_are_sampled_and_that_is_said():
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 5, MOST_POINTS + 500)
    found = figures(outcome_of(rows_of(x, x)), [])
    assert found[0].svg.count("h0") == MOST_POINTS
    assert "2,000 of 2,500 points are drawn" in found[0].note
    assert sum(len(one.svg) for one in found) < 100_000


def test_answers_out_of_range_and_equal_ones_are_said():
    rows = rows_of([1, 2, 3, 4], [0.5, 2, 3, 9])
    assert "2 outside 1 to 5" in figures(outcome_of(rows), [])[2].note
    same = outcome_of(rows_of([1, 2, 3], [3, 3, 3]), logistic=None)
    assert "3.000" not in figures(same, [])[0].svg
    assert NAN.value != NAN.value
