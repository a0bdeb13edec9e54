"""Result rows and the files they are resumed from."""

import dataclasses
import json
import os

import pytest

from vqathinker_jax.results import (
    FIELDS,
    ResultFile,
    ResultFileError,
    ScoreResult,
    file_stamp,
    result_from_json,
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


def test_json_round_trip_keeps_every_field(tmp_path):
    made = result("r\udcff.mp4")
    assert result_from_json(made.to_json()) == made
    assert set(json.loads(made.to_json())) == set(FIELDS)
    made.to_json().encode("ascii")  # any terminal and any file can hold it


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
