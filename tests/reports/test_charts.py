"""Charts: round ticks, right places, nothing outside the page's colours."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vqathinker_jax.reports.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    density_levels,
    fit_axis,
    histogram,
    sample,
)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1.2, 4.6], (1, 2, 3, 4, 5)),
        ([0, 100], (0, 25, 50, 75, 100)),
        ([-0.03, 0.04], (-0.04, -0.02, 0.0, 0.02, 0.04)),
        ([7], (6.96, 6.98, 7.0, 7.02, 7.04)),
        ([43.2, 43.2], (42.8, 43.0, 43.2, 43.4, 43.6)),
        ([0.0], (-0.005, -0.0025, 0.0, 0.0025, 0.005)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(values, ticks):
    axis = fit_axis("x", values)
    assert axis.low <= min(values) and axis.high >= max(values)
    assert axis.low < axis.high
    assert axis.ticks == pytest.approx(ticks)
    steps = np.diff(axis.ticks)
    assert np.allclose(steps, steps[0])


def test_ticks_are_written_with_the_decimals_they_need():
    assert fit_axis("x", [-0.03, 0.04]).names() == ["−0.04", "−0.02", "0.00", "0.02", "0.04"]
    assert fit_axis("x", [0, 100]).names() == ["0", "25", "50", "75", "100"]
    assert fit_axis("x", [0, 10]).names() == ["0.0", "2.5", "5.0", "7.5", "10.0"]


def test_places_by_hand():
    chart = Chart(fit_axis("a", [1, 5]), fit_axis("b", [0, 100]))
    assert (chart.at_x(1.0), chart.at_x(5.0)) == (LEFT, WIDTH - RIGHT)
    assert (chart.at_y(100.0), chart.at_y(0.0)) == (TOP, HEIGHT - BOTTOM)
    assert chart.at_x(3.0) == (LEFT + WIDTH - RIGHT) / 2


def test_every_kept_point_is_drawn_once_and_labels_are_text():
    x, y = np.linspace(1, 5, 30), np.linspace(0, 100, 30)
    chart = Chart(fit_axis("<a>", x), fit_axis("b & c", y))
    chart.dots(x, y, np.arange(0, 30, 3))
    svg = chart.svg('say "it"')
    ElementTree.fromstring(svg)
    assert len(re.findall(r"h0", svg)) == 10
    assert "&lt;a&gt;" in svg and "b &amp; c" in svg and "&#34;it&#34;" in svg
    assert not re.search(r"#[0-9a-f]{3,6}\b(?!;)|url\(|style=", svg)


def test_dense_places_have_the_highest_level():
    rng = np.random.default_rng(0)
    crowd = rng.normal(170, 4, (400, 2))
    lonely = np.array([[60.0, 60.0], [300.0, 60.0]])
    points = np.concatenate([crowd, lonely])
    levels = density_levels(points[:, 0], points[:, 1], 340, 340)
    assert levels[:400].max() == 5 and levels[400:].tolist() == [1, 1]


def test_a_sample_is_the_same_each_time():
    assert sample(5, 10).tolist() == [0, 1, 2, 3, 4]
    first, again = sample(9000, 70), sample(9000, 70)
    assert len(set(first.tolist())) == 70 and first.tolist() == again.tolist()


def test_a_histogram_has_the_heights_of_its_counts():
    svg = histogram([1.1, 1.2, 1.3, 4.9], "score", "said", np.array([1.0, 2, 3, 4, 5]))
    heights = [float(h) for h in re.findall(r'class="bar"[^>]* height="([\d.]+)"', svg)]
    assert len(heights) == 2 and heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert not re.search(r">\d\.\d+</text>", re.sub(r'class="mid".*?</text>', "", svg))
