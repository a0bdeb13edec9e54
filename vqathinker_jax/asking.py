"""Asking a model about decoded clips: frames to answers to results."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt8, UInt32

from vqathinker_jax.aggregate import is_outside, spread
from vqathinker_jax.data.clip import Clip
from vqathinker_jax.inference import LoadedModel, decode_text, encode, normalize, prompt_prefix
from vqathinker_jax.models.generate import decode_chunks
from vqathinker_jax.parallel import to_host
from vqathinker_jax.records import Prefix
from vqathinker_jax.results import ScoreResult, Segment
from vqathinker_jax.rl.answers import parse_response, reasoning_text
from vqathinker_jax.score_settings import (
    ScoreSettings,
    calibration_settings,
    settings_fingerprint,
)
from vqathinker_jax.soft_score import (
    LOW_MASS,
    SoftScore,
    digit_tokens,
    opening_tokens,
    read_soft_scores,
    tokens_before_number,
)

SCORING_STREAM = 1
"""Folded into the root seed, so that scoring draws differ from those of any other purpose."""

Stamp = tuple[int | None, int | None]
"""Size and modification time of a file, as `results.file_stamp` gives them."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A file, or a stretch of it, whose frames are ready."""

    path: str
    stamp: Stamp
    clip: Clip
    start: float | None = None
    """Seconds where the stretch starts; None: the whole file. The draws depend on it."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the model said of one clip."""

    responses: tuple[str, ...]
    """The K answers; none where they were not generated."""
    soft: SoftScore | None = None
    """None where it was not read, or no answer has a number to read it at."""


class Asker:
    """Asks the model about batches of decoded clips.

    Args:
      model, settings: whom and how.
      batch_size: clips asked about at once, rounded up to a multiple of the devices that share
        them; a short batch is filled up, so that nothing recompiles.
    """

    def __init__(self, model: LoadedModel, settings: ScoreSettings, batch_size: int):
        self.model = model
        self.settings = settings = settings.of(model)
        self.batch_size = math.ceil(batch_size / model.num_shares) * model.num_shares
        self.prompt = model.build_prompt(settings.question, style=settings.prompt_style)
        self.sampling = settings.sampling(model.end_id, model.pad_id, model.suppressed_ids)
        self.fingerprint = settings_fingerprint(model, settings)
        self.root = jax.random.fold_in(jax.random.key(settings.seed), SCORING_STREAM)
        self.digits = digit_tokens(model.tokenizer) if settings.reads_digits(model) else None
        found = model.calibration
        is_fitting = found is not None and found.settings == calibration_settings(model, settings)
        self.calibration = found if is_fitting else None

    # -- frames to answers -------------------------------------------------------------------------

    def ask(
        self, frames: UInt8[np.ndarray, "N I S S 3"], ids: UInt32[np.ndarray, "N"] | None = None
    ) -> list[tuple[str, ...]]:
        """The K responses to each clip.

        Args:
          frames: at most `batch_size` clips.
          ids: what the random draws of each clip depend on; None will do where asking is greedy.

        Raises:
          ValueError: no ids to sample with.
        """
        return [asked.responses for asked in self.ask_in_full(frames, ids)]

    def ask_in_full(
        self, frames: UInt8[np.ndarray, "N I S S 3"], ids: UInt32[np.ndarray, "N"] | None = None
    ) -> list[Asked]:
        """As `ask`, with the soft scores where the settings want them."""
        *_, last = self.ask_step_by_step(frames, ids, chunk=None)
        return last

    def ask_step_by_step(
        self,
        frames: UInt8[np.ndarray, "N I S S 3"],
        ids: UInt32[np.ndarray, "N"] | None,
        chunk: int | None,
    ) -> Iterator[list[Asked]]:
        """What is said so far after every `chunk` tokens, and at the end what `ask_in_full` gives.

        Args:
          frames, ids: as for `ask`.
          chunk: tokens between two looks; None: at the end alone.
        """
        num = len(frames)
        places = np.minimum(np.arange(self.batch_size), num - 1)
        keys = self._keys(ids, places)
        model = self.model
        with model.computing():
            pixels = normalize(model.placed(frames[places]), model.dtype)
            encoded = encode(model.graphdef, model.state, pixels, model.video)
            prompts = np.broadcast_to(self.prompt, (self.batch_size, len(self.prompt)))
            prefix = prompt_prefix(model, prompts, encoded)
        if self.settings.at_once:
            opening = opening_tokens(model.tokenizer)
            softs = self._soft(prefix, [[opening]] * self.batch_size)
            yield [Asked((), soft) for soft in softs[:num]]
            return
        for rows in self._generate(prefix, keys, chunk):
            answers = [[decode_text(model, row) for row in video] for video in rows[:num]]
            if chunk is not None:
                yield [Asked(tuple(texts)) for texts in answers]
        softs = [None] * self.batch_size
        if self.digits is not None:
            fallback = self.settings.fallback
            before = [
                [tokens_before_number(model.tokenizer, row, fallback) for row in video]
                for video in rows
            ]
            softs = self._soft(prefix, before)
        yield [Asked(tuple(texts), soft) for texts, soft in zip(answers, softs[:num], strict=True)]

    def _keys(self, ids: UInt32[np.ndarray, "N"] | None, places: np.ndarray) -> Array | None:
        if self.sampling.is_greedy:
            return None
        if ids is None:
            raise ValueError("sampled answers need an id for every clip")
        return jax.vmap(lambda index: jax.random.fold_in(self.root, index))(
            jnp.asarray(ids[places])
        )

    def _generate(
        self, prefix: Prefix, keys: Array | None, chunk: int | None
    ) -> Iterator[list[list[np.ndarray]]]:
        """Token ids of the answers so far, `[N][K]`; with a chunk of None, of the end alone."""
        model, samples = self.model, self.settings.samples
        decoder = nnx.merge(model.graphdef, model.state).decoder
        chunks = decode_chunks(decoder, prefix, keys, samples, self.sampling, chunk=chunk)
        while True:
            # Precision and mesh are properties of the thread: they must not last beyond a yield.
            with model.computing():
                generation = next(chunks, None)
            if generation is None:
                break
            last = generation
            if chunk is not None:
                yield _rows(last)
        if chunk is None:
            yield _rows(last)

    def _soft(self, prefix: Prefix, texts: list) -> list[SoftScore | None]:
        with self.model.computing():
            return read_soft_scores(self.model, prefix, texts, self.digits)

    # -- answers to results ------------------------------------------------------------------------

    def answer(self, batch: Sequence[ScoreResult | Decoded]) -> Iterator[ScoreResult]:
        """Turns the decoded items of a batch into results, in place of them."""
        decoded = [item for item in batch if isinstance(item, Decoded)]
        asked = iter(self._ask(decoded) if decoded else ())
        for item in batch:
            yield self.result(item, next(asked)) if isinstance(item, Decoded) else item

    def _ask(self, decoded: Sequence[Decoded]) -> list[Asked]:
        ids = np.array([draw_id(item) for item in decoded], np.uint32)
        return self.ask_in_full(np.stack([item.clip.frames for item in decoded]), ids)

    def failure(self, path: str, stamp: Stamp, message: str) -> ScoreResult:
        """The result of a file that could not be decoded."""
        return ScoreResult(path=path, status="error", error=message, **self._provenance(stamp))

    def result(self, item: Decoded, asked: Asked) -> ScoreResult:
        """The row that an answer makes."""
        responses, fallback = asked.responses, self.settings.fallback
        scores = tuple(parse_response(text, fallback).score for text in responses)
        numbers = [score for score in scores if score is not None]
        found, soft = spread(numbers), asked.soft
        by_name = {
            "mean": found.mean,
            "median": found.median,
            "trimmed_mean": found.trimmed_mean,
            "soft": soft.score if soft else None,
        }
        score = by_name[self.settings.aggregate]
        chosen = representative(scores, found.mean if score is None else score)
        response = responses[chosen] if responses else None
        is_mapped = self.calibration is not None and score is not None
        return ScoreResult(
            path=item.path,
            status="ok",
            score=score,
            std=found.std,
            parseable=bool(numbers) or (self.settings.at_once and score is not None),
            reasoning=None if response is None else reasoning_text(response),
            response=response,
            warnings=(*item.clip.warnings, *self._warnings(scores, soft)),
            scores=scores,
            responses=responses,
            frames=tuple(item.clip.indices.tolist()),
            video=dataclasses.asdict(item.clip.facts),
            mean=found.mean,
            median=found.median,
            trimmed_mean=found.trimmed_mean,
            interval=found.interval,
            soft_score=soft.score if soft else None,
            soft_std=soft.std if soft else None,
            soft_mass=soft.mass if soft else None,
            calibrated=self.calibration(score) if is_mapped else None,
            calibration=self.calibration.describe() if is_mapped else None,
            **self._provenance(item.stamp),
        )

    def _warnings(self, scores: Sequence[float | None], soft: SoftScore | None) -> Iterator[str]:
        """What must be said of the answers to one clip."""
        numbers = [score for score in scores if score is not None]
        if not numbers and not self.settings.at_once:
            yield "unparseable: no answer holds a number, so there is no score"
        elif len(numbers) < len(scores):
            yield f"{len(scores) - len(numbers)} of {len(scores)} answers hold no number"
        if any(map(is_outside, numbers)):
            yield "an answer lies outside 1-5"
        if self.model.calibration is not None and self.calibration is None:
            yield (
                "not calibrated: the calibration was fitted to another model or other settings "
                "than these"
            )
        if soft is not None and soft.mass < LOW_MASS:
            yield (
                f"only {100 * soft.mass:.2g} % of the model's probability lies on the numbers 1.00 "
                "to 5.00: the soft score means little"
            )
        elif self.digits is not None and soft is None and (numbers or self.settings.at_once):
            yield "the digits' probabilities could not be read, so there is no soft score"

    def segment(self, start: float, end: float, result: ScoreResult) -> Segment:
        """What a row about a stretch of a video leaves in its timeline."""
        error = result.error
        if result.status == "ok" and result.score is None:
            error = "no answer holds a number"
        return Segment(start, end, result.score, result.score_std, result.reasoning, error)

    def _provenance(self, stamp: Stamp) -> dict:
        is_greedy = self.sampling.is_greedy
        return {
            "samples": self.settings.num_answers,
            "model": self.model.name,
            "model_kind": self.model.kind,
            "mode": "greedy" if is_greedy else "sampled",
            "seed": None if is_greedy else self.settings.seed,
            "settings": self.fingerprint,
            "size": stamp[0],
            "mtime_ns": stamp[1],
            "aggregate": self.settings.aggregate,
        }


def _rows(generation) -> list[list[np.ndarray]]:
    """The token ids of every answer, without what only fills its slots; copies on the host."""
    tokens, lengths = (to_host(a).copy() for a in (generation.tokens, generation.lengths))
    return [
        [row[:length] for row, length in zip(video, counts, strict=True)]
        for video, counts in zip(tokens, lengths, strict=True)
    ]


def representative(scores: Sequence[float | None], score: float | None) -> int:
    """Index of the score nearest to the one given (the first of equals), 0 without any."""
    if score is None:
        return 0
    distance = [float("inf") if one is None else abs(one - score) for one in scores]
    return distance.index(min(distance)) if distance else 0


def draw_id(item: Decoded) -> int:
    """What the random draws about a clip depend on: its name, size and place in its video."""
    return video_id(item.path, item.stamp, item.start)


def video_id(path: str, stamp: Stamp, start: float | None = None) -> int:
    """A number of 32 bits from a video's name and size, not from its place in the list.

    Args:
      path, stamp: of the file.
      start: seconds where a stretch of it begins; None: all of it.
    """
    identity = os.fsencode(Path(path).name) + b"\0" + str(stamp[0]).encode()
    if start is not None:
        identity += f"\0{start:.3f}".encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:4], "little")
