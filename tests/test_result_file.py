"""Files of results, resumed and refused."""

import csv
import dataclasses
import json
import os

import pytest

from vqathinker_jax.result_file import ResultFile, ResultFileError
from vqathinker_jax.results import (
    ScoreResult,
    Segment,
    file_stamp,
)

WEIRD_NAMES = [
    "plain.mp4",
    "with space 'and' \"quotes\".mp4",
    "line\nbreak,comma.mp4",
    "r\udcff.mp4",
]


def result(path: str, **changes) -> ScoreResult:
    size, mtime_ns = file_stamp(path)
    made = ScoreResult(
        path=path,
        status="ok",
        score=3.25,
        std=0.5,
        parseable=True,
        reasoning='Sharp,\n"clean".',
        response="<think>Sharp</think><answer>3.25</answer>",
        warnings=("HDR",),
        samples=2,
        scores=(3.0, None),
        responses=("a", "b"),
        frames=(0, 5, 7),
        video={"codec": "h264", "fps": 29.97},
        model="t",
        model_kind="random",
        mode="sampled",
        seed=7,
        settings="abc",
        size=size,
        mtime_ns=mtime_ns,
    )
    return dataclasses.replace(made, **changes)


def make_files(folder, names=WEIRD_NAMES) -> list[str]:
    paths = []
    for name in names:
        path = os.path.join(folder, name)
        with open(os.fsencode(path), "wb") as file:
            file.write(b"x" * (len(paths) + 1))
        paths.append(path)
    return paths


def write_all(output, paths, settings="abc", **changes) -> int:
    """Scores what is missing; returns how many that was."""
    count = 0
    with ResultFile(output, settings, paths) as file:
        for path in paths:
            if not file.is_done(path):
                file.write(result(path, settings=settings, **changes))
                count += 1
    return count


def rows_of(output, settings="abc", paths=()):
    with ResultFile(output, settings, paths) as file:
        return file.finished()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_second_run_has_nothing_to_do(tmp_path, suffix):
    paths = make_files(tmp_path)
    output = tmp_path / f"out{suffix}"
    assert write_all(output, paths) == len(paths)
    before = output.read_bytes()
    assert write_all(output, paths) == 0
    assert output.read_bytes() == before
    assert rows_of(output, paths=paths) == tuple(result(path) for path in paths)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_resume_scores_what_is_missing_changed_failed_or_cut_short(tmp_path, suffix):
    paths = make_files(tmp_path)
    output = tmp_path / f"out{suffix}"
    write_all(output, paths)
    os.utime(os.fsencode(paths[0]), ns=(1, 1))
    assert write_all(output, paths) == 1
    with open(output, "rb+") as file:  # the last row is cut short, as by a kill
        file.truncate(output.stat().st_size - 9)
    assert write_all(output, paths) == 1
    assert len(rows_of(output, paths=paths)) == len(paths)

    failed = tmp_path / f"failed{suffix}"
    assert write_all(failed, paths[:1], status="error", score=None, error="no frames") == 1
    assert write_all(failed, paths[:1]) == 1
    assert [row.status for row in rows_of(failed, paths=paths[:1])] == ["ok"]


def test_other_settings_are_scored_again_and_both_kept(tmp_path):
    paths = make_files(tmp_path)
    output = tmp_path / "out.jsonl"
    write_all(output, paths, settings="one")
    assert write_all(output, paths, settings="two") == len(paths)
    assert write_all(output, paths, settings="one") == 0
    assert len(output.read_text().splitlines()) == 2 * len(paths)


def test_files_of_other_runs_are_kept(tmp_path):
    paths = make_files(tmp_path)
    output = tmp_path / "out.jsonl"
    write_all(output, paths[:2])
    write_all(output, paths[2:])
    assert len(rows_of(output, paths=paths)) == len(paths)


def test_refuses_what_is_not_its_file(tmp_path):
    with pytest.raises(ResultFileError, match=r"must end in \.jsonl"):
        ResultFile(tmp_path / "out.txt", "abc", [])
    foreign = tmp_path / "notes.jsonl"
    foreign.write_text('{"my": "data"}\n{"path": "x"}\n')
    with pytest.raises(ResultFileError, match="line 1 is not a result row"):
        ResultFile(foreign, "abc", [])
    assert foreign.read_text() == '{"my": "data"}\n{"path": "x"}\n'
    foreign.write_text('{"my": "data"}')  # a last line without its end, but not a row of ours
    with pytest.raises(ResultFileError, match="line 1 is not a result row"):
        ResultFile(foreign, "abc", [])
    foreign.write_text('{"path": "x"}\n{"path": "y", "status": "ok", "frames": null}\n')
    with pytest.raises(ResultFileError, match="line 1 is not a result row"):
        ResultFile(foreign, "abc", [])
    table = tmp_path / "notes.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ResultFileError, match="header differs"):
        ResultFile(table, "abc", [])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ResultFileError, match="cannot write"):
        ResultFile(blocked / "out.jsonl", "abc", [])


OLD_FIELDS = (
    "path", "status", "score", "std", "parseable", "reasoning", "response", "error", "warnings",
    "samples", "scores", "responses", "frames", "video", "model", "model_kind", "mode", "seed",
    "settings", "size", "mtime_ns",
)  # fmt: skip
"""Of the version before timelines and soft scores."""


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_rows_of_an_older_version_are_read_and_kept(tmp_path, suffix):
    paths = make_files(tmp_path)
    made = [result(path) for path in paths]
    output = tmp_path / f"old{suffix}"
    rows = [{name: json.loads(one.to_json())[name] for name in OLD_FIELDS} for one in made]
    with open(output, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if suffix == ".csv":
            table = csv.writer(file, lineterminator="\n")
            table.writerow(OLD_FIELDS)
            for row in rows:
                cells = [
                    json.dumps(value) if isinstance(value, list | dict) else value
                    for value in row.values()
                ]
                table.writerow(cells)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    assert rows_of(output, paths=paths) == tuple(made)
    # What is added has all columns, and the file stays readable.
    assert write_all(output, paths) == 0
    assert rows_of(output, paths=paths) == tuple(made)
    one = rows_of(output, paths=paths)[0]
    assert one.timeline == () and one.interval is None and one.aggregate == "mean"


def test_new_fields_round_trip(tmp_path):
    (path,) = make_files(tmp_path, ["a.mp4"])
    changes = {
        "aggregate": "soft",
        "mean": 3.0,
        "median": 3.1,
        "trimmed_mean": 3.2,
        "interval": (2.5, 3.5),
        "soft_score": 3.21,
        "soft_std": 0.4,
        "soft_mass": 0.9,
        "calibrated": 61.5,
        "calibration": 'isotonic, "x"',
        "timeline": (Segment(0.0, 2.5, 3.0, 0.1, "Blurred, dark."), Segment(2.5, 4.0, error="x")),
    }
    for suffix in (".jsonl", ".csv"):
        output = tmp_path / f"out{suffix}"
        write_all(output, [path], **changes)
        assert rows_of(output, paths=[path]) == (result(path, **changes),)
