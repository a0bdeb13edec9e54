"""A decoder of benchmark size: its command-line options, its configuration, its random weights."""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.timing import THREADS
from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config

HEAD_SIZE = 64


def add_head_options(parser: argparse.ArgumentParser, vocabulary: int) -> None:
    """Adds the options that every benchmark of the decoder or its head has.

    Args:
      parser: receives them.
      vocabulary: the default of `--vocabulary`, which depends on what is measured.
    """
    parser.add_argument("--width", type=int, default=512, help="D, a multiple of 128")
    parser.add_argument("--vocabulary", type=int, default=vocabulary)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and draws")


def add_decoder_options(parser: argparse.ArgumentParser, vocabulary: int) -> None:
    """As `add_head_options`, and the number of layers."""
    add_head_options(parser, vocabulary)
    parser.add_argument("--layers", type=int, default=8)


def decoder_config(arguments: argparse.Namespace) -> Qwen2Config:
    """Heads of 64, two key/value heads, an MLP of four times the width."""
    return Qwen2Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // HEAD_SIZE,
        num_key_value_heads=2,
    )


def random_decoder(cfg: Qwen2Config, seed: int) -> Qwen2:
    """A float32 decoder with the weights its modules start from."""
    return Qwen2(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(seed))


def sizes(cfg: Qwen2Config, **more: int) -> dict[str, int]:
    """What a record says about shapes."""
    return {
        "width": cfg.hidden_size,
        "layers": cfg.num_hidden_layers,
        "vocabulary": cfg.vocab_size,
        **more,
    }


def versions() -> dict[str, str]:
    """What a record says about the software of our side."""
    return {"jax": jax.__version__}
