"""What is publicly known of the chips that can be planned for."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator; rates are what its maker states, so times that follow are lower bounds."""

    name: str
    """As in a topology's name: `v5p`, `h100`."""
    platform: str
    """`tpu`, `cuda` or `cpu`: for which compiler."""
    memory_bytes: int | None
    """Bytes that a program may use on one chip; None: no limit that is known."""
    peak_flops: float | None
    """bfloat16 operations per second in matrix products, dense; None: not known."""
    memory_bandwidth: float | None
    """Bytes per second from and to its own memory."""
    link_bandwidth: float | None
    """Bytes per second that it receives from its neighbours, all links together; between hosts of
    graphics cards it is several times less."""
    chips_per_host: int = 1
    """Graphics cards in one host."""


@dataclasses.dataclass(frozen=True)
class Card(Chip):
    """A graphics card, with what the compiler asks about it."""

    title: str = ""
    """As its driver names it."""
    compute_capability: tuple[int, int] = (0, 0)
    core_count: int = 0
    """Streaming multiprocessors."""
    fpus_per_core: int = 0
    shared_memory_per_core: int = 0
    """Bytes."""
    shared_memory_per_block_optin: int = 0
    """Bytes."""
    l2_cache_size: int = 0
    """Bytes."""
    clock_rate_ghz: float = 0.0


# TPU memory is what the compiler of libtpu 0.0.51 says a program may use, a little less than the
# chip has. Rates: Google's pages on each version (links count one way); NVIDIA's data sheets.
H100 = Card(
    "h100",
    "cuda",
    84_942_979_072,
    989e12,
    3352e9,
    450e9,
    8,
    title="NVIDIA H100 80GB HBM3",
    compute_capability=(9, 0),
    core_count=132,
    fpus_per_core=128,
    shared_memory_per_core=233_472,
    shared_memory_per_block_optin=232_448,
    l2_cache_size=52_428_800,
    clock_rate_ghz=1.98,
)

CHIPS: dict[str, Chip] = {
    "v5e": Chip("v5e", "tpu", int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v5p": Chip("v5p", "tpu", int(95.73 * GIB), 459e12, 2765e9, 600e9),
    "v6e": Chip("v6e", "tpu", int(31.24 * GIB), 918e12, 1638e9, 400e9),
    "a100": Card(
        "a100",
        "cuda",
        85_100_068_864,
        312e12,
        2039e9,
        300e9,
        8,
        title="NVIDIA A100-SXM4-80GB",
        compute_capability=(8, 0),
        core_count=108,
        fpus_per_core=64,
        shared_memory_per_core=167_936,
        shared_memory_per_block_optin=166_912,
        l2_cache_size=41_943_040,
        clock_rate_ghz=1.41,
    ),
    "h100": H100,
    # The same chip with more and faster memory.
    "h200": dataclasses.replace(
        H100,
        name="h200",
        memory_bytes=151_397_597_184,
        memory_bandwidth=4800e9,
        title="NVIDIA H200 141GB HBM3e",
    ),
    "cpu": Chip("cpu", "cpu", None, None, None, None),
}
"""Name -> facts. `cpu` partitions a program over pretended devices: its bytes are those of the host
compiler, its time is unknown."""

LIMITS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49_152,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65_535,
    "block_dim_limit_z": 65_535,
    "registers_per_core_limit": 65_536,
    "registers_per_block_limit": 65_536,
}
"""The same on every card here."""
TOOLKIT = "13.0.0"
"""CUDA version that the compiled programs are for."""
CUDNN = (9, 10, 0)


def target_config(card: Card) -> str:
    """The card as the text that XLA compiles for (`GpuTargetConfigProto`), one field a line."""
    facts = {
        **LIMITS,
        "shared_memory_per_core": card.shared_memory_per_core,
        "shared_memory_per_block_optin": card.shared_memory_per_block_optin,
        "core_count": card.core_count,
        "fpus_per_core": card.fpus_per_core,
        "memory_bandwidth": int(card.memory_bandwidth),
        "l2_cache_size": card.l2_cache_size,
        "clock_rate_ghz": card.clock_rate_ghz,
        "device_memory_size": card.memory_bytes,
    }
    major, minor = card.compute_capability
    versions = [
        f'{name}: "{TOOLKIT}"'
        for name in ("driver_version", "runtime_version", "compile_time_toolkit_version")
    ]
    dnn = " ".join(
        f"{name}: {number}" for name, number in zip(("major", "minor", "patch"), CUDNN, strict=True)
    )
    return "\n".join(
        [
            "gpu_device_info {",
            *(f"  {name}: {value}" for name, value in facts.items()),
            f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
            f'  name: "{card.title}"',
            *(f"  {line}" for line in versions),
            "}",
            'platform_name: "CUDA"',
            f"dnn_version_info {{ {dnn} }}",
            f'device_description_str: "{card.title}"',
        ]
    )
