"""The kernels compile for TPUs and NVIDIA cards, forwards and backwards, where none is at hand.

Needs the compilers: libtpu (extra `tpu`), or jax-cuda13-plugin with cuDNN. 5 to 15 seconds each.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    # Forward, gradient of the queries, gradient of the keys and values.
    ("tpu", "v5e:2x4", "bfloat16", "decoder"): {"tpu_custom_call": 3},
    ("tpu", "v5e:2x4", "float32", "decoder"): {"tpu_custom_call": 3},
    ("tpu", "v5e:2x4", "bfloat16", "tower"): {"tpu_custom_call": 3},
    ("tpu", "v5e:2x4", "bfloat16", "prefill"): {"tpu_custom_call": 1},
    # cuDNN's softmax cannot be kept by name, so the backward pass attends once more.
    ("cuda", "1x1x8", "bfloat16", "decoder"): {
        "__cudnn$fmhaScaleBiasSoftmax": 2, "__cudnn$fmhaScaleBiasSoftmaxBackward": 1
    },
    ("cuda", "1x1x8", "bfloat16", "tower"): {
        "__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 1
    },
    ("cuda", "1x1x8", "bfloat16", "prefill"): {"__cudnn$fmhaSoftmax": 1},
}  # fmt: skip
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda13_plugin", "nvidia.cudnn")}


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_kernels_compile_for_devices_that_are_not_here(case):
    for name in COMPILERS[case[0]]:
        if not is_installed(name):
            pytest.skip(f"no compiler for {case[0]}: {name} is not installed")
    # A process each: a compiler that fails may take the process with it.
    run = subprocess.run(
        [sys.executable, "-m", "tests.models.compile_ahead", *case],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["platform"] == case[0]
    kernels = {
        name: count
        for name, count in report["calls"].items()
        if name == "tpu_custom_call" or "fmha" in name
    }
    assert kernels == CASES[case]
