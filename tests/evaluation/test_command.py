"""`vqathinker evaluate`: from labels to files, killed and resumed."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys

import pytest

from tests.data.clips import pictures, write_clip
from tests.evaluation.test_benchmarks import write
from tests.evaluation.test_judge import completion, endpoint  # noqa: F401
from vqathinker_jax import asking, cli

FAST = ("--max-new-tokens", "3", "--workers", "1", "--bootstrap", "50", "--devices", "1")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of five clips and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_clip(folder / f"{number}.mp4", pictures(6, 64, 48, seed=number))
    (folder / "broken.mp4").write_text("no video\n")
    return folder


@pytest.fixture(scope="module")
def labels(clips):
    scores = [("0.mp4", "20"), ("1.mp4", "35"), ("2.mp4", "50"), ("3.mp4", "65"), ("4.mp4", "80")]
    return write(clips / "l.json", [*scores, ("broken.mp4", "10"), ("gone.mp4", "90")]).labels


def run(*argv) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line."""
    streams = [io.TextIOWrapper(io.BytesIO()) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            code = cli.main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, *texts


def answering(monkeypatch, *texts):
    """The model says these one after another; an exception among them is raised."""
    queue = iter(texts)

    def say(*_):
        said = next(queue)
        if isinstance(said, BaseException):
            raise said
        return said

    monkeypatch.setattr(asking, "decode_text", say)


def score(value, reasons="Fine.") -> str:
    return f"<think>{reasons}</think><answer>{value}</answer>"


def test_killed_resumed_and_reported(small_folder, clips, labels, tmp_path, monkeypatch):
    out = tmp_path / "out"
    line = ("evaluate", "--model", small_folder, "--benchmark", f"mine={labels}:{clips}")
    line += ("--out", out, *FAST)
    answering(monkeypatch, score(1.5), score(2), KeyboardInterrupt())
    code, shown, said = run(*line)
    assert code == 130 and shown == "" and "what was finished is kept" in said
    rows = (out / "mine.jsonl").read_text().splitlines()
    assert len(rows) == 2

    # A row cut short by a kill is scored again; the whole one before it is not.
    (out / "mine.jsonl").write_text(rows[0] + "\n" + rows[1][:-20])
    answering(monkeypatch, score(2.5), score(7), "cannot say", score(4.5))
    code, shown, said = run(*line)
    assert code == 1
    assert "mine: 7 videos, 1 missing" in said and "1 of 6 already there" in said
    assert "random weights" in shown and "4 of 7" in shown
    assert "1 missing; 1 failed, left out of the metrics; 1 without a readable score" in shown
    assert "1 with an answer outside 1 to 5, kept" in shown
    assert "brackets: 95 % bootstrap intervals over the videos" in shown

    table = list(csv.reader((out / "mine.csv").read_text().splitlines()))
    assert table[0] == ["filename", "pred_score", "gt_score"]
    assert [row[1:] for row in table[1:]] == [
        ["1.5", "20.0"],
        ["2.5", "35.0"],
        ["7.0", "50.0"],
        ["", "65.0"],
        ["4.5", "80.0"],
        ["", "10.0"],
    ]
    assert table[1][0] == os.path.join(clips, "0.mp4")
    assert (out / "missing.txt").read_text() == f"mine\t{clips}/gone.mp4\n"
    summary = json.loads((out / "summary.json").read_text())
    (outcome,) = summary["outcomes"]
    assert outcome["agreement"]["srcc"]["value"] == pytest.approx(0.8)
    assert outcome["parse_rate"] == 0.8 and outcome["num_failed"] == 1
    assert summary["model_kind"] == "random" and "versions" in summary["settings"]
    assert "- `gone.mp4`" in (out / "summary.md").read_text()
    page = (out / "report.html").read_text()
    assert "random weights" in page and page.count('class="card case"') == 4
    assert page.count("<img") == 4 * 4 and "Fine." in page and "cannot be read as a video" in page
    assert str(clips) not in page

    (tmp_path / "more.csv").write_text("filename,pred_score\nunknown.mp4,3\n")
    # Predictions in the published form give the same numbers, without a model.
    code, shown, _ = run(
        "evaluate", "--predictions", out / "mine.csv", "--benchmark", f"mine={labels}",
        "--predictions", tmp_path / "more.csv", "--beside", f"ours={out / 'summary.json'}",
        "--out", tmp_path / "again", "--json", "--bootstrap", "50", "--no-report",
    )  # fmt: skip
    assert json.loads(shown)["warning"] == "1 predictions fit no label"
    assert json.loads(shown)["settings"]["beside"]["ours"]["mine"]["srcc"] == pytest.approx(0.8)
    (again,) = json.loads(shown)["outcomes"]
    # Of four points many logistics are equally good: which is found hangs on the last bit.
    for found in (again, outcome):
        found["agreement"].pop("logistic")
    for name, value in outcome["agreement"].items():
        assert again["agreement"][name] == pytest.approx(value, abs=1e-6), name
    assert (again["num_missing"], again["num_unparseable"]) == (1, 2)
    assert not (tmp_path / "again" / "report.html").exists()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_was_found_is_told_where_no_page_can_be_written(tmp_path, options):
    (tmp_path / "p.csv").write_text("filename,pred_score,gt_score\na,1,1\nb,2,3\nc,6,2\n")
    line = ("evaluate", "--predictions", tmp_path / "p.csv", "--bootstrap", "0", *options)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    code, shown, said = run(*line, "--out", tmp_path / "out")
    assert code == 1 and ("srcc" if options else "0.500") in shown
    (problem,) = said.splitlines()
    assert "report.html: cannot write: Is a directory" in problem
    assert (tmp_path / "out" / "summary.json").exists()
    # A place for nothing at all.
    code, shown, said = run(*line, "--out", tmp_path / "p.csv" / "out")
    assert code == 1 and shown == "" and "cannot be written to" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,1,3\nb,1,2\nc,1,4\n", "all predictions are equal"),
        ("a,1,3\nb,2,3\nc,4,3\n", "all labels are equal"),
        ("a,1,3\nb,2,4\n", "2 scored videos, at least 3 are needed"),
        ("a,7,3\nb,2,4\nc,3,1\n", "1 with an answer outside 1 to 5, kept"),
    ],
)
def test_predictions_that_say_little_are_judged_and_said(tmp_path, rows, said):
    (tmp_path / "p.csv").write_text("filename,pred_score,gt_score\n" + rows)
    out = tmp_path / "out"
    code, shown, _ = run(
        "evaluate", "--predictions", tmp_path / "p.csv", "--out", out, "--bootstrap", "20"
    )
    assert code == 0 and said in shown and "nan" not in shown.lower()
    (outcome,) = json.loads((out / "summary.json").read_text())["outcomes"]
    values = [one["value"] for one in outcome["agreement"].values() if isinstance(one, dict)]
    assert (values == [None] * 5) == ("outside" not in said)
    assert said.partition(" with")[0] in (out / "report.html").read_text()


def test_what_is_read_is_not_written_over(clips, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    table = "filename,pred_score,gt_score,more\na,1,3,x\nb,2,4,y\nc,3,1,z\n"
    (own / "mine.csv").write_text(table)
    code, shown, said = run("evaluate", "--predictions", own / "mine.csv", "--out", own)
    assert (code, shown) == (2, "") and "mine.csv: would be overwritten" in said
    labels = own / "lab.csv"
    labels.write_text("video,score\na,1\nb,2\nc,3\n")
    line = ("evaluate", "--predictions", own / "mine.csv", "--benchmark", f"lab={labels}")
    code, _, said = run(*line, "--out", own / ".." / "own")
    assert code == 2 and "lab.csv: would be overwritten" in said
    assert (own / "mine.csv").read_text() == table
    (tmp_path / "mine.csv").write_text(table)
    line = ("--predictions", own / "mine.csv", "--predictions", tmp_path / "mine.csv")
    code, _, said = run("evaluate", *line, "--out", tmp_path / "out")
    assert code == 2 and "files of one name" in said


def test_files_of_another_evaluation_are_named(tmp_path):
    table = "filename,pred_score,gt_score\na,1,3\nb,2,4\nc,3,1\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(table)
    line = ("evaluate", "--out", tmp_path / "out", "--bootstrap", "0", "--predictions")
    code, _, said = run(*line, tmp_path / "one.csv")
    assert code == 0 and "note:" not in said
    code, _, said = run(*line, tmp_path / "two.csv", "--no-report")
    assert code == 0 and "note: not of this evaluation there: one.csv, report.html" in said


def test_constant_answers_are_said_to_be_undefined(
    small_folder, clips, labels, tmp_path, monkeypatch
):
    answering(monkeypatch, *[score(3)] * 5)
    code, shown, _ = run(
        "evaluate", "--model", small_folder, "--benchmark", f"mine={labels}:{clips}",
        "--out", tmp_path, "--quiet", *FAST,
    )  # fmt: skip
    assert code == 1
    assert "mine: undefined (-): all predictions are equal" in shown
    assert json.loads((tmp_path / "summary.json").read_text())["outcomes"][0]["agreement"][
        "srcc"
    ] == {"value": None, "low": None, "high": None}


def test_understanding(small_folder, clips, tmp_path, monkeypatch, endpoint):  # noqa: F811
    table = tmp_path / "l.csv"
    table.write_text("video,color,noise,artifact,blur,temporal\n0.mp4,0,1,0,0,0\n1.mp4,0,0,0,1,0\n")
    questions = tmp_path / "q.json"
    entry = {"question": "Is it sharp?", "options": ["Yes", "No"], "answer": "A"}
    entries = [
        {"video": "0.mp4", "group": "global"} | entry,
        {"video": "1.mp4", "group": "referring"} | entry,
        {"video": "broken.mp4", "group": "referring"} | entry,
    ]
    questions.write_text(json.dumps(entries))
    line = ("evaluate", "--model", small_folder, "--out", tmp_path / "out", "--quiet", *FAST)
    line += ("--understanding", f"finevd={table}:{clips}")
    asking = ("--questions", f"qbench={questions}:{clips}")
    answering(monkeypatch, score(2, "No blur, but noise."), score(4, "Sharp, no noise."), "A", "?")
    code, shown, _ = run(*line, *asking, "--json")
    understood = json.loads(shown)["understanding"]
    (attribution,), (asked,) = understood["attributions"], understood["questions"]
    assert code == 1 and attribution["judge"] == "keywords"
    assert attribution["dimensions"]["noise"]["accuracy"] == 1
    assert attribution["dimensions"]["blur"]["accuracy"] == 0.5
    assert attribution["overall"] == 0.9
    assert asked["groups"] == {"global": 1.0, "referring": 0.0} and asked["overall"] == 0.5
    assert [row["status"] for row in asked["answers"]] == ["ok", "no letter", "error"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>referring</td>" not in page and "referring" in page and "judged by keywords" in page

    # Nothing but the broken video is asked again; the judge alone changes.
    answering(monkeypatch)
    verdict = dict.fromkeys(("color", "artifact", "blur", "temporal"), False) | {"noise": True}
    endpoint.replies = [(200, completion(json.dumps(verdict)))] + [(500, b"")] * 2
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    code, shown, _ = run(
        *line, *asking, "--judge-url", url, "--judge-model", "m", "--judge-attempts", "1"
    )
    assert code == 1
    assert f"judged by m at {url}" in shown
    assert "1 without a verdict, counted as wrong (finevd.judge.jsonl says why)" in shown
    assert len((tmp_path / "out" / "finevd.judge.jsonl").read_text().splitlines()) == 2


def test_questions_are_asked_in_words_whatever_is_done_for_scores(
    small_folder, clips, tmp_path, monkeypatch
):
    entry = {"video": "0.mp4", "question": "Is it sharp?", "options": ["Yes", "No"], "answer": "A"}
    (tmp_path / "q.json").write_text(json.dumps([entry]))
    answering(monkeypatch, "A")
    code, shown, _ = run(
        "evaluate", "--model", small_folder, "--questions", f"q={tmp_path / 'q.json'}:{clips}",
        "--out", tmp_path / "out", "--at-once", "--quiet", *FAST,
    )  # fmt: skip
    assert code == 0 and "100.0" in shown


def test_devices_share_the_work(small_folder, clips, labels, tmp_path, monkeypatch):
    line = ("evaluate", "--model", small_folder, "--benchmark", f"mine={labels}:{clips}")
    answering(monkeypatch, *[score(2 + number / 4) for number in range(5)])
    code, _, _ = run(*line, "--out", tmp_path, *FAST, "--devices", "2", "--quiet", "--no-report")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert code == 1 and summary["settings"]["devices_per_process"] == 2
    assert [row["prediction"] for row in summary["outcomes"][0]["rows"][:5]] == [
        2.0, 2.25, 2.5, 2.75, 3.0
    ]  # fmt: skip


def test_stdout_is_for_results_alone():
    program = (
        "import os\n"
        "from vqathinker_jax.cli.evaluate import keep_stdout_for_results\n"
        "keep_stdout_for_results()\n"
        "os.write(1, b'a library speaks')\n"
        "print('the result é')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "the result é"
    assert b"a library speaks" in done.stderr


def test_explain(small_folder, clips, tmp_path, monkeypatch):
    answering(monkeypatch, score(2, "Blurry, and the camera shakes."))
    output = tmp_path / "rows.csv"
    line = ("score", clips / "0.mp4", "--model", small_folder, "--explain", "--output", output)
    code, shown, _ = run(*line, "--max-new-tokens", "3", "--workers", "1")
    assert code == 0 and "[names: blur, temporal]" in shown
    (row,) = csv.DictReader(output.read_text().splitlines())
    assert json.loads(row["distortions"]) == ["blur", "temporal"]
    answering(monkeypatch)
    page = tmp_path / "page.html"
    line += ("--max-new-tokens", "3", "--workers", "1", "--report", page)
    assert "1 of 1 already in" in run(*line)[2]
    assert "names (by keywords)" in page.read_text() and "blur, temporal" in page.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "name at least one --benchmark"),
        (("--benchmark", "mine"), "is not of the form NAME=LABELS.json:VIDEO_ROOT"),
        (("--benchmark", "mine={labels}"), "names no video root"),
        (("--benchmark", "mine={labels}:nowhere"), "video root nowhere is no folder"),
        (("--benchmark", "a={labels}:{clips}", "--benchmark", "A={labels}:{clips}"), "named twice"),
        (("--benchmark", "a={labels}:{clips}", "--model", "none"), "no such folder"),
        (("--benchmark", "a={labels}:{clips}", "--level", "2"), "level"),
        (("--benchmark", "a={labels}:{clips}", "--judge-url", "http://x/v1"), "not named"),
        (("--benchmark", "a={labels}:{clips}", "--devices", "9"), "--devices 9: there are 8"),
        (("--understanding", "a={labels}:{clips}", "--at-once"), "asks for none"),
        (("--predictions", "a.csv", "--model", "m"), "needs no model"),
        (("--predictions", "a.csv"), "a.csv: cannot be read"),
        (("--benchmarks", "a=l:r"), "did you mean '--benchmark'?"),
        (("--benchmark", "a={labels}:{clips}", "--process", "1"), "go together"),
    ],
)
def test_mistakes_are_one_line(options, said, clips, labels, tmp_path):
    options = [word.format(labels=labels, clips=clips) for word in options]
    code, shown, err = run("evaluate", "--out", tmp_path / "out", *options)
    assert code == 2 and shown == ""
    assert said in err and "Traceback" not in err


def test_bad_labels_can_be_left_out(clips, tmp_path):
    source = write(tmp_path / "l.json", [("0.mp4", "20"), ("../1.mp4", "30")])
    line = ("evaluate", "--out", tmp_path / "out", "--benchmark", f"mine={source.labels}")
    line += ("--predictions", tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("filename,pred_score\n0.mp4,3\n")
    code, _, said = run(*line)
    assert code == 2 and "line 2: path '../1.mp4' climbs out of its folder" in said
    assert "--skip-bad-labels leaves them out" in said
    code, _, said = run(*line, "--skip-bad-labels", "--predictions", tmp_path / "p.csv")
    assert code == 2 and "'0.mp4' stands in several files" in said
    code, shown, _ = run(*line, "--skip-bad-labels")
    assert code == 0 and "row 2 left out: path '../1.mp4' climbs out" in shown
