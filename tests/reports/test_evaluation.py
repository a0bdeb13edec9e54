"""The page of an evaluation: complete in itself, honest, and safe with whatever a model says."""

import dataclasses
import math
import re

import numpy as np
import pytest

from tests.reports.reading import Reader
from tests.reports.records import (
    EVIL,
    NAN,
    WARNING,
    evaluation_of,
    outcome_of,
    result_of,
    rows_of,
    write_clip,
)
from vqathinker_jax.evaluation.distortions import DIMENSIONS
from vqathinker_jax.evaluation.finevd import AttributionOutcome, AttributionRow, DimensionCounts
from vqathinker_jax.evaluation.outcome import Agreement, BenchmarkRow, Estimate
from vqathinker_jax.evaluation.questions import Answered, QuestionsOutcome
from vqathinker_jax.evaluation.understanding import Understanding
from vqathinker_jax.reports.evaluation import (
    MOST_UNSCORED,
    flat_settings,
    interval,
    render_evaluation,
    tiles,
    write_evaluation_report,
)
from vqathinker_jax.results import ScoreResult

LABELS, PREDICTIONS = (1.0, 2.5, 3.0, 4.5, 2.0), (1.5, 2.0, 3.5, 4.0, 4.5)


def test_the_page_needs_nothing_else(tmp_path):
    results = [result_of(write_clip(tmp_path / f"{i}.mp4"), p) for i, p in enumerate(PREDICTIONS)]
    outcome = outcome_of(rows_of(LABELS, PREDICTIONS, results))
    path = tmp_path / "report.html"
    write_evaluation_report(evaluation_of(outcome), path)
    page = path.read_text(encoding="utf-8")
    read = Reader(page)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert "http://" not in page and "https://" not in page and "url(" not in page
    assert all(link.startswith(("data:", "#")) for link in read.links)
    assert "default-src 'none'" in page and str(tmp_path) not in page
    pictures = read.values("img", "src")
    assert len(pictures) == 5 * 6
    assert all(read.values("img", "alt")) and len(read.values("img", "alt")) == 30
    assert read.text.count("sharp, but noisy") == 5


def test_the_label_the_numbers_and_the_settings_are_there():
    rows = rows_of(LABELS, PREDICTIONS)
    notes = ("2 labels more than published",)
    evaluation = evaluation_of(outcome_of(rows, "KoNViD-1k", "in-domain", 0.812, notes=notes))
    text = Reader(render_evaluation(evaluation)).text
    assert WARNING in text and "random" in text
    assert "0.812" in text and "0.712 to 0.912" in text
    assert "in-domain" in text and notes[0] in text and "0.10.2" in text
    assert "5 labels · 5 scored" in text
    unlabelled = render_evaluation(dataclasses.replace(evaluation, warning=None))
    assert "Read this first" not in unlabelled


def test_what_a_model_and_a_path_say_is_text(tmp_path):
    result = result_of(write_clip(tmp_path / "a.mp4"), 2.0, reasoning=EVIL)
    row = BenchmarkRow(EVIL, "/v", 1.0, 2.0, "ok", result)
    broken = BenchmarkRow(EVIL, "/v", 1.0, None, "error", ScoreResult("/v", "error", error=EVIL))
    outcome = outcome_of([row, broken], name=EVIL, notes=(EVIL,))
    evaluation = evaluation_of(outcome, model=EVIL, warning=EVIL)
    page = render_evaluation(
        dataclasses.replace(evaluation, settings=evaluation.settings | {EVIL: EVIL})
    )
    read = Reader(page)
    assert "script" not in read.tags and "\x1b" not in page and "<script>" not in page
    assert all(link.startswith(("data:", "#")) for link in read.links)
    assert read.text.count("alert(1)") >= 6


def test_undefined_is_said_and_is_not_zero():
    rows = rows_of([1, 2, 3], [3, 3, 3])
    nothing = Agreement(3, NAN, NAN, NAN, NAN, NAN, None, "all predictions are equal")
    constant = outcome_of(rows, "flat", "ood", agreement=nothing, logistic=None)
    good = outcome_of(rows_of(LABELS, PREDICTIONS), "good", "ood")
    text = Reader(render_evaluation(evaluation_of(constant, good))).text
    assert "all predictions are equal" in text and "undefined" in text
    assert "without flat, where it is undefined" in text and "0.800" in text
    assert "nan" not in text.lower()
    assert "By the difference of their places" in text


def test_videos_without_a_score_are_named_up_to_a_cap():
    num = MOST_UNSCORED + 9
    rows = rows_of([3.0] * num, [None] * num)
    nothing = Agreement(0, NAN, NAN, NAN, NAN, NAN, None, "0 scored videos")
    text = Reader(render_evaluation(evaluation_of(outcome_of(rows, agreement=nothing)))).text
    assert f"{num} without a score" in text and "9 more are left out here" in text
    assert "v0.mp4" in text and f"v{num - 1}.mp4" not in text
    assert f"{num} without a file" in text


def test_domains_are_weighted_by_their_videos():
    small = outcome_of(rows_of([1, 2], [1, 2]), "s", "ood", 0.2)
    large = outcome_of(rows_of(range(8), range(8)), "l", "ood", 0.7)
    assert (2 * 0.2 + 8 * 0.7) / 10 == pytest.approx(0.6)
    found = {tile.title: tile for tile in tiles([small, large])}
    assert found["SRCC, out of distribution"].value == "0.600"
    assert found["Videos scored"].value == "10"
    custom = [dataclasses.replace(one, domain="custom") for one in (small, large)]
    assert "SRCC, custom" not in {tile.title for tile in tiles(custom)}


def test_settings_inside_others_get_dotted_names():
    settings = {"a": {"b": {"c": True}, "d": None}, "e": (1, 2)}
    assert flat_settings(settings) == [("a.b.c", "yes"), ("a.d", "–"), ("e", "(1, 2)")]
    evaluation = evaluation_of()
    more = evaluation.settings | {"versions": {EVIL: EVIL}}
    read = Reader(render_evaluation(dataclasses.replace(evaluation, settings=more)))
    assert "script" not in read.tags and "versions.</p>" in read.text


def test_the_level_of_the_intervals_is_said():
    evaluation = evaluation_of(outcome_of(rows_of(LABELS, PREDICTIONS)))
    assert "90 % bootstrap intervals over the videos" in Reader(render_evaluation(evaluation)).text
    only = Estimate(0.8, math.nan, math.nan)
    none = Agreement(5, only, only, only, only, only, None, None)
    page = render_evaluation(evaluation_of(outcome_of((), agreement=none)))
    assert "bootstrap intervals" not in Reader(page).text


def test_figures_of_others_stand_beside():
    evaluation = evaluation_of(outcome_of(rows_of(LABELS, PREDICTIONS), "KoNViD-1k", "in-domain"))
    beside = {"beside": {EVIL: {"KoNViD-1k": {"srcc": 0.5}, "in-domain": {"plcc": 0.25}}}}
    page = render_evaluation(dataclasses.replace(evaluation, settings=evaluation.settings | beside))
    read = Reader(page)
    assert "script" not in read.tags and "not measured here" in read.text
    cells = [re.sub("<[^>]*>", " ", row).split() for row in page.split("<tr>") if "0.500" in row]
    assert cells == [["KoNViD-1k", "0.800", "0.800", "0.500", "–"]]
    assert "0.250" in page and "In-domain overall" in read.text


def test_what_was_understood_has_tables():
    counts = {name: DimensionCounts(3, 1, 0, 0, 0) for name in DIMENSIONS}
    row = AttributionRow("v", "no verdict", {"blur": True}, None)
    attribution = AttributionOutcome("finevd", EVIL, counts, (row,))
    answers = tuple(
        Answered(number, "v", group, "ok", "A", chosen, None, None)
        for number, (group, chosen) in enumerate((("global", "A"), ("referring", "B")))
    )
    understanding = Understanding((attribution,), (QuestionsOutcome("qbench", answers),))
    page = render_evaluation(evaluation_of(), understanding)
    read = Reader(page)
    assert "script" not in read.tags and "1 without a verdict, counted as wrong" in read.text
    assert "75.0" in read.text and "100.0" in read.text and "referring" in read.text
    # Without benchmarks there is no table of their agreement.
    assert "Agreement with the labels" not in read.text
    assert "Understanding" not in Reader(render_evaluation(evaluation_of())).text


def test_a_rate_is_never_rounded_up_to_all():
    answers = [ScoreResult("v", "ok")] * 5000
    asked = outcome_of(rows_of(range(5000), range(5000), answers), num_unparseable=1)
    (rate,) = (tile for tile in tiles([asked]) if tile.title == "Answers with a number")
    assert rate.value == "99.9 %"
    # Nobody was asked for predictions that were read from a file.
    read = outcome_of(rows_of(range(5), range(5)))
    assert "Answers with a number" not in {tile.title for tile in tiles([read])}


def test_intervals_lie_on_their_scale():
    assert interval(Estimate(0.8, 0.7, 0.9), (0.6, 1.0)) == (25.0, 50.0, 50.0)
    assert interval(Estimate(0.8, math.nan, math.nan), (0.6, 1.0)) == (50.0, 0.0, 50.0)
    assert interval(NAN, (0.6, 1.0)) is None


def test_a_large_evaluation_makes_a_small_file():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, 7000)
    outcomes = [outcome_of(rows_of(x * 20, x), f"b{i}") for i in range(10)]
    page = render_evaluation(evaluation_of(*outcomes))
    assert len(page) < 1_000_000
    assert page.count('class="card case"') == 30
    assert "the other 6,997 are left out here" in Reader(page).text
