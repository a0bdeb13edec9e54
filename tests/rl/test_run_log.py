"""What a person sees of a run while it goes on."""

import os
import sys

import pytest

from tests.rl.train_runs import rows
from vqathinker_jax.rl import run_log
from vqathinker_jax.rl.run_log import ProgressLine, RunLogs


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told."""
    now = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_told_by_the_steps_that_did_not_compile(clock, capsys):
    line = ProgressLine(total=9, is_quiet=False)
    for step, (seconds, has_compiled) in enumerate(
        [(500, True), (20, False), (900, True), (40, False)], 1
    ):
        clock[0] += seconds
        line.show(step, {"loss": 1.23456, "srcc": None}, has_compiled)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "step 1/9  loss 1.235  srcc -",
        "step 2/9  2:20 left  loss 1.235  srcc -",
        "step 3/9  2:00 left  loss 1.235  srcc -",
        "step 4/9  2:30 left  loss 1.235  srcc -",
    ]


def test_off_a_terminal_lines_are_rare_but_the_last_is_said(clock, capsys):
    line = ProgressLine(total=40, is_quiet=False)
    for step in range(1, 41):
        clock[0] += 1
        line.show(step, {}, False)
    said = [text.split()[1] for text in capsys.readouterr().err.splitlines()]
    assert said == ["1/40", "17/40", "33/40", "40/40"]


def test_a_line_on_a_terminal_fits_it_and_is_replaced(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "31")
    line = ProgressLine(total=3, is_quiet=False)
    line.status("compiling " * 9)
    line.show(1, {"a_long_name": 1.0, "another": 2.0}, True)
    line.say("a line of its own, however long that may be")
    line.show(3, {}, False)
    printed = capsys.readouterr().err
    assert printed.startswith("\r\x1b[K" + "compiling compiling compiling ")
    parts = printed.split("\r\x1b[K")[1:]
    assert [len(part) <= 30 or part.endswith("\n") for part in parts] == [True] * 4
    assert parts[2].endswith("may be\n") and parts[3] == "step 3/3\n"


def test_quiet_is_quiet(clock, capfd):
    line = ProgressLine(total=1, is_quiet=True)
    line.status("a")
    line.show(1, {}, True)
    line.say("b")
    line.say_at_once("c")
    assert capfd.readouterr().err == ""


def test_what_a_signal_says_is_said_at_once(capfd):
    ProgressLine(total=1, is_quiet=False).say_at_once("stopping")
    assert capfd.readouterr().err == f"{os.linesep}stopping{os.linesep}"


def test_attempts_that_left_no_checkpoint_are_forgotten(tmp_path):
    for last_step, name in ((0, "lost"), (0, "first"), (2, "second")):
        logs = RunLogs(tmp_path, last_step, is_writer=True, has_tensorboard=False)
        logs.attempts.write({"step": last_step, "name": name})
        logs.write_step({"step": last_step + 1})
        logs.write_step({"step": last_step + 2})
        logs.close()
    assert [row["name"] for row in rows(tmp_path / "attempts.jsonl")] == ["first", "second"]
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    RunLogs(tmp_path, 0, is_writer=False, has_tensorboard=True).close()
    assert not (tmp_path / "tensorboard").exists()
