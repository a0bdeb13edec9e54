"""The small stages between the big ones: prompts, texts to numbers, rewards, what is logged."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key

from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.models.generate import bucket_length
from vqathinker_jax.parallel import to_host
from vqathinker_jax.records import Generation
from vqathinker_jax.rl.answers import parse_response
from vqathinker_jax.rl.rewards import RewardConfig, RewardTerms, draw_partners, total_reward
from vqathinker_jax.rl.run_state import TrainingError

SMALLEST_BUCKET = 16
MOST_BUCKETS = 8
"""Programs per kind of update; short responses are cheap to pad, compiling 8B is not."""
TERMS = tuple(field.name for field in dataclasses.fields(RewardTerms))
"""`format`, `regression`, `ranking`, `temporal`, `total`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParsedResponses:
    """What the responses say, as numbers."""

    scores: Float32[Array, "N K"]
    """0 where there is none."""
    valid: Bool[Array, "N K"]
    """True where a score could be read."""
    format_ok: Bool[Array, "N K"]
    decimals: Int32[Array, "N K"]
    """Fraction digits, trailing zeros removed."""


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompt of every video of a batch."""

    ids: Int32[Array, "N P"]
    """Padded on the right to a bucket."""
    lengths: Int32[Array, "N"]


def make_prompts(model: LoadedModel, style: str, num_videos: int, longest: int) -> Prompts:
    """The training prompt, once for each of N videos.

    Raises:
      TrainingError: with a response of `longest` tokens it has more positions than the model.
    """
    prompt = model.build_prompt(style=style)
    slots, known = bucket_length(len(prompt)), model.cfg.decoder.max_position_embeddings
    if slots + longest > known:
        raise TrainingError(
            f"the prompt takes {slots} positions, and with rollout.max_completion_length {longest} "
            f"that is more than the {known} of the model: lower it, or the frames or their size"
        )
    ids = np.full((num_videos, slots), model.pad_id, np.int32)
    ids[:, : len(prompt)] = prompt
    return Prompts(jnp.asarray(ids), jnp.full(num_videos, len(prompt), jnp.int32))


def response_buckets(longest: int) -> tuple[int, ...]:
    """The response slots C that are compiled for: the 8 largest of 16, 24, 32, 48, ... `longest`.

    >>> response_buckets(50), response_buckets(2048)
    ((16, 24, 32, 48, 50), (192, 256, 384, 512, 768, 1024, 1536, 2048))
    """
    buckets, size = [], SMALLEST_BUCKET
    while size < longest:
        buckets += [size, size * 3 // 2]
        size *= 2
    return (*(bucket for bucket in buckets if bucket < longest), longest)[-MOST_BUCKETS:]


def response_bucket(length: int, longest: int) -> int:
    """The smallest bucket that holds `length` tokens.

    Raises:
      ValueError: `length` exceeds `longest`.
    """
    if length > longest:
        raise ValueError(f"a text of {length} tokens exceeds max_completion_length={longest}")
    return next(bucket for bucket in response_buckets(longest) if bucket >= length)


def stream_keys(
    seed: int, purpose: int, step: int, indices: Int[np.ndarray, "N"]
) -> Key[Array, "N"]:
    """One key per video, folded from (seed, purpose, step, place of the video in the labels).

    A video that comes more than once in a step has another key each time.
    """
    root = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.asarray(indices, jnp.uint32))
    earlier = np.array([(indices[:i] == index).sum() for i, index in enumerate(indices)])
    if not earlier.any():
        return keys
    others = jax.vmap(jax.random.fold_in)(keys, jnp.asarray(earlier, jnp.uint32))
    return jnp.where(jnp.asarray(earlier > 0), others, keys)


@contextlib.contextmanager
def no_implicit_transfers() -> Iterator[None]:
    """Inside, `jax.device_put` and `jax.device_get` alone move data between host and device.

    An array that was left on the host by mistake raises then, instead of being sent anew in every
    step. Reads of arrays that live in host memory, as on the CPU, are let through.
    """
    with (
        jax.transfer_guard_host_to_device("disallow"),
        jax.transfer_guard_device_to_host("disallow"),
    ):
        yield


def read_texts(model: LoadedModel, generation: Generation) -> list[list[str]]:
    """The texts of `[N, K]` responses without special tokens, as the published code reads them."""
    tokens, lengths = to_host(generation.tokens), to_host(generation.lengths)
    return [
        [
            model.tokenizer.decode(row[:length].tolist(), skip_special_tokens=True)
            for row, length in zip(group, group_lengths, strict=True)
        ]
        for group, group_lengths in zip(tokens, lengths, strict=True)
    ]


def parse_texts(
    texts: Sequence[Sequence[str]], fallback: str = "none", reasoning: bool = True
) -> ParsedResponses:
    """Reads format, score and decimals of `[N, K]` texts. No text is looked at after this.

    `fallback` and `reasoning` are those of `parse_response`.
    """
    answers = [[parse_response(text, fallback, reasoning) for text in group] for group in texts]

    def array(read, dtype) -> Array:
        return jnp.array([[read(answer) for answer in group] for group in answers], dtype)

    return ParsedResponses(
        scores=array(lambda a: 0.0 if a.score is None else min(max(a.score, -1e30), 1e30), "f4"),
        valid=array(lambda a: a.score is not None, bool),
        format_ok=array(lambda a: a.format_ok, bool),
        decimals=array(lambda a: a.decimals_trimmed, np.int32),
    )


@functools.partial(jax.jit, static_argnames="cfg")
def compute_rewards(
    clean: ParsedResponses,
    perturbed: ParsedResponses | None,
    gt: Float[Array, "N"],
    key: Key[Array, ""],
    cfg: RewardConfig,
) -> RewardTerms:
    """`total_reward` of a global batch.

    Args:
      clean: the responses that are trained on.
      perturbed: those to the perturbed clips; None: no temporal reward.
      gt: float32 opinion scores.
      key: draws the partners with `cfg.partners == "one"`.
      cfg: every option.
    """
    partners = draw_partners(key, len(gt)) if cfg.partners == "one" else "all"
    return total_reward(
        clean.scores,
        clean.valid,
        gt,
        clean.format_ok,
        None if perturbed is None else perturbed.scores,
        None if perturbed is None else perturbed.valid,
        decimals=clean.decimals,
        decimals_perturbed=None if perturbed is None else perturbed.decimals,
        partners=partners,
        sigma=cfg.sigma,
        alpha=cfg.alpha,
        ddof=cfg.ddof,
        eps=cfg.eps,
        delta=cfg.delta,
        tau=cfg.tau,
        gate_regression=cfg.gate_regression,
        gate_ranking=cfg.gate_ranking,
        weights=cfg.weights,
        variant=cfg.variant,
    )


def reward_row(terms: RewardTerms) -> dict[str, float]:
    """Each reward's mean and mean within-group standard deviation, and the share of groups whose
    total does not differ: they teach nothing."""
    row = {}
    for name, array in vars(terms).items():
        value = to_host(array)
        row[f"reward_{name}"] = float(value.mean())
        row[f"spread_{name}"] = float(value.std(axis=1).mean())
    total = to_host(terms.total)
    row["zero_spread_share"] = float((total == total[:, :1]).all(axis=1).mean())
    return row


def response_row(
    parsed: ParsedResponses, lengths: Int[np.ndarray, "N K"], longest: int
) -> dict[str, float | None]:
    """Parse rate, spread of the scores and lengths of the responses."""
    valid = to_host(parsed.valid)
    scores = to_host(parsed.scores)[valid]
    return {
        "parse_rate": float(valid.mean()),
        "score_mean": float(scores.mean()) if scores.size else None,
        "score_std": float(scores.std()) if scores.size else None,
        "length_mean": float(lengths.mean()),
        "length_max": int(lengths.max()),
        "at_limit_share": float((lengths >= longest).mean()),
    }
