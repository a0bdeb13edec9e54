"""Both reports in a real browser: nothing is fetched, nothing sticks out, and sorting sorts."""

import dataclasses

import numpy as np
import pytest

from tests.reports.records import (
    EVIL,
    WARNING,
    evaluation_of,
    outcome_of,
    result_of,
    rows_of,
    write_clip,
)
from vqathinker_jax.evaluation.distortions import DIMENSIONS
from vqathinker_jax.evaluation.finevd import AttributionOutcome, DimensionCounts
from vqathinker_jax.evaluation.questions import Answered, QuestionsOutcome
from vqathinker_jax.evaluation.understanding import Understanding
from vqathinker_jax.reports.evaluation import write_evaluation_report
from vqathinker_jax.reports.folder import write_folder_report
from vqathinker_jax.results import ScoreResult, Segment

CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.getClientRects().length) continue;
    if (node.closest("script, style, .visually-hidden")) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(parse(ink)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(ratio.toFixed(2) + " " + walker.currentNode.data.trim().slice(0, 40));
  }
  return bad;
})()
"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG AA)."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Both reports, with texts that are long, odd or missing."""
    folder = tmp_path_factory.mktemp("pages")
    clips = [write_clip(folder / "clips" / f"{name}.mp4") for name in ("b10", "b9", "a" * 90)]
    results = [result_of(clip, score) for clip, score in zip(clips, (4.5, 2.0, 3.0), strict=True)]
    timeline = (Segment(0.0, 1.0, 1.5, 0.2), Segment(1.0, 2.0, error="lost"))
    results[1] = result_of(
        clips[1], 2.0, std=0.4, reasoning=EVIL + "x" * 300, timeline=timeline, distortions=("blur",)
    )
    results.append(ScoreResult(str(folder / "clips" / "c.mp4"), "error", error="is damaged"))
    write_folder_report(results, "model", WARNING, folder / "folder.html")
    x = np.random.default_rng(0).uniform(1, 5, 300)
    outcomes = (
        outcome_of(rows_of((4.5, 2, 1), (1, 2, 3), results[:3]), "n" * 60, "ood"),
        outcome_of(rows_of(x, x), "many", "in-domain"),
    )
    evaluation = evaluation_of(*outcomes)
    figures = {"paper " + "y" * 30: {"many": {"srcc": 0.5, "plcc": 0.25}}}
    evaluation = dataclasses.replace(evaluation, settings=evaluation.settings | {"beside": figures})
    counts = {name: DimensionCounts(3, 1, 0, 0, 0) for name in DIMENSIONS}
    attribution = AttributionOutcome("finevd", "keywords", counts, ())
    answer = Answered(1, "v", "referring", "ok", "A", "A", None, None)
    questions = QuestionsOutcome("q" * 60, (answer,), ("2 questions left out: " + "z" * 60,))
    understanding = Understanding((attribution,), (questions,))
    write_evaluation_report(evaluation, folder / "evaluation.html", understanding)
    return folder


@pytest.mark.parametrize("name", ["folder.html", "evaluation.html"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_is_fetched_sticks_out_or_fades(browser, pages, name, width, is_dark):
    browser.show(width, dark=is_dark)
    browser.open((pages / name).as_uri())
    assert browser.complaints() == []
    assert browser.requests() == [(pages / name).as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == width
    broken = "[...document.images].filter((one) => !one.naturalWidth).length"
    assert browser.run(broken) == 0 and browser.run("document.images.length") >= 6
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 20, 26)" if is_dark else "rgb(245, 246, 248)")
    assert browser.run(CONTRAST) == []
    unnamed = "document.querySelectorAll('img:not([alt]), svg.chart:not([aria-label])').length"
    assert browser.run(unnamed) == 0


@pytest.mark.parametrize("name", ["folder.html", "evaluation.html"])
def test_it_prints_on_paper_in_light_colours(browser, pages, name):
    browser.show(1280, dark=True, media="print")
    browser.open((pages / name).as_uri())
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run(CONTRAST) == []
    browser.show(1280, dark=True)
    assert browser.pdf().startswith(b"%PDF")


def test_the_table_is_sorted_and_searched(browser, pages):
    browser.show(1280)
    browser.open((pages / "folder.html").as_uri())
    names = "[...document.querySelectorAll('.files tbody tr:not([hidden])')]"
    names += ".map((row) => row.dataset.name.slice(0, 7))"
    assert browser.run(names) == ["b9.mp4", "aaaaaaa", "b10.mp4", "c.mp4"]
    click = "document.querySelector('th[data-by={}] button').click()"
    browser.run(click.format("score"))
    # Those without a score stay last.
    assert browser.run(names) == ["b10.mp4", "aaaaaaa", "b9.mp4", "c.mp4"]
    sorted_by = "document.querySelector('th[data-by=score]').getAttribute('aria-sort')"
    assert browser.run(sorted_by) == "descending"
    browser.run(click.format("name"))
    assert browser.run(names) == ["aaaaaaa", "b9.mp4", "b10.mp4", "c.mp4"]
    browser.run(click.format("spread"))
    assert browser.run(names)[0] == "b9.mp4"
    find = "(() => { const box = document.getElementById('find'); box.value = '{}';"
    find += " box.dispatchEvent(new Event('input')); })()"
    browser.run(find.replace("{}", "damaged"))
    assert browser.run(names) == ["c.mp4"]
    assert browser.run("document.getElementById('said').textContent") == "1 of 4 files"
    browser.run(find.replace("{}", ""))
    choose = "(() => { const box = document.getElementById('order');"
    choose += " box.value = 'score,ascending'; box.dispatchEvent(new Event('change')); })()"
    browser.run(choose)
    assert browser.run(names) == ["b9.mp4", "aaaaaaa", "b10.mp4", "c.mp4"]


def test_the_look_at_contrast_sees_faint_text(browser, pages):
    browser.show(1280)
    browser.open((pages / "folder.html").as_uri())
    browser.run("document.querySelector('h1').style.color = '#aab'")
    assert len(browser.run(CONTRAST)) == 1
