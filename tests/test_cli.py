"""The command line: help, misspellings and exit codes, before any model is touched."""

import resource
import subprocess
import sys

import pytest

from vqathinker_jax import cli


def run(*argv: str) -> int:
    """The exit code of a command line."""
    try:
        return cli.main(list(argv))
    except SystemExit as stop:
        return stop.code


def children_seconds() -> float:
    """Processor time of the commands so far: other work on the machine does not lengthen it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_names_every_command():
    command = [sys.executable, "-m", "vqathinker_jax.cli", "--help"]
    seconds = []
    for _ in range(3):
        start = children_seconds()
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(children_seconds() - start)
    for name in "score evaluate calibrate app demo train convert make-tiny synth".split():
        assert name in text
    assert min(seconds) < 0.5


def test_help_and_package_import_without_jax():
    code = "import sys, vqathinker_jax.cli; print([m for m in ('jax', 'av') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


def test_no_command_prints_help(capsys):
    assert run() == 0
    assert "make-tiny" in capsys.readouterr().out


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("vqathinker 0.")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["scroe", "a.mp4"], "unknown command 'scroe'; did you mean 'score'?"),
        (["score", "a.mp4", "--modle", "t"], "unknown option '--modle'; did you mean '--model'?"),
        (["score", "a.mp4", "--sample=3"], "unknown option '--sample'; did you mean '--samples'?"),
        (["score", "a.mp4", "--samples", "0"], "must be a whole number of at least 1"),
        (["score", "a.mp4", "--samples", "two"], "whole number of at least 1, got 'two'"),
        (["score"], "required: FILE"),
        (["convert", "a", "b"], "--to"),
        (["convert", "a", "b", "--to", "tf"], "invalid choice: 'tf'"),
        (["demo", "o", "--sed", "1"], "unknown option '--sed'; did you mean '--seed'?"),
        (["demo", "--seed", "-1"], "--seed"),
        (["train"], "required: CONFIG.yaml"),
        (["train", "none.yaml"], "none.yaml: cannot be read"),
        (["train", "configs/nano_cpu.yaml", "--run.stpes", "3"], "did you mean run.steps?"),
        (["train", "configs/nano_cpu.yaml", "--run.steps", "few"], "expected a whole number"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(argv, said, capsys):
    assert run(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) <= 2
