"""Machines by name: `v5p:2x2x1` is a slice of 4 TPU chips, `h100:8` a host of 8 cards."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import math
import os

from vqathinker_jax.plan.chips import CHIPS, Card, Chip, target_config

TPU_SHAPES = {
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
"""The slices that are offered, by chip."""
INSTALL = {
    "tpu": ("libtpu", "pip install 'vqathinker_jax[tpu]'"),
    "cuda": ("jax_plugins.xla_cuda13", "pip install 'vqathinker_jax[plan-cuda]'"),
}
"""Platform -> the module that holds its compiler, and how to get it."""
MOST_CPUS = 1024


class PlanError(ValueError):
    """What a user can get wrong about a plan; one line."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are connected, whether they exist or not."""

    name: str
    """As the user wrote it."""
    chip: Chip
    num_chips: int


def parse_topology(name: str) -> Topology:
    """The machine of a name: `CHIP:SHAPE` for TPUs, `CHIP:COUNT` for others.

    >>> parse_topology("v5p:2x2x2").num_chips, parse_topology("h100:64").num_chips
    (8, 64)

    Raises:
      PlanError: there is no such chip, slice or number of cards; the nearest ones are named.
    """
    family, _, size = name.partition(":")
    if family not in CHIPS:
        near = difflib.get_close_matches(family, CHIPS, n=1, cutoff=0.3)
        known = ", ".join(f"{example_of(chip)}" for chip in CHIPS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise PlanError(f"topology {name!r}: unknown chip {family!r}; {hint}known are {known}")
    chip = CHIPS[family]
    if chip.platform == "tpu":
        shapes = TPU_SHAPES[family]
        if size not in shapes:
            near = difflib.get_close_matches(size, shapes, n=3, cutoff=0.3) or list(shapes)
            offered = ", ".join(f"{family}:{shape}" for shape in near)
            raise PlanError(f"topology {name!r}: no such slice; the nearest are {offered}")
        return Topology(name, chip, math.prod(map(int, size.split("x"))))
    if not size.isascii() or not size.isdigit() or int(size) < 1:
        raise PlanError(
            f"topology {name!r}: expected a number of devices, as in {example_of(family)}"
        )
    num = int(size)
    if chip.platform == "cpu" and num > MOST_CPUS:
        raise PlanError(f"topology {name!r}: at most {MOST_CPUS} devices can be pretended")
    if num > chip.chips_per_host and num % chip.chips_per_host:
        below = num // chip.chips_per_host * chip.chips_per_host
        raise PlanError(
            f"topology {name!r}: hosts have {chip.chips_per_host} cards; the nearest are "
            f"{family}:{below} and {family}:{below + chip.chips_per_host}"
        )
    return Topology(name, chip, num)


def example_of(family: str) -> str:
    """A topology of a chip."""
    return f"{family}:{TPU_SHAPES[family][0] if family in TPU_SHAPES else 8}"


def require_compiler(topology: Topology) -> None:
    """Raises PlanError with the command that installs it if the compiler is missing."""
    if topology.chip.platform not in INSTALL:
        return
    module, command = INSTALL[topology.chip.platform]
    if _is_missing(module):
        raise PlanError(
            f"topology {topology.name}: compiling for {topology.chip.platform} needs {module}, "
            f"which is not installed: {command}"
        )


def has_cudnn() -> bool:
    """Whether cuDNN is installed, without which programs that call it cannot be compiled."""
    return not _is_missing("nvidia.cudnn")


def _is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def environment_for(topology: Topology) -> dict[str, str]:
    """The environment of a process that compiles for a topology; nothing of the machine is used."""
    environment = dict(os.environ)
    environment["JAX_PLATFORMS"] = "cpu"
    environment.pop("XLA_FLAGS", None)
    if topology.chip.platform == "cpu":
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={topology.num_chips}"
    if topology.chip.platform == "tpu":
        # Without these libtpu waits for a metadata server, and for any other process that uses it.
        environment["TPU_SKIP_MDS_QUERY"] = "1"
        environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    return environment


def described_devices(topology: Topology) -> list:
    """The devices of a topology as jax compiles for them; `environment_for` must be in place.

    Raises:
      RuntimeError: the compiler refuses the description.
    """
    import jax
    from jax.experimental import topologies

    if topology.chip.platform == "cpu":
        return jax.devices("cpu")[: topology.num_chips]
    if topology.chip.platform == "tpu":
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
        return list(described.devices)
    assert isinstance(topology.chip, Card)
    per_host = min(topology.num_chips, topology.chip.chips_per_host)
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name=topology.chip.name,
        topology=f"1x{topology.num_chips // per_host}x{per_host}",
        target_config=target_config(topology.chip),
    )
    return list(described.devices)


def compiler_options(topology: Topology) -> dict[str, bool]:
    """Options without which a topology's compiler cannot do without its devices."""
    if topology.chip.platform == "cuda":
        # Triton's tile sizes are found by trying them on a card; without one XLA gives up.
        return {"xla_gpu_enable_triton_gemm": False}
    return {}
