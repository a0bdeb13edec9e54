"""C9: how often the training programs are compiled over steps of varying lengths.

Fifty rollouts whose longest responses differ go through what a step does with them (`pack`, the
reference's log-probs, the update) on a model small enough to compile quickly; the compiler's own
events are counted by program. There must be one per bucket met, which a run logs as `shapes`, and
program.

The second figure is computed: the (P, C) buckets of a configuration. All videos of a run share one
prompt, so that P is one bucket; C are the buckets of `max_completion_length`.

Run from the repository root: `python -m benchmarks.c9_recompiles`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.timing import THREADS, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoder import versions
from benchmarks.our_step import Trainer, training_config
from tests.small import CONFIG, VIDEO
from vqathinker_jax.config import load_config
from vqathinker_jax.models.generate import suffix_capacities
from vqathinker_jax.records import ClipFeatures, Generation
from vqathinker_jax.rl.compilations import compiled
from vqathinker_jax.rl.rollout import Rollout, RolloutConfig
from vqathinker_jax.rl.stages import response_buckets
from vqathinker_jax.rl.train import pack
from vqathinker_jax.weights.tiny import make_tiny

MOST_BUCKETS = 8
PROGRAMS = ("update", "response_logprobs")


def random_rollout(
    rng: np.random.Generator, videos: int, samples: int, longest: int, vocabulary: int
) -> Rollout:
    """Random responses; the length of the longest is drawn evenly from 1 to `longest`."""
    limit = int(rng.integers(1, longest + 1))
    lengths = rng.integers(1, limit + 1, (videos, samples), np.int32)
    lengths.flat[0] = limit
    tokens = rng.integers(0, vocabulary, (videos, samples, longest), np.int32)
    logprobs = np.zeros(tokens.shape, np.float32)
    clean = Generation(*map(jnp.asarray, (tokens, lengths, logprobs)))
    # The tower trains, so that no update looks at features.
    features = ClipFeatures(jnp.zeros((videos, 0, 0, 0)), jnp.zeros((videos, 0, 0)))
    return Rollout(clean, perturbed=None, frames=None, features=features)


def count_compilations(
    steps: int, longest: int, seed: int
) -> tuple[Counter[str], set[tuple[int, int]]]:
    """Compilations by program, and the (P, C) buckets met."""
    rng = np.random.default_rng(seed)
    videos, samples = 2, 3
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        make_tiny(folder, seed, model=CONFIG, video=VIDEO)
        rollout = RolloutConfig(num_generations=samples, max_completion_length=longest)
        trainer = Trainer(training_config(folder, VIDEO, rollout, videos=videos, seed=seed))
    shape = (videos, VIDEO.num_images, VIDEO.image_size, VIDEO.image_size, 3)
    pixels = jnp.asarray(rng.standard_normal(shape, np.float32))
    advantages = jnp.asarray(rng.standard_normal((videos, samples), np.float32))
    vocabulary = trainer.model.cfg.decoder.vocab_size
    before, buckets = compiled.copy(), set()
    with jax.set_mesh(trainer.mesh):
        for _ in range(steps):
            sampled = random_rollout(rng, videos, samples, longest, vocabulary)
            batch = pack(trainer.prompts, pixels, sampled, advantages, None, longest)
            reference = trainer.reference_logprobs(batch)
            trainer.update(dataclasses.replace(batch, reference_logprobs=reference))
            buckets.add((batch.prompt_ids.shape[1], batch.responses.shape[2]))
    return compiled - before, buckets


def main() -> None:
    """Runs C9."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=100, help="max_completion_length")
    parser.add_argument("--config", default="configs/vqathinker_8b.yaml", help="to count for")
    parser.add_argument("--seed", type=int, default=0, help="of weights, lengths and tokens")
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)

    counts, buckets = count_compilations(arguments.steps, arguments.tokens, arguments.seed)
    by_program = {name: counts[name] for name in PROGRAMS}
    if not all(by_program.values()):
        raise SystemExit(f"no compilation was seen of one of {by_program}; seen: {dict(counts)}")
    report(
        "C9",
        f"buckets met in {arguments.steps} steps",
        f"compilations of {' or '.join(PROGRAMS)}, whichever are more",
        len(buckets) / max(by_program.values()),
        1.0,
        buckets=sorted(buckets),
        possible_buckets=response_buckets(arguments.tokens),
        compilations=by_program,
        other_compilations=counts.total() - sum(by_program.values()),
        steps=arguments.steps,
        seed=arguments.seed,
        threads=arguments.threads,
        versions=versions(),
    )
    longest = load_config(arguments.config).rollout.max_completion_length
    possible = response_buckets(longest)
    report(
        "C9",
        f"{MOST_BUCKETS} buckets",
        f"the {len(possible)} (P, C) buckets of {arguments.config}",
        MOST_BUCKETS / len(possible),
        1.0,
        buckets=possible,
        suffix_capacities=suffix_capacities(longest),
    )


if __name__ == "__main__":
    main()
