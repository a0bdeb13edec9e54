"""Predictions made elsewhere, and what is judged of them."""

import json

import pytest

from tests.evaluation.test_benchmarks import write
from vqathinker_jax.evaluation.benchmarks import Benchmark, BenchmarkError, load_benchmark
from vqathinker_jax.evaluation.folder import csv_text, write_evaluation
from vqathinker_jax.evaluation.judged import judge_predictions, judge_results, overall, parse_rate
from vqathinker_jax.evaluation.outcome import Evaluation
from vqathinker_jax.evaluation.predictions import benchmark_of, match, read_predictions
from vqathinker_jax.evaluation.statistics import BootstrapConfig
from vqathinker_jax.evaluation.tables import as_json, text_summary
from vqathinker_jax.evaluation.understanding import Understanding
from vqathinker_jax.results import ScoreResult

FEW = BootstrapConfig(draws=32)


def predictions(tmp_path, text: str):
    file = tmp_path / "theirs.csv"
    file.write_text(text)
    return read_predictions(file)


def labels(tmp_path, scores=(10, 40, 30, 90)) -> Benchmark:
    rows = [(f"d/{i}.mp4", str(score)) for i, score in enumerate(scores)]
    return load_benchmark(write(tmp_path / "l.json", rows))


def test_the_published_form(tmp_path):
    read = predictions(
        tmp_path, "filename,pred_score,gt_score\r\n/v/a.mp4,3.5,60\r\n/v/b.mp4,,70\r\n"
    )
    assert [(one.name, one.score, one.label) for one in read] == [
        ("/v/a.mp4", 3.5, 60.0),
        ("/v/b.mp4", None, 70.0),
    ]
    assert benchmark_of(tmp_path / "theirs.csv", read).name == "theirs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "must name the columns filename,pred_score"),
        ("filename,pred_score\na.mp4,good\n", "row 2: 'good' is not a number"),
        ("filename,pred_score\na.mp4,nan\n", "row 2: nan is not a finite number"),
        ("filename,pred_score\na.mp4,1\na.mp4,2\n", "row 3: 'a.mp4' was given in row 2"),
        ("filename,pred_score\na.mp4\n", "row 2: 1 cells, the header has 2"),
        ("filename,pred_score,gt_score\na.mp4,1,\n", "row 2: '' is not a number"),
        ("filename,pred_score\na.mp4,1_000\n", "row 2: '1_000' is not a number"),
    ],
)
def test_bad_files_are_refused(text, said, tmp_path):
    with pytest.raises(BenchmarkError) as caught:
        predictions(tmp_path, text)
    assert said in str(caught.value)


def test_matching_by_id_path_or_ending(tmp_path):
    benchmark = labels(tmp_path)
    text = f"filename,pred_score\nd/0.mp4,1\n{tmp_path}/d/1.mp4,2\n/else/d/2.mp4,3\nx/9.mp4,4\n"
    found = match(benchmark.videos, predictions(tmp_path, text))
    assert [one and one.score for one in found] == [1, 2, 3, None]


def test_a_prediction_serves_one_video(tmp_path):
    rows = [("a.mp4", "1"), ("x/a.mp4", "2"), ("b.mp4", "3"), ("y/b.mp4", "4")]
    benchmark = load_benchmark(write(tmp_path / "l.json", rows))
    found = match(
        benchmark.videos, predictions(tmp_path, "filename,pred_score\nx/a.mp4,1\n/v/y/b.mp4,2\n")
    )
    assert [one and one.score for one in found] == [None, 1, None, 2]


def test_names_may_hold_what_ends_lines_elsewhere(tmp_path):
    text = 'filename,pred_score\n"two\nlines.mp4",1\npara\u2028graph.mp4,2\n'
    read = predictions(tmp_path, text)
    assert [one.name for one in read] == ["two\nlines.mp4", "para\u2028graph.mp4"]


def test_what_cannot_be_scored_is_counted_and_left_out(tmp_path):
    benchmark = labels(tmp_path, scores=(10, 20, 30, 40, 50, 60))
    text = "filename,pred_score\nd/0.mp4,1\nd/1.mp4,2\nd/2.mp4,3\nd/3.mp4,7\nd/4.mp4,\n"
    outcome = judge_predictions(benchmark, predictions(tmp_path, text), FEW)
    assert [row.status for row in outcome.rows] == ["ok"] * 4 + ["no score", "missing"]
    counts = (outcome.num_missing, outcome.num_failed, outcome.num_unparseable)
    assert counts == (1, 0, 1) and outcome.num_out_of_range == 1
    assert outcome.agreement.num_scored == 4 and outcome.agreement.srcc.value == 1
    assert parse_rate(outcome) == 0.8
    assert csv_text(outcome).splitlines()[:2] == [
        "filename,pred_score,gt_score",
        f"{tmp_path}/d/0.mp4,1.0,10.0",
    ]


def test_results_of_a_model(tmp_path):
    benchmark = labels(tmp_path)
    paths = [video.path for video in benchmark.videos]
    results = {
        paths[0]: ScoreResult(paths[0], "ok", score=2.0, scores=(2.0,)),
        paths[1]: ScoreResult(paths[1], "error", error="damaged"),
        paths[2]: ScoreResult(paths[2], "ok", scores=(None,)),
    }
    outcome = judge_results(benchmark, results, FEW)
    assert [row.status for row in outcome.rows] == ["ok", "error", "no score", "missing"]
    assert (outcome.num_missing, outcome.num_failed, outcome.num_unparseable) == (1, 1, 1)
    assert outcome.agreement.why_undefined.startswith("1 scored video,")


def test_overall_is_weighted_by_videos_and_says_what_it_lacks(tmp_path):
    outcomes = []
    for name, scores, text in (
        ("KoNViD-1k", (1, 2, 3, 4), "1\n2\n3\n4"),
        ("LIVE-VQC", (1, 2, 3, 4, 5, 6), "6\n5\n4\n3\n2\n1"),
        ("YouTube-UGC", (1, 2, 3), "3\n3\n3"),
    ):
        rows = "".join(f"d/{i}.mp4,{value}\n" for i, value in enumerate(text.split("\n")))
        benchmark = labels(tmp_path, scores)
        benchmark = Benchmark(name, "in-domain", benchmark.videos, ())
        read = predictions(tmp_path, "filename,pred_score\n" + rows)
        outcomes.append(judge_predictions(benchmark, read, FEW))
    total = overall(outcomes, "in-domain")
    assert total.num_videos == 10
    assert total.srcc == pytest.approx((4 * 1 + 6 * -1) / 10)
    assert total.left_out == ("LSVQ-1080p", "LSVQ-test", "YouTube-UGC")
    assert overall(outcomes, "ood") is None

    settings = {"bootstrap": {"draws": 5, "level": 0.8, "seed": 0}}
    settings |= {"beside": {"paper": {"LIVE-VQC": {"srcc": 0.5}, "in-domain": {"plcc": 0.25}}}}
    evaluation = Evaluation("theirs", "predictions", None, settings, tuple(outcomes))
    shown = text_summary(evaluation)
    assert "brackets: 80 % bootstrap intervals" in shown
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert lines["LIVE-VQC"][-2:] == ["0.500", "-"] and lines["KoNViD-1k"][-2:] == ["-", "-"]
    assert lines["benchmark"][-4:] == ["paper", "SRCC", "paper", "PLCC"]
    assert "YouTube-UGC: undefined (-): all predictions are equal" in shown
    assert "In-domain overall: without LSVQ-1080p, LSVQ-test, YouTube-UGC" in shown
    write_evaluation(evaluation, tmp_path / "out", Understanding())
    read = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert read == json.loads(json.dumps(as_json(evaluation)))
    assert read["outcomes"][2]["agreement"]["srcc"]["value"] is None  # undefined is not 0
    assert read["overall"][0]["num_videos"] == 10
    assert "| LIVE-VQC | 6 of 6 | -1.000 " in (tmp_path / "out" / "summary.md").read_text()
