"""The page of scored files."""

import dataclasses
import re

import pytest

from tests.reports.reading import Reader
from tests.reports.records import EVIL, WARNING, result_of, write_clip
from vqathinker_jax.reports import folder
from vqathinker_jax.reports.folder import common_folder, render_folder, write_folder_report
from vqathinker_jax.reports.page import script_hashes
from vqathinker_jax.results import ScoreResult, Segment


@pytest.fixture
def results(tmp_path) -> list[ScoreResult]:
    high = result_of(write_clip(tmp_path / "in" / "high.mp4"), 4.5)
    low = result_of(
        write_clip(tmp_path / "in" / "deep" / "low.mp4"),
        1.25,
        std=0.5,
        scores=(0.75, 1.75, None),
        median=1.2,
        interval=(0.9, 1.6),
        timeline=(Segment(0.0, 1.0, 1.0, 0.1), Segment(1.0, 2.0, 2.0)),
    )
    unread = dataclasses.replace(high, score=None, parseable=False, warnings=("no number",))
    broken = ScoreResult(str(tmp_path / "in" / "broken.mp4"), "error", error="is damaged")
    return [high, broken, low, unread]


def test_the_page_needs_nothing_else(results, tmp_path):
    path = tmp_path / "out" / "report.html"
    write_folder_report(results, "m", WARNING, path)
    page = path.read_text(encoding="utf-8")
    read = Reader(page)
    assert not {"iframe", "object", "embed", "base", "form", "link rel"} & set(read.tags)
    assert read.tags.count("script") == 1 and not read.values("script", "src")
    assert all(link.startswith("data:") for link in read.links)
    assert "http://" not in page and "https://" not in page
    assert len(read.values("img", "src")) == 3 * 6 and all(read.values("img", "alt"))
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    (policy,) = (value for value in read.values("meta", "content") if "default-src" in value)
    assert policy.endswith("script-src " + script_hashes(page)) and "unsafe-inline'; s" in policy


def test_lowest_first_and_those_without_a_score_last(results):
    page = render_folder(results, "m", WARNING)
    assert re.findall(r'data-score="([^"]*)"', page) == ["1.25", "4.5", "", ""]
    text = Reader(page).text
    assert WARNING in text and "2 Files" not in text
    assert "1 could not be judged; 1 answered without a number" in text
    assert "± 0.50" in text and "0.90 to 1.60" in text and "is damaged" in text
    assert "no number" in text and "deep/low.mp4" in text
    assert "worst: 0:00–0:01 (1.00)" in text
    assert 'class="sample" style="left:0' in page


def test_what_the_reasons_name_is_shown_where_it_was_looked_for(results):
    named = dataclasses.replace(results[0], distortions=("noise", "blur"))
    none = dataclasses.replace(results[2], distortions=())
    text = Reader(render_folder([named, none], "m", None)).text
    assert text.count("names (by keywords):") == 2
    assert "noise, blur" in text and "no distortion" in text
    assert "names (by keywords)" not in Reader(render_folder(results, "m", None)).text


def test_a_soft_score_has_the_spread_of_its_digits(results):
    soft = dataclasses.replace(results[2], aggregate="soft", soft_score=1.25, soft_std=0.75)
    text = Reader(render_folder([soft], "m", None)).text
    assert "± 0.75" in text and "± 0.50" not in text


def test_what_a_model_and_a_path_say_is_text(tmp_path):
    made = result_of(write_clip(tmp_path / "a.mp4"), 2.0, reasoning=EVIL, warnings=(EVIL,))
    evil = dataclasses.replace(made, path="/x/" + EVIL + "\udcff", model=EVIL, model_kind=EVIL)
    failed = ScoreResult("/x/b", "error", error=EVIL)
    page = render_folder([evil, failed], EVIL, EVIL)
    read = Reader(page)
    assert read.tags.count("script") == 1 and "\x1b" not in page and "alert(1)</script" not in page
    assert all(link.startswith("data:") for link in read.links)
    page.encode("utf-8")


def test_what_is_left_out_is_said(results, monkeypatch):
    monkeypatch.setattr(folder, "MOST_ROWS", 3)
    monkeypatch.setattr(folder, "MOST_PICTURED", 1)
    monkeypatch.setattr(folder, "LONGEST_REASON", 5)
    page = render_folder(results, "m", None)
    text = Reader(page).text
    assert "The 3 files with the lowest scores are listed; 1 are left out here" in text
    assert "of the 1 files with the lowest scores; 2 have none here" in text
    assert "(cut here)" in text and "Read this first" not in text
    assert page.count("<img") == 6


def test_nothing_and_one_file_have_a_page(results):
    assert "0 files judged by m" in Reader(render_folder([], "m", None)).text
    assert "1 file judged by m" in Reader(render_folder(results[:1], "m", None)).text


def test_the_common_folder_is_a_folder():
    assert common_folder(["/a/b/x.mp4", "/a/bc/y.mp4"]) == "/a/"
    assert common_folder(["/x.mp4", "/y.mp4"]) == "/"
    assert common_folder(["a/x.mp4", "y.mp4"]) == common_folder([]) == ""
