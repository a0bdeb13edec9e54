"""Names of machines, the facts behind them, and what is missing to compile for them."""

import dataclasses

import pytest

from vqathinker_jax.plan import topologies
from vqathinker_jax.plan.chips import CHIPS, Card, target_config
from vqathinker_jax.plan.topologies import (
    PlanError,
    environment_for,
    parse_topology,
    require_compiler,
)


@pytest.mark.parametrize(
    ("name", "platform", "num"),
    [
        ("v5p:2x2x1", "tpu", 4),
        ("v5p:2x2x2", "tpu", 8),
        ("v6e:4x4", "tpu", 16),
        ("v5e:8x8", "tpu", 64),
        ("h100:1", "cuda", 1),
        ("h100:64", "cuda", 64),
        ("h200:8", "cuda", 8),
        ("a100:3", "cuda", 3),
        ("cpu:64", "cpu", 64),
    ],
)
def test_names_count_their_chips(name, platform, num):
    topology = parse_topology(name)
    assert (topology.chip.platform, topology.num_chips) == (platform, num)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5x:2x2", "did you mean v5"),
        ("h10:8", "did you mean h100?"),
        ("v5p:2x2", "the nearest are v5p:2x2x"),
        ("v6e:8x4", "v6e:8x8"),
        ("h100:12", "the nearest are h100:8 and h100:16"),
        ("h100", "as in h100:8"),
        ("h100:0", "as in h100:8"),
        ("cpu:5000", "at most 1024"),
    ],
)
def test_unknown_names_are_one_line_with_the_nearest(name, said):
    with pytest.raises(PlanError) as error:
        parse_topology(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_compiler_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(topologies, "INSTALL", {"tpu": ("no_such_module.inside", "pip install it")})
    with pytest.raises(PlanError, match=r"needs no_such_module.inside.*pip install it"):
        require_compiler(parse_topology("v5p:2x2x1"))
    require_compiler(parse_topology("cpu:8"))


def test_chips_know_what_a_bound_needs():
    for name, chip in CHIPS.items():
        assert chip.name == name
        if chip.platform != "cpu":
            assert 1e14 < chip.peak_flops < 2e15
            assert 5e11 < chip.memory_bandwidth < 1e13
            # A product of matrices must be large to be bound by operations on all of them.
            assert chip.peak_flops / chip.memory_bandwidth > 100
            assert chip.link_bandwidth < chip.memory_bandwidth


def test_memory_is_what_the_compiler_says():
    assert CHIPS["v5p"].memory_bytes / 2**30 == pytest.approx(95.73)
    assert CHIPS["h100"].memory_bytes / 2**30 == pytest.approx(79.1, abs=0.05)
    assert CHIPS["h200"].memory_bytes / 2**30 == pytest.approx(141.0, abs=0.05)


def test_a_card_is_described_field_by_field():
    text = target_config(CHIPS["h200"])
    assert "device_memory_size: 151397597184" in text
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert 'platform_name: "CUDA"' in text
    values = [value for value in dataclasses.asdict(CHIPS["h200"]).values() if value == 0]
    assert isinstance(CHIPS["h200"], Card)
    assert not values


def test_workers_leave_the_devices_of_the_machine_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--of_another_run")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    tpu, cpu = (environment_for(parse_topology(name)) for name in ("v5e:2x2", "cpu:16"))
    assert tpu["JAX_PLATFORMS"] == cpu["JAX_PLATFORMS"] == "cpu"
    assert "XLA_FLAGS" not in tpu
    assert cpu["XLA_FLAGS"] == "--xla_force_host_platform_device_count=16"
