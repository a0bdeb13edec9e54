"""Attribution labels and what is counted of verdicts."""

import json
import math

import pytest

from vqathinker_jax.evaluation.benchmarks import BenchmarkError
from vqathinker_jax.evaluation.finevd import judge_attribution, read_attribution_labels
from vqathinker_jax.evaluation.understanding import (
    Understanding,
    json_understanding,
    text_understanding,
)
from vqathinker_jax.results import ScoreResult

ASKED = "If there is no {0} in the video, please answer [No]. If there is {0}, answer [Yes]."


def line(video: str, about: str, answer: str) -> str:
    turns = [
        {"from": "human", "value": ASKED.format(about)},
        {"from": "gpt", "value": answer},
    ]
    return json.dumps({"video": video, "conversations": turns}) + "\n"


def test_published_form_as_a_file_and_as_a_folder(tmp_path):
    first = line("a.mp4", "color distortion", "No") + line("b.mp4", "color distortion", "Yes")
    second = line("a.mp4", "temporal distortion", "Yes")
    (tmp_path / "all.jsonl").write_text(first + second)
    made = read_attribution_labels(tmp_path / "all.jsonl", tmp_path)
    assert [(one.id, one.present) for one in made] == [
        ("a.mp4", {"color": False, "temporal": True}),
        ("b.mp4", {"color": True}),
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.jsonl").write_text(first)
    (folder / "2.jsonl").write_text(second)
    assert read_attribution_labels(folder, tmp_path) == made


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.jsonl", line("a.mp4", "noise", "Maybe"), "line 1: the answer is 'Maybe'"),
        ("l.jsonl", line("a.mp4", "beauty", "Yes"), "line 1: the question names no single"),
        ("l.jsonl", line("a", "noise", "Yes") * 2, "line 2: noise of 'a' was given before"),
        ("l.jsonl", line("../a", "noise", "Yes"), "line 1: path '../a' climbs out"),
        ("l.jsonl", "{}\n", "line 1: not an object with video"),
        ("l.jsonl", "\n", "no usable line"),
        ("l.csv", "clip,noise\na,1\n", "must name the columns video,color"),
        ("l.csv", "video,noise\na,2\n", "line 2: noise is '2', not 1 or 0"),
        ("l.csv", "video,noise\na\n", "line 2: 1 cells, the header has 2"),
    ],
)
def test_bad_files_are_refused(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError) as caught:
        read_attribution_labels(tmp_path / name, tmp_path)
    assert said in str(caught.value)


def test_counts_by_hand(tmp_path):
    (tmp_path / "l.csv").write_text(
        "video,color,noise,artifact,blur,temporal\n"
        "a,1,0,0,1,0\nb,1,0,0,0,0\nc,0,1,0,0,\nd,1,1,1,1,1\ne,1,1,1,1,1\n"
    )
    labels = read_attribution_labels(tmp_path / "l.csv", tmp_path)
    verdicts = {"a": ("color", "noise"), "b": (), "c": None}
    results = {label.path: ScoreResult(label.path, "ok", reasoning="r") for label in labels[:3]} | {
        labels[3].path: ScoreResult(labels[3].path, "error", error="damaged")
    }
    outcome = judge_attribution("f", labels, results, "test", lambda _, video: verdicts[video])
    assert [row.status for row in outcome.rows] == ["ok", "ok", "no verdict", "error", "missing"]
    color, noise = outcome.counts["color"], outcome.counts["noise"]
    assert (color.hits, color.misses, color.false_alarms, color.correct_rejections) == (1, 1, 0, 0)
    assert color.no_verdict == 1 and color.accuracy == pytest.approx(1 / 3)
    assert color.f1 == pytest.approx(2 / 3)
    assert (noise.false_alarms, noise.correct_rejections, noise.no_verdict) == (1, 1, 1)
    assert outcome.counts["temporal"].num == 2  # not known of c
    right = 1 + 1 + 2 + 1 + 2  # color, noise, artifact, blur, temporal of a and b
    assert outcome.overall == pytest.approx(right / 14)

    understanding = Understanding((outcome,))
    assert understanding.num_lost == 3
    shown = text_understanding(understanding)
    assert "judged by test" in shown and "1 without a verdict, counted as wrong" in shown
    assert json_understanding(understanding)["attributions"][0]["dimensions"]["color"]["hits"] == 1


def test_nothing_judged_is_undefined(tmp_path):
    (tmp_path / "l.csv").write_text("video,color\na,1\n")
    labels = read_attribution_labels(tmp_path / "l.csv", tmp_path)
    outcome = judge_attribution("f", labels, {}, "test", lambda *_: ())
    assert math.isnan(outcome.overall)
    assert json_understanding(Understanding((outcome,)))["attributions"][0]["overall"] is None
