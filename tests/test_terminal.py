"""How a score is written for a person."""

import pytest

from vqathinker_jax.results import ScoreResult
from vqathinker_jax.terminal import MOST_RAW, shown_reason, shown_score


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"score": 3.4249}, "3.42"),
        ({"score": 3.42, "std": 0.1, "interval": (3.2, 3.64)}, "3.42 ± 0.10 (3.20-3.64)"),
        ({"score": 3.42, "calibrated": 68.3}, "3.42 → 68.30"),
        ({"score": 3.4, "std": 0.1, "soft_std": 0.5, "aggregate": "soft"}, "3.40 ± 0.50"),
        ({"score": None, "std": None}, "no score"),
        ({"score": None, "std": 0.3, "aggregate": "soft"}, "no score"),
        ({"score": 3.0, "model_kind": "nano"}, "3.00 [nano]"),
        ({"status": "error", "error": "broken"}, "error"),
    ],
)
def test_shown_score(fields, shown):
    result = ScoreResult(**{"path": "a.mp4", "status": "ok", "model_kind": "published", **fields})
    assert shown_score(result) == shown


def test_reasons_are_shown_whole_and_raw_answers_cut():
    row = {"path": "a.mp4", "status": "ok", "score": None}
    thought = "sharp and\nsteady " * 40
    assert shown_reason(ScoreResult(**row, reasoning=thought)) == " ".join(thought.split())
    assert shown_reason(ScoreResult(**row, response="no tags")) == "no tags"
    cut = shown_reason(ScoreResult(**row, response="x" * 2000))
    assert cut == "x" * MOST_RAW + "…"
    named = ScoreResult(**row, reasoning="noise", distortions=("noise",))
    assert shown_reason(named) == "[names: noise] noise"
