"""The compilers of machines that are not there; skipped where they are not installed."""

import pytest

from tests.plan.plans import write_config
from vqathinker_jax.config import load_config
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.plan.apart import compile_apart
from vqathinker_jax.plan.job import FITS, TOO_LARGE, Job
from vqathinker_jax.plan.topologies import PlanError, parse_topology, require_compiler


def installed(name: str) -> str:
    """The topology, where its compiler is installed."""
    try:
        require_compiler(parse_topology(name))
    except PlanError as error:
        pytest.skip(str(error))
    return name


@pytest.mark.parametrize(("name", "chips"), [("v5e:2x2", 4), ("h100:4", 4)])
@pytest.mark.parametrize("phase", ["prefill", "update"])
def test_a_small_step_compiles(tmp_path, name, chips, phase):
    overrides = ["--mesh.fsdp", str(chips), "--model.attention", "xla"]
    config = load_config(write_config(tmp_path), overrides)
    job = Job(installed(name), phase, config, PRESETS["nano"], "float32", 90, 16, "xla")
    result = compile_apart(job)
    assert result.status == FITS, result.reason
    assert result.argument_bytes > 0 and result.temp_bytes > 0
    assert result.flops > 0


def test_the_tpu_compiler_refuses_what_is_too_large():
    overrides = ["--mesh.fsdp", "4", "--run.micro_batch", "16", "--model.remat", "none"]
    config = load_config("configs/vqathinker_8b.yaml", overrides)
    name = installed("v5e:2x2")
    job = Job(name, "update", config, PRESETS["internvl3-8b"], "bfloat16", 1700, 512, "auto")
    result = compile_apart(job)
    assert result.status == TOO_LARGE, result.reason
    assert result.required_bytes > result.chip_bytes == parse_topology(name).chip.memory_bytes


def test_the_cuda_compiler_never_refuses_and_we_do():
    overrides = ["--mesh.fsdp", "1", "--run.micro_batch", "1"]
    config = load_config("configs/vqathinker_8b.yaml", overrides)
    name = installed("h100:1")
    job = Job(name, "update", config, PRESETS["internvl3-8b"], "bfloat16", 1700, 512, "xla")
    result = compile_apart(job)
    assert result.status == TOO_LARGE, result.reason
    assert result.required_bytes is None
    assert result.argument_bytes + result.temp_bytes > result.chip_bytes
