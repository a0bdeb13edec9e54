"""Peak memory of `vqathinker convert`, both ways, on a random folder of about two gigabytes.

    python benchmarks/convert_memory.py [--work DIR] [--layers 24] [--verify]

Each conversion runs in its own process; the kernel reports its peak resident set. The bound is
twice the largest tensor plus 1 GB, with the largest tensor of the folder, and with the largest of
ours (which stack the layers) for comparison. Exits with 1 if the stricter bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.config_fields import make_config, write_config
from vqathinker_jax.weights.config_json import CONFIG_NAME, FolderConfig
from vqathinker_jax.weights.mapping import make_table
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes
from vqathinker_jax.weights.tensor_files import NewTensor, plan_shards, write_file, write_index

BF16 = np.dtype(ml_dtypes.bfloat16)
GIGABYTE = 1e9


def model_config(layers: int) -> VQAThinkerConfig:
    """InternViT-300M and SlowFast-R50 with a decoder of the given depth."""
    return VQAThinkerConfig(
        decoder=Qwen2Config(
            hidden_size=1024,
            intermediate_size=8192,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=4,
        )
    )


def write_random_folder(folder: Path, cfg: VQAThinkerConfig) -> int:
    """Writes weights with bell-shaped values; returns the bytes of the largest tensor."""
    rng = np.random.default_rng(0)
    bell = rng.normal(0, 0.02, 1 << 20).astype(BF16)

    def random_tensor(shape: tuple[int, ...]) -> np.ndarray:
        return np.resize(np.roll(bell, int(rng.integers(len(bell)))), shape)

    table = make_table(cfg, "official")
    tensors = [
        NewTensor(piece.name, BF16, piece.shape, lambda shape=piece.shape: random_tensor(shape))
        for piece in table.pieces
    ]
    tensors += [
        NewTensor(name, np.dtype(np.int64), (), lambda: np.array(2**40 + 1))
        for name in table.counters
    ]
    shards = plan_shards(tensors, 0.6 * GIGABYTE)
    folder.mkdir()
    for file, shard in shards.items():
        write_file(folder / file, shard)
    write_index(folder, shards)
    config = make_config(FolderConfig(cfg), "official", "bfloat16", 151667)
    write_config(folder / CONFIG_NAME, config)
    return max(tensor.nbytes for tensor in tensors)


def run_convert(src: Path, dst: Path, to: str, verify: bool) -> dict[str, float]:
    """Runs one conversion; returns its peak resident set in bytes and its seconds."""
    command = [sys.executable, "-m", "vqathinker_jax.cli", "convert", str(src), str(dst)]
    command += ["--to", to, *(["--verify"] if verify else [])]
    started = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"peak_rss": usage.ru_maxrss * 1024, "seconds": time.monotonic() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where to put the folders (default: a new one)")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--verify", action="store_true", help="convert with --verify")
    args = parser.parse_args()
    cfg = model_config(args.layers)
    shapes = parameter_shapes(abstract_model(cfg)[1])
    largest_parameter = max(2 * math.prod(shape) for shape in shapes.values())
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        src, checkpoint, back = (Path(work, name) for name in ("src", "checkpoint", "back"))
        largest_tensor = write_random_folder(src, cfg)
        size = sum(path.stat().st_size for path in src.iterdir())
        to_jax = run_convert(src, checkpoint, "jax", args.verify)
        to_hf = run_convert(checkpoint, back, "hf", args.verify)
        same = all(
            subprocess.run(["cmp", str(path), str(back / path.name)]).returncode == 0
            for path in sorted(src.iterdir())
        )
    bound = 2 * largest_tensor + GIGABYTE
    result = {
        "folder_bytes": size,
        "largest_tensor_bytes": largest_tensor,
        "largest_parameter_bytes": largest_parameter,
        "bound_bytes": bound,
        "bound_stacked_bytes": 2 * largest_parameter + GIGABYTE,
        "to_jax": to_jax,
        "to_hf": to_hf,
        "files_identical": same,
        "within_bound": max(to_jax["peak_rss"], to_hf["peak_rss"]) <= bound,
    }
    print(json.dumps(result, indent=2))
    if not (same and result["within_bound"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
