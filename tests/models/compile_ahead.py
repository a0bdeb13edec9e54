"""Compiles small parts of the model for devices that are not there; a process of its own.

    python -m tests.models.compile_ahead tpu v5e:2x4 bfloat16 decoder

Prints one line of JSON: the platform's name as the package sees it, the kernels chosen, and which
custom calls the compiled program holds. Exits with 1 where it does not compile.
"""

from __future__ import annotations

import json
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
# libtpu otherwise asks the metadata server of a cloud machine, and minds others of its kind.
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import NamedSharding

from vqathinker_jax.models.generate import prefill
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.packed import packed_logprobs
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.vqathinker import VQAThinkerConfig, with_attention
from vqathinker_jax.parallel import make_mesh, partition_spec, platform_of, state_shardings
from vqathinker_jax.weights.readers import abstract_model

# Figures of an H100 that NVIDIA publishes; without a card the compiler has no others.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "H100"
"""

CONFIG = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        remat="names",
    ),
    decoder=Qwen2Config(
        vocab_size=250,
        hidden_size=512,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        remat="names",
    ),
)
NUM, PROMPT, SAMPLES, RESPONSE = 4, 256, 3, 27


def devices_of(platform: str, topology: str) -> list[jax.Device]:
    if platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    description = topologies.get_topology_desc(
        platform="cuda", topology_name="described", topology=topology, target_config=H100
    )
    return description.devices


def main(platform: str, topology: str, dtype: str, part: str) -> None:
    devices = devices_of(platform, topology)
    num = len(devices)
    mesh = make_mesh(max(num // 4, 1), min(num, 2), 2 if num > 2 else 1, devices)
    name = platform_of(devices[0])
    cfg = with_attention(CONFIG, name, dtype)
    graphdef, state = abstract_model(cfg)
    state = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=at),
        state,
        state_shardings(state, mesh),
    )

    def array(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
        at = NamedSharding(mesh, partition_spec(("batch", *[None] * (len(shape) - 1))))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=at)

    embeds = array((NUM, PROMPT, cfg.decoder.hidden_size), dtype)
    lengths = array((NUM,), "int32")

    def decoder_loss(state, embeds, lengths, responses):
        decoder = nnx.merge(graphdef, state).decoder
        out = packed_logprobs(decoder, embeds, lengths, responses, chunk=9)
        return out.logprobs.sum()

    def tower_loss(state, pixels):
        features = nnx.merge(graphdef, state).vision(pixels)
        return (features.astype(jnp.float32) ** 2).sum()

    def prompts(state, embeds, lengths):
        return prefill(nnx.merge(graphdef, state).decoder, embeds, lengths)

    function, arguments = {
        "decoder": (
            jax.grad(decoder_loss, argnums=(0, 1)),
            (state, embeds, lengths, array((NUM, SAMPLES, RESPONSE), "int32")),
        ),
        "tower": (jax.grad(tower_loss), (state, array((NUM, 448, 448, 3), dtype))),
        "prefill": (prompts, (state, embeds, lengths)),
    }[part]
    options = None
    if platform == "cuda":
        # Without a card these products cannot be tuned, and the compiler gives up on some.
        options = {"xla_gpu_enable_triton_gemm": False}
    with (
        jax.set_mesh(mesh),
        jax.default_matmul_precision("highest" if dtype == "float32" else None),
    ):
        compiled = jax.jit(function).lower(*arguments).compile(options)
    calls = re.findall(r'custom_call_target="([^"]+)"', compiled.as_text())
    report = {
        "platform": name,
        "attention": [cfg.vision.attention, cfg.decoder.attention],
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "calls": {call: calls.count(call) for call in sorted(set(calls))},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
