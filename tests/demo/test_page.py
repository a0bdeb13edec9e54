"""The page: complete in itself, honest, and safe with whatever a model says."""

import base64
import dataclasses
import io
import math
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.demo.demos import WARNING, make_demo
from vqathinker_jax.demo.outcome import NOT_OPINIONS, Row, agree, agreement_text, change_text
from vqathinker_jax.demo.page import place, plot_points, render_page, strip_indices
from vqathinker_jax.demo.training import ShortRun, TrainingReport

REPORT = TrainingReport(4, 2, (0.5, 0.75), (0.9, 1.0), 33.0)


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def trained(demo):
    rows = tuple(
        Row(row.clip, row.before, dataclasses.replace(row.before, score=score))
        for row, score in zip(demo.rows, (4.75, 1.5, 2.5), strict=True)
    )
    return dataclasses.replace(demo, rows=rows, training=REPORT, short_run=ShortRun())


def test_the_page_needs_nothing_else(tmp_path):
    page = render_page(trained(make_demo(tmp_path)), tmp_path)
    assert "http://" not in page and "https://" not in page and "url(" not in page
    read = Reader(page)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    links = [value for _, name, value in read.attributes if name in ("src", "href", "srcset")]
    assert links and all(value.startswith("data:") for value in links)
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert "default-src 'none'" in page
    assert str(tmp_path) not in page


def test_pictures_are_the_clips_and_the_frames_seen(tmp_path):
    read = Reader(render_page(make_demo(tmp_path), tmp_path))
    pictures = [value for tag, name, value in read.attributes if (tag, name) == ("img", "src")]
    assert len(pictures) == 3 * (1 + 3)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))).size for value in pictures
    ]
    assert sizes[:5] == [(80, 60), (96, 72), (96, 72), (96, 72), (80, 60)]


def test_label_and_caveats_are_there_to_read(tmp_path):
    demo = make_demo(tmp_path)
    text = Reader(render_page(demo, tmp_path)).text
    assert WARNING in text
    assert NOT_OPINIONS in text
    assert "n = 3 is tiny" in text and "over 3 clips (n = 3: tiny)" in text
    assert "model [nano]" in text
    for row in demo.rows:
        assert f"{row.clip.pseudo_score:.2f}" in text and f"{row.before.score:.2f}" in text
        assert row.clip.done in text and row.before.reasoning in text
    assert "training took" not in text


def test_training_is_reported_as_measured(tmp_path):
    demo = trained(make_demo(tmp_path))
    text = Reader(render_page(demo, tmp_path)).text
    assert change_text(demo) in text
    assert "0.50 in the first step, 0.75 in the last" in text
    assert "not that it helps" in text
    assert "4.75" in text


def test_what_a_model_says_is_text(tmp_path):
    said = "</p><script>alert(1)</script><img src=http://x/> & \x1b[31m"
    demo = make_demo(tmp_path, reasoning=said, warnings=("<b>odd</b>",))
    demo = dataclasses.replace(demo, model_name="<i>m</i>", warning="<i>w</i>")
    page = render_page(demo, tmp_path)
    read = Reader(page)
    assert "script" not in read.tags and "\x1b" not in page
    assert "<script>" not in page and "<b>odd" not in page and "<i>m" not in page
    assert "alert(1)" in read.text and "<i>w</i>" in read.text


def test_clips_without_a_score_have_none(tmp_path):
    demo = make_demo(tmp_path, (4.5, None, 2.0))
    text = Reader(render_page(demo, tmp_path)).text
    assert "no score" in text and "2 of 3" in text
    nothing = make_demo(tmp_path / "none", (None, None, None))
    assert "no rank correlation" in agreement_text(nothing.agreement)
    assert "n = 0" in Reader(render_page(nothing, tmp_path / "none")).text
    failed = make_demo(tmp_path / "failed", status="error", score=None, error="is damaged")
    assert failed.rows[0].is_failed
    assert "is damaged" in Reader(render_page(failed, tmp_path / "failed")).text


def test_agreement_by_hand(tmp_path):
    demo = make_demo(tmp_path)

    def agreement(pseudo_scores, scores):
        rows = tuple(
            Row(
                dataclasses.replace(row.clip, pseudo_score=pseudo_score),
                dataclasses.replace(row.before, score=score),
            )
            for row, pseudo_score, score in zip(demo.rows, pseudo_scores, scores, strict=True)
        )
        return agree(rows, [row.before for row in rows])

    found = agreement((5.0, 2.0, 1.0), (4.0, 3.0, 1.5))
    assert found.srcc == pytest.approx(1.0)
    assert found.distance == pytest.approx((1.0 + 1.0 + 0.5) / 3)
    assert agreement((5.0, 2.0, 1.0), (1.0, 2.0, 3.0)).srcc == pytest.approx(-1.0)
    with_gap = agreement((5.0, 2.0, 1.0), (1.0, None, 3.0))
    assert (with_gap.num_clips, with_gap.num_scored) == (3, 2)
    assert with_gap.srcc == pytest.approx(-1.0)
    assert math.isnan(agreement((5.0, 2.0, 1.0), (2.0, 2.0, 2.0)).srcc)
    with pytest.raises(ValueError, match="nothing was trained"):
        change_text(demo)


def test_places_and_points():
    assert place(7.0).percent == 100.0 and place(7.0).text == "7.00"
    assert place(3.0).percent == 50.0
    assert strip_indices(tuple(range(20)), 15) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert strip_indices((), 15) == []
    assert plot_points((2.0, 2.0)) == [[8.0, 45.0], [592.0, 45.0]]
    assert plot_points((2.0,)) == [[300.0, 45.0]]
