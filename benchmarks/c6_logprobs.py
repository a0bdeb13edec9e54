"""C6: log-probs of responses from chunks of logits against all logits at once: time and memory.

Forwards and backwards through the head alone, from hidden states to the gradients of hidden states
and head, over the R = K C rows of one packed video and the published vocabulary; the entropy is
computed forwards, as in the update. Chunks compute their logits twice. Run from the repository
root: `python -m benchmarks.c6_logprobs`.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable

from benchmarks.timing import alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.decoder import (
    add_head_options,
    decoder_config,
    random_decoder,
    versions,
)
from vqathinker_jax.models.logprobs import sequence_logprobs_and_entropy
from vqathinker_jax.models.qwen2 import Qwen2

MOST_TIME, LEAST_MEMORY = 1.15, 5.0
"""At most this many times the time of all logits at once; at most a fifth of its memory."""


def full_logprobs(
    decoder: Qwen2, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of `targets` and entropies, from all logits at once."""
    logprobs = jax.nn.log_softmax(decoder.logits(hidden), axis=-1)
    probability = jnp.exp(logprobs)
    entropy = -(probability * jnp.where(probability > 0, logprobs, 0.0)).sum(-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], entropy


class Head:
    """The head in one way: compiled forwards alone, and forwards and backwards."""

    def __init__(self, decoder: Qwen2, logprobs_of: Callable, inputs: tuple[jax.Array, ...]):
        graphdef, head, rest = nnx.split(decoder, lambda path, _: path[0] == "lm_head", ...)

        def loss_of(head: nnx.State, hidden: jax.Array, targets: jax.Array, weights: jax.Array):
            logprobs, entropy = logprobs_of(nnx.merge(graphdef, head, rest), hidden, targets)
            return -(weights * logprobs).mean(), entropy.mean()

        arguments = (head, *inputs)
        both = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))
        compiled, forward = (f.lower(*arguments).compile() for f in (both, jax.jit(loss_of)))
        self.temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
        self.train = lambda: jax.block_until_ready(compiled(*arguments))
        self.forward = lambda: jax.block_until_ready(forward(*arguments))


def main() -> None:
    """Runs C6 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_head_options(parser, vocabulary=151674)
    parser.add_argument("--rows", type=int, default=2048, help="R, such as 4 responses of 512")
    parser.add_argument("--chunk", type=int, default=256, help="rows of logits at a time")
    parser.add_argument("--repeats", type=int, default=3)
    # A decoder has layers; the head alone is run.
    parser.set_defaults(layers=1)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)

    cfg = decoder_config(arguments)
    rng = np.random.default_rng(arguments.seed)
    decoder = random_decoder(cfg, arguments.seed)
    inputs = (
        rng.standard_normal((1, arguments.rows, cfg.hidden_size), np.float32),
        rng.integers(0, cfg.vocab_size, (1, arguments.rows), np.int32),
        rng.standard_normal((1, arguments.rows), np.float32),
    )
    inputs = tuple(map(jnp.asarray, inputs))
    chunked_logprobs = functools.partial(sequence_logprobs_and_entropy, chunk=arguments.chunk)
    chunked, full = (
        Head(decoder, logprobs_of, inputs) for logprobs_of in (chunked_logprobs, full_logprobs)
    )
    difference = max(
        float(jnp.abs(a - b).max() / jnp.abs(b).max())
        for a, b in zip(
            jax.tree.leaves(chunked.train()[1]), jax.tree.leaves(full.train()[1]), strict=True
        )
    )
    both = alternate(chunked.train, full.train, arguments.repeats, warmup=0)
    forward = alternate(chunked.forward, full.forward, arguments.repeats)
    details = {
        "seconds": both.ours,
        "full_seconds": both.theirs,
        "spread": both.spread,
        "forward_ratio": round(forward.ratio, 3),
        "forward_seconds": forward.ours,
        "full_forward_seconds": forward.theirs,
        "temporary_bytes": chunked.temporary_bytes,
        "full_temporary_bytes": full.temporary_bytes,
        "gradient_difference": difference,
        "rounds": arguments.repeats,
        "shape": {
            "width": cfg.hidden_size,
            "vocabulary": cfg.vocab_size,
            "rows": arguments.rows,
            "chunk": arguments.chunk,
        },
        "seed": arguments.seed,
        "threads": arguments.threads,
        "versions": versions(),
    }
    report(
        "C6",
        f"speed of chunked log-probs, forward and backward, {arguments.rows} rows",
        "all logits at once",
        both.ratio,
        round(1 / MOST_TIME, 2),
        **details,
    )
    report(
        "C6",
        f"temporary bytes saved by chunked log-probs, {arguments.rows} rows",
        "all logits at once",
        full.temporary_bytes / chunked.temporary_bytes,
        LEAST_MEMORY,
        **details,
    )


if __name__ == "__main__":
    main()
