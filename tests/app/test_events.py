"""What the page is told: pictures as the model gets them, and no path of the server."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from vqathinker_jax.app.events import MOST_FRAMES, PICTURE_SIDE, describe
from vqathinker_jax.results import ScoreResult, Segment
from vqathinker_jax.scoring import StreamEvent


def test_frames_are_small_squares_and_not_too_many():
    images = np.zeros((MOST_FRAMES + 7, 448, 448, 3), np.uint8)
    facts = describe(StreamEvent("frames", images=images), "/t/x.mp4", "x.mp4")
    assert (facts["count"], facts["side"]) == (MOST_FRAMES + 7, 448)
    assert len(facts["pictures"]) == MOST_FRAMES
    data = base64.b64decode(facts["pictures"][0].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (PICTURE_SIDE, PICTURE_SIDE)
    json.dumps(facts)


def test_a_result_names_the_file_as_the_person_does():
    result = ScoreResult("/t/r.mp4", "error", error="/t/r.mp4 is\ndamaged", warnings=("a\x1b",))
    facts = describe(StreamEvent("result", result=result), "/t/r.mp4", "mine.mp4")
    assert facts["error"] == "mine.mp4 is\\ndamaged" and facts["warnings"] == ["a\\x1b"]
    assert "/t/" not in json.dumps(facts)


def test_a_score_comes_with_its_spread():
    result = ScoreResult(
        "/t/r.mp4", "ok", score=3.25, std=0.5, scores=(3.0, 3.5, None), median=3.25, mean=3.25
    )
    facts = describe(StreamEvent("result", result=result), "/t/r.mp4", "m")
    assert (facts["shown"], facts["std"], facts["scores"]) == ("3.25", 0.5, [3.0, 3.5, None])
    assert ["median", "3.25"] in facts["others"]


def test_a_soft_score_has_the_spread_of_its_digits():
    result = ScoreResult(
        "/t/r.mp4", "ok", score=3.2, std=0.5, aggregate="soft", soft_score=3.2, soft_std=0.25
    )
    assert describe(StreamEvent("result", result=result), "/t/r.mp4", "m")["std"] == 0.25


def test_the_timeline_and_what_the_reasons_name_are_told():
    timeline = (Segment(0.0, 2.0, 3.0), Segment(2.0, 4.5, 1.5, 0.2))
    result = ScoreResult("/t/r.mp4", "ok", score=3.0, reasoning="Grainy.", timeline=timeline)
    assert describe(StreamEvent("timeline", result=result), "", "") == {"until": "0:04.5"}
    facts = describe(StreamEvent("result", result=result), "/t/r.mp4", "m")
    assert facts["distortions"] == ["noise"] and facts["moments"] == "0:02–0:04.5 (1.50)"
    assert facts["timeline"].startswith("<svg") and 'class="low"' in facts["timeline"]
    json.dumps(facts)
    bare = describe(StreamEvent("result", result=ScoreResult("x", "ok")), "x", "m")
    assert bare["timeline"] is None and bare["distortions"] == [] and bare["moments"] == ""


def test_other_kinds():
    assert describe(StreamEvent("text", text="<b>"), "", "") == {"text": "<b>"}
    with pytest.raises(ValueError, match="unknown kind of event 'odd'"):
        describe(StreamEvent("odd"), "", "")
