"""Scoring files: decode ahead in worker processes, ask the model in batches, read the answers."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8, UInt32

from vqathinker_jax.data.clip import FrameRequest, printable
from vqathinker_jax.data.pool import DecodePool
from vqathinker_jax.data.video import Clip, VideoError
from vqathinker_jax.inference import LoadedModel, decode_text, encode, normalize, respond
from vqathinker_jax.models.generate import SamplingConfig, bucket_length
from vqathinker_jax.results import ScoreResult, file_stamp
from vqathinker_jax.rl.answers import FALLBACKS, parse_response, reasoning_text

SCORING_STREAM = 1
"""Folded into the root seed, so that scoring draws differ from those of any other purpose."""
DEFAULT_TEMPERATURE = 0.9
"""Sampling temperature of the paper's Table 6."""


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """How files are scored.

    Raises:
      ValueError: a value outside its range, or sampling asked for at temperature 0.
    """

    samples: int = 1
    """K: answers per video."""
    temperature: float | None = None
    """None: greedy for one sample, 0.9 for several. 0 is greedy."""
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0
    """Root of all sampling."""
    max_new_tokens: int = 1024
    question: str | None = None
    """None: the published question."""
    prompt_style: str | None = None
    """`test` or `train`; None: the model folder's, which is `test` as published."""
    fallback: str = "none"
    """What is read of an answer without tags: nothing, or the first number of its `whole_text`."""
    decoder: str = "pyav"
    """`pyav` or `decord`."""
    batch_size: int = 1
    """N: videos asked about at once."""
    workers: int | None = None
    """Decoding processes; None: one less than there are cores, at most 8."""
    timeout_s: float = 120.0
    """Seconds after which decoding one file is given up."""
    memory_bytes: int = 4 * 2**30
    """Address space of one decoding process."""

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples > 1 with temperature 0 would give the same answer each time")
        if not 0 < self.timeout_s < math.inf or self.memory_bytes <= 0:
            raise ValueError("timeout_s and memory_bytes must be positive and finite")
        if self.decoder not in ("pyav", "decord"):
            raise ValueError(f"decoder must be pyav or decord, got {self.decoder!r}")
        if self.fallback not in FALLBACKS:
            raise ValueError(f"fallback must be one of {FALLBACKS}, got {self.fallback!r}")
        self.sampling(end_id=0, pad_id=0, suppressed_ids=())

    def sampling(self, end_id: int, pad_id: int, suppressed_ids: tuple[int, ...]) -> SamplingConfig:
        """The decoding configuration; raises ValueError on a value outside its range."""
        temperature = self.temperature
        if temperature is None:
            temperature = DEFAULT_TEMPERATURE if self.samples > 1 else 0.0
        return SamplingConfig(
            eos_id=end_id,
            pad_id=pad_id,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            suppressed_ids=suppressed_ids,
        )

    @property
    def num_workers(self) -> int:
        """Decoding processes to start."""
        if self.workers is not None:
            return self.workers
        return max(1, min(8, (os.cpu_count() or 1) - 1))


def settings_fingerprint(model: LoadedModel, settings: ScoreSettings) -> str:
    """Hex digest of the model and of every setting that can change an answer.

    Raises:
      ValueError: a question that cannot be asked, or longer answers than the model has positions.
    """
    sampling = settings.sampling(model.end_id, model.pad_id, model.suppressed_ids)
    prompt = model.build_prompt(settings.question, style=settings.prompt_style)
    limit = model.cfg.decoder.max_position_embeddings
    if bucket_length(len(prompt)) + settings.max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {len(prompt)} tokens with max_new_tokens={settings.max_new_tokens} does "
            f"not fit into max_position_embeddings={limit}; at most "
            f"{limit - bucket_length(len(prompt))} new tokens do"
        )
    facts = {
        "model": model.fingerprint,
        "dtype": model.dtype,
        "video": dataclasses.asdict(model.video),
        "prompt": prompt.tolist(),
        "sampling": dataclasses.asdict(sampling) if not sampling.is_greedy else "greedy",
        "max_new_tokens": settings.max_new_tokens,
        "samples": settings.samples,
        "seed": None if sampling.is_greedy else settings.seed,
        "decoder": settings.decoder,
        "fallback": settings.fallback,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def score_many(
    model: LoadedModel, paths: Sequence[str], settings: ScoreSettings
) -> Iterator[ScoreResult]:
    """Scores files one after another and yields a result for each, in the order given.

    Files are decoded ahead of need in worker processes while the model computes. A file that cannot
    be decoded gives a result with status `error`; the others are not affected.
    """
    if not paths:
        return
    batch_size = even_batch_size(len(paths), settings.batch_size)
    asker = Asker(model, settings, batch_size)
    ahead = settings.num_workers + batch_size
    with DecodePool(
        num_workers=min(settings.num_workers, len(paths)),
        request=FrameRequest.of(model.video),
        decoder=settings.decoder,
        timeout_s=settings.timeout_s,
        memory_bytes=settings.memory_bytes,
    ) as pool:
        waiting = collections.deque()
        upcoming = iter(paths)

        def submit_one() -> None:
            path = next(upcoming, None)
            if path is not None:
                waiting.append((path, file_stamp(path), pool.submit(path)))

        for _ in range(ahead):
            submit_one()
        batch: list[ScoreResult | _Decoded] = []
        while waiting:
            path, stamp, future = waiting.popleft()
            try:
                batch.append(_Decoded(path, stamp, future.result()))
            except VideoError as error:
                reason = str(error).removeprefix(f"{printable(path)}: ")
                batch.append(asker.failure(path, stamp, reason))
            submit_one()
            if sum(isinstance(item, _Decoded) for item in batch) == batch_size or not waiting:
                yield from asker.answer(batch)
                batch = []


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A file whose frames are ready."""

    path: str
    stamp: tuple[int | None, int | None]
    clip: Clip


class Asker:
    """Asks the model about batches of decoded clips."""

    def __init__(self, model: LoadedModel, settings: ScoreSettings, batch_size: int):
        self.model = model
        self.settings = settings
        self.batch_size = batch_size
        self.prompt = model.build_prompt(settings.question, style=settings.prompt_style)
        self.sampling = settings.sampling(model.end_id, model.pad_id, model.suppressed_ids)
        self.fingerprint = settings_fingerprint(model, settings)
        self.root = jax.random.fold_in(jax.random.key(settings.seed), SCORING_STREAM)

    def answer(self, batch: Sequence[ScoreResult | _Decoded]) -> Iterator[ScoreResult]:
        """Turns the decoded items of a batch into results, in place of them."""
        decoded = [item for item in batch if isinstance(item, _Decoded)]
        responses = iter(self._ask(decoded) if decoded else ())
        for item in batch:
            if isinstance(item, _Decoded):
                yield self._result(item, next(responses))
            else:
                yield item

    def failure(self, path: str, stamp: tuple[int | None, int | None], message: str) -> ScoreResult:
        """The result of a file that could not be decoded."""
        return ScoreResult(path=path, status="error", error=message, **self._provenance(stamp))

    def ask(
        self, frames: UInt8[np.ndarray, "N I S S 3"], ids: UInt32[np.ndarray, "N"] | None = None
    ) -> list[tuple[str, ...]]:
        """The K responses to each clip.

        Args:
          frames: at most `batch_size` clips. A short batch is filled up, so that nothing
            recompiles.
          ids: what the random draws of each clip depend on; None will do where asking is greedy.

        Raises:
          ValueError: no ids to sample with.
        """
        num = len(frames)
        places = np.minimum(np.arange(self.batch_size), num - 1)
        keys = None
        if not self.sampling.is_greedy:
            if ids is None:
                raise ValueError("sampled answers need an id for every clip")
            draw = jnp.asarray(ids[places])
            keys = jax.vmap(lambda index: jax.random.fold_in(self.root, index))(draw)
        model = self.model
        with model.precision():
            pixels = normalize(frames[places], model.dtype)
            encoded = encode(model.graphdef, model.state, pixels, model.video)
            prompts = np.broadcast_to(self.prompt, (self.batch_size, len(self.prompt)))
            generation = respond(
                model, prompts, encoded, keys, self.settings.samples, self.sampling
            )
        tokens, lengths = np.asarray(generation.tokens), np.asarray(generation.lengths)
        return [
            tuple(
                decode_text(model, row[:length])
                for row, length in zip(tokens[i], lengths[i], strict=True)
            )
            for i in range(num)
        ]

    def _ask(self, decoded: Sequence[_Decoded]) -> list[tuple[str, ...]]:
        ids = np.array([video_id(item.path, item.stamp) for item in decoded], np.uint32)
        return self.ask(np.stack([item.clip.frames for item in decoded]), ids)

    def _result(self, item: _Decoded, responses: tuple[str, ...]) -> ScoreResult:
        fallback = self.settings.fallback
        scores = tuple(parse_response(text, fallback).score for text in responses)
        numbers = [score for score in scores if score is not None]
        score = math.fsum(numbers) / len(numbers) if numbers else None
        chosen = representative(scores, score)
        warnings = list(item.clip.warnings)
        if not numbers:
            warnings.append("unparseable: no answer holds a number, so there is no score")
        elif len(numbers) < len(scores):
            warnings.append(f"{len(scores) - len(numbers)} of {len(scores)} answers hold no number")
        if any(not 1 <= number <= 5 for number in numbers):
            warnings.append("an answer lies outside 1-5")
        return ScoreResult(
            path=item.path,
            status="ok",
            score=score,
            std=statistics.stdev(numbers) if len(numbers) > 1 else None,
            parseable=bool(numbers),
            reasoning=reasoning_text(responses[chosen]),
            response=responses[chosen],
            warnings=tuple(warnings),
            scores=scores,
            responses=responses,
            frames=tuple(item.clip.indices.tolist()),
            video=dataclasses.asdict(item.clip.facts),
            **self._provenance(item.stamp),
        )

    def _provenance(self, stamp: tuple[int | None, int | None]) -> dict:
        is_greedy = self.sampling.is_greedy
        return {
            "samples": self.settings.samples,
            "model": self.model.name,
            "model_kind": self.model.kind,
            "mode": "greedy" if is_greedy else "sampled",
            "seed": None if is_greedy else self.settings.seed,
            "settings": self.fingerprint,
            "size": stamp[0],
            "mtime_ns": stamp[1],
        }


def even_batch_size(count: int, largest: int) -> int:
    """The size of the fewest batches of at most `largest`, as even as they can be.

    A short last batch is filled up, which costs as much as a full one.

    >>> even_batch_size(9, 8)
    5
    """
    return math.ceil(count / math.ceil(count / largest))


def representative(scores: Sequence[float | None], mean: float | None) -> int:
    """Index of the score nearest to the mean (the first of equals), 0 where there is no score."""
    if mean is None:
        return 0
    distance = [math.inf if score is None else abs(score - mean) for score in scores]
    return distance.index(min(distance))


def video_id(path: str, stamp: tuple[int | None, int | None]) -> int:
    """What a video's random draws depend on: its name and size, not its place in the list."""
    identity = os.fsencode(Path(path).name) + b"\0" + str(stamp[0]).encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:4], "little")
