"""C1: frames to visual tokens (vision tower, pixel shuffle, projector) against torch eager.

Run from the repository root: `python -m benchmarks.c1_vision`.
"""

from __future__ import annotations

import argparse
import functools
import os

from benchmarks.timing import THREADS, alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from tests.parity.torch_internvit import build_torch_vision, copy_vision, torch_image_features
from vqathinker_jax.models.internvit import InternViT, InternViTConfig
from vqathinker_jax.models.projectors import MLPProjector, pixel_shuffle

OUT_DIM = 896
"""Width of the decoder that InternVL3-1B projects to."""


class Encoder(nnx.Module):
    """Tower and projector."""

    def __init__(self, cfg: InternViTConfig, rngs: nnx.Rngs):
        self.vision = InternViT(cfg, param_dtype=jnp.float32, rngs=rngs)
        self.projector = MLPProjector(
            4 * cfg.hidden_size, OUT_DIM, param_dtype=jnp.float32, rngs=rngs
        )

    def __call__(self, pixels: jax.Array) -> jax.Array:
        features = self.vision(pixels)[:, 1:]
        grid = pixels.shape[1] // self.vision.cfg.patch_size
        features = features.reshape(features.shape[0], grid, grid, -1)
        return self.projector(pixel_shuffle(features, 2, "v2"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--size", type=int, default=448, help="side of a frame in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    pin_cores()
    torch.set_num_threads(THREADS)
    cfg = InternViTConfig(
        hidden_size=arguments.width,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
    )
    encoder = Encoder(cfg, nnx.Rngs(0))
    models = {
        attention: build_torch_vision(cfg, OUT_DIM, 0, attention=attention, std=0.02)
        for attention in ("sdpa", "eager")
    }
    copy_vision(models["sdpa"], encoder.vision, encoder.projector)
    graphdef, state = nnx.split(encoder)
    ours = jax.jit(lambda state, pixels: nnx.merge(graphdef, state)(pixels))
    shape = (arguments.frames, arguments.size, arguments.size, 3)
    pixels = np.random.default_rng(0).standard_normal(shape, np.float32)
    on_device = jnp.asarray(pixels)

    timings, differences = {}, {}
    for attention, model in models.items():
        run = functools.partial(torch_image_features, model, pixels)
        differences[attention] = float(np.abs(ours(state, on_device) - run()).max())
        timings[attention] = alternate(
            lambda: ours(state, on_device).block_until_ready(), run, arguments.repeats
        )
    faster = min(timings, key=lambda attention: timings[attention].theirs)
    timing = timings[faster]
    report(
        "C1",
        "vision tower and projector, forward, float32",
        f"torch eager mode ({faster} attention)",
        timing.ratio,
        1.0,
        seconds=timing.ours,
        torch_seconds={name: value.theirs for name, value in timings.items()},
        spread=timing.spread,
        max_difference=max(differences.values()),
        shape={"pixels": shape, "width": arguments.width, "layers": arguments.layers},
        threads=THREADS,
        versions={"jax": jax.__version__, "torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
