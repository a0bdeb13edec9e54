"""What travels between the processes, and what counts as fitting."""

import pytest

from tests.plan.plans import GIB, result, write_config
from vqathinker_jax.config import load_config
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.plan.apart import crash_reason
from vqathinker_jax.plan.job import FAILED, FITS, TOO_LARGE, Job, PhaseResult, judged
from vqathinker_jax.plan.worker import parse_refusal


def test_a_job_survives_its_file(tmp_path):
    config = load_config(write_config(tmp_path))
    job = Job("cpu:8", "update", config, PRESETS["internvl3-2b"], "bfloat16", 1700, 512, "auto")
    (tmp_path / "job").mkdir()
    assert Job.read(job.write(tmp_path / "job")) == job


def test_a_result_survives_json():
    one = result("update", 41.5, sent_bytes=7.0)
    assert PhaseResult.from_json(one.to_json()) == one
    assert one.to_json()["fits"] is True
    assert one.to_json()["total_bytes"] == int(41.5 * GIB)


def test_what_lies_there_meanwhile_counts():
    assert result("update", 79.9).status == FITS
    assert result("update", 80.1).status == TOO_LARGE
    alone = result("update", 80.1, resident={})
    assert alone.status == FITS


def test_a_host_has_no_limit():
    assert result("update", 1000.0, chip_gib=None).status == FITS


def test_a_refusal_is_too_large_whatever_it_counts():
    refused = judged(
        PhaseResult("update", FITS, required_bytes=5 * GIB, chip_bytes=9 * GIB, resident={"a": GIB})
    )
    assert refused.status == TOO_LARGE
    assert refused.total_bytes == 6 * GIB


def test_a_failure_stays_one():
    failed = judged(PhaseResult("update", FAILED, reason="why", chip_bytes=1))
    assert failed.status == FAILED
    assert failed.total_bytes is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (122.78G) exceeds available HBM (95.73G)\nmore",
            (122.78, 95.73),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (230.24G) exceeds available HBM (15.75G).",
            (230.24, 15.75),
        ),
        ("E1000: CompileTimeHbmOom: (512.00M) of (15.75G)", (0.5, 15.75)),
        ("INTERNAL: something (1G) else (2G)", None),
    ],
)
def test_refusals_are_read(message, expected):
    parsed = parse_refusal(message)
    if expected is None:
        assert parsed is None
    else:
        assert [size / GIB for size in parsed] == pytest.approx(expected)


def test_a_crash_says_its_signal_and_the_telling_line():
    said = crash_reason(-6, "W0 noise\nF1 fusion_util.cc:5207 Check failed: low == 0\n*** stack\n")
    assert "SIGABRT, exit code 134" in said
    assert said.endswith("Check failed: low == 0")
    assert "exit code 9): without a word" in crash_reason(9, "")
