"""`vqathinker plan`: exit codes and output with a compiler of our own, then with a real one."""

import json
import subprocess
import sys

import pytest

from tests.plan.plans import result, write_config
from vqathinker_jax import cli
from vqathinker_jax.cli.plan import PHASES as OFFERED
from vqathinker_jax.plan import apart
from vqathinker_jax.plan.job import FAILED, PHASES, PhaseResult


def plan(*argv: str) -> int:
    try:
        return cli.main(["plan", *argv])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def compiler(monkeypatch):
    """Sizes in GiB by phase; a phase of size 0 crashes. `asked` lists what was compiled."""
    sizes, asked = {}, []

    def compile_apart(job) -> PhaseResult:
        asked.append((job.topology, job.phase, job.config))
        gib = sizes.get(job.phase, 20.0)
        if gib == 0:
            return PhaseResult(job.phase, FAILED, reason="SIGABRT, exit code 134: Check failed")
        if job.config.model.remat == "full":
            gib /= 2
        return result(job.phase, gib)

    monkeypatch.setattr(apart, "compile_apart", compile_apart)
    monkeypatch.setattr("vqathinker_jax.plan.topologies.INSTALL", {})
    return sizes, asked


def test_phases_offered_are_those_there_are():
    assert OFFERED == PHASES


def test_it_fits(tmp_path, compiler, capsys):
    assert plan(write_config(tmp_path), "--topology", "h100:8") == 0
    printed = capsys.readouterr()
    assert "fits: the fullest phase" in printed.out
    assert "h100:8: 8 x h100 of 79.11 GiB, mesh data 1 x fsdp 8 x tensor 1" in printed.out
    assert "no prediction" in printed.out
    assert "h100:8 update: compiling" in printed.err
    assert all(len(line) <= 100 for line in printed.out.splitlines())
    assert [phase for _, phase, _ in compiler[1]] == list(PHASES)


def test_it_does_not_fit_and_what_would(tmp_path, compiler, capsys):
    compiler[0]["update"] = 100.0
    assert plan(write_config(tmp_path), "--topology", "h100:8", "--quiet") == 3
    printed = capsys.readouterr()
    assert "does not fit: the fullest phase, update, takes 100.0 of 80.0 GiB" in printed.out
    assert "with --model.remat full: fits (50.0 GiB)" in printed.out
    assert all(len(line) <= 100 for line in printed.out.splitlines())
    assert printed.err == ""


def test_no_suggestions_compiles_nothing_more(tmp_path, compiler, capsys):
    compiler[0]["update"] = 100.0
    argv = [write_config(tmp_path), "--topology", "h100:8", "--only", "update", "--no-suggestions"]
    assert plan(*argv) == 3
    assert len(compiler[1]) == 1
    assert "with --" not in capsys.readouterr().out


def test_it_could_not_be_compiled(tmp_path, compiler, capsys):
    compiler[0].update(update=0, decode=100.0)
    assert plan(write_config(tmp_path), "--topology", "h100:8") == 1
    assert "update could not be compiled: SIGABRT, exit code 134" in capsys.readouterr().out


def test_json_is_one_line_a_topology(tmp_path, compiler, capsys):
    argv = ["--topology", "h100:8", "--topology", "v5p:2x2x2", "--json", "--quiet"]
    assert plan(write_config(tmp_path), *argv) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["topology"] for row in rows] == ["h100:8", "v5p:2x2x2"]
    for name in ("fits", "argument_bytes", "temp_bytes", "chip_bytes", "attention"):
        assert name in rows[0]["phases"][0]
    # 1e13 operations at 989e12 a second are less than 1e11 bytes at 3352e9.
    assert rows[0]["phases"][0]["seconds_bound"] == pytest.approx(1e11 / 3352e9)
    assert rows[0]["step_seconds_bound"] == pytest.approx(len(PHASES) * 1e11 / 3352e9)


def test_options_reach_the_configuration(tmp_path, compiler):
    argv = ["--topology", "v5p:2x2x1", "--mesh", "1,2,2", "--micro-batch", "4", "--remat", "none"]
    argv += ["--preset", "internvl3-8b", "--video.image_size", "224", "--only", "update"]
    assert plan(write_config(tmp_path), *argv) == 0
    ((_, _, config),) = compiler[1]
    assert (config.mesh.fsdp, config.mesh.tensor) == (2, 2)
    assert (config.run.micro_batch, config.model.remat) == (4, "none")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--topology", "h10:8"], "did you mean h100?"),
        (["--topology", "h100:4"], "fsdp 8 x tensor 1 is of 8 chips, topology h100:4 has 4"),
        (["--topology", "h100:8", "--mesh", "8"], "expected auto, or three numbers"),
        (["--topology", "h100:8", "--preset", "internvl3-9b"], "expected one of internvl3-1b"),
        (["--topology", "h100:8", "--completion", "17"], "max_completion_length 16"),
        (["--topology", "h100:8", "--mesh.fsdb", "8"], "did you mean mesh.fsdp?"),
        (["--topology", "h100:8", "--objective.beta", "0", "--only", "reference"], "has encode"),
        ([], "required: --topology"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, argv, said, capsys):
    assert plan(write_config(tmp_path), *argv) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) <= 2


def test_a_step_is_compiled_for_eight_devices(tmp_path):
    """The whole way, with the compiler of the host."""
    command = [sys.executable, "-m", "vqathinker_jax.cli", "plan", write_config(tmp_path)]
    options = ["--topology", "cpu:8", "--only", "decode", "--only", "reference", "--json"]
    process = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    row = json.loads(process.stdout)
    decode, reference = row["phases"]
    assert decode["fits"] and reference["fits"]
    assert decode["argument_bytes"] > 0 and reference["temp_bytes"] > 0
    assert decode["resident"]["optimizer"] == 2 * decode["resident"]["training parameters"] + 8
    assert reference["flops"] > 0 and reference["sent_bytes"] > 0
    assert row["step_seconds_bound"] is None
