"""C4: K sampled responses to one prompt: prefilled once, or as K rows that each prefill it.

Both sides are ours: one prefix that K responses read against K prefixes with one response each.
The prompt is padded to its bucket as in a rollout. Run from the repository root:
`python -m benchmarks.c4_rollout`.
"""

from __future__ import annotations

import argparse
import functools
import os

from benchmarks.timing import alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoder import (
    add_decoder_options,
    decoder_config,
    random_decoder,
    sizes,
    versions,
)
from vqathinker_jax.models.generate import SamplingConfig, bucket_length, decode, prefill
from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.records import Generation


def roll_out(
    decoder: Qwen2,
    ids: jax.Array,
    length: int,
    videos: int,
    samples: int,
    sampling: SamplingConfig,
    seed: int,
) -> Generation:
    """`samples` responses to each of `videos` copies of one padded prompt."""
    prompts = jnp.broadcast_to(ids, (videos, len(ids)))
    lengths = jnp.full(videos, length, jnp.int32)
    keys = jax.random.split(jax.random.key(seed), videos)
    prefix = prefill(decoder, decoder.embed_tokens(prompts, jnp.float32), lengths)
    return jax.block_until_ready(decode(decoder, prefix, keys, samples, sampling))


def main() -> None:
    """Runs C4 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_decoder_options(parser, vocabulary=32003)
    parser.add_argument("--prompt", type=int, default=1700, help="p, real tokens")
    parser.add_argument("--tokens", type=int, default=64, help="C, tokens of a response")
    parser.add_argument("--samples", type=int, default=4, help="K")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)

    cfg = decoder_config(arguments)
    decoder = random_decoder(cfg, arguments.seed)
    ids = np.zeros(bucket_length(arguments.prompt), np.int32)
    rng = np.random.default_rng(arguments.seed)
    ids[: arguments.prompt] = rng.integers(0, cfg.vocab_size, arguments.prompt)
    # A draw of the last id would end a response; it is looked for below.
    sampling = SamplingConfig(
        eos_id=cfg.vocab_size - 1,
        pad_id=0,
        max_new_tokens=arguments.tokens,
        temperature=arguments.temperature,
    )
    run = functools.partial(
        roll_out, decoder, jnp.asarray(ids), arguments.prompt, sampling=sampling
    )
    once = functools.partial(run, videos=1, samples=arguments.samples, seed=arguments.seed)
    each = functools.partial(run, videos=arguments.samples, samples=1, seed=arguments.seed)
    for generation in (once(), each()):
        if int(generation.lengths.min()) < arguments.tokens:
            raise SystemExit("a response ended early: give another --seed")
    timing = alternate(once, each, arguments.repeats)
    report(
        "C4",
        f"{arguments.samples} responses of {arguments.tokens} tokens, prompt of "
        f"{arguments.prompt} prefilled once",
        "prefilled for each response",
        timing.ratio,
        2.0,
        seconds=timing.ours,
        naive_seconds=timing.theirs,
        spread=timing.spread,
        rounds=arguments.repeats,
        shape=sizes(
            cfg,
            prompt=arguments.prompt,
            prompt_slots=len(ids),
            tokens=arguments.tokens,
            samples=arguments.samples,
        ),
        temperature=arguments.temperature,
        seed=arguments.seed,
        threads=arguments.threads,
        versions=versions(),
    )


if __name__ == "__main__":
    main()
