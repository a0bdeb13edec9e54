"""How files are scored, and what of it can change an answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from typing import Any

from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.models.digits import NUMBER_TOKENS
from vqathinker_jax.models.generate import SamplingConfig, bucket_length
from vqathinker_jax.results import AGGREGATES
from vqathinker_jax.rl.answers import FALLBACKS
from vqathinker_jax.soft_score import digit_tokens

DEFAULT_TEMPERATURE = 0.9
"""Sampling temperature of the paper's Table 6."""
LEAST_SEGMENT_S = 0.1


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
    aggregate: str | None = None
    """What becomes the score: `mean`, `median` or `trimmed_mean` of the samples, or `soft`, the
    expected score under the digits' probabilities. None: the model folder's, which is `mean` as
    published; `soft` where `at_once`."""
    soft: bool = False
    """Whether the expected score is read too; `aggregate="soft"` does so in any case."""
    at_once: bool = False
    """No text is generated: the expected score is read right behind the prompt and `<answer> `.
    Always `soft`."""
    segment_s: float | None = None
    """Seconds of a segment of the timeline; None: no timeline."""
    decoder: str = "pyav"
    """`pyav` or `decord`."""
    batch_size: int = 1
    """Videos asked about at once on a device."""
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
        if self.aggregate not in (None, *AGGREGATES):
            raise ValueError(f"aggregate must be one of {AGGREGATES}, got {self.aggregate!r}")
        is_soft = self.aggregate in (None, "soft")
        if self.at_once and (not is_soft or self.samples > 1 or self.temperature):
            raise ValueError(
                "an answer at once is one soft score: no samples, no temperature and no other "
                "aggregate go with it"
            )
        if self.segment_s is not None and not LEAST_SEGMENT_S <= self.segment_s < math.inf:
            raise ValueError(
                f"a segment must be at least {LEAST_SEGMENT_S:g} seconds, got {self.segment_s:g}"
            )
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

    def of(self, model: LoadedModel) -> ScoreSettings:
        """The same with the model's own `aggregate` where none was chosen."""
        if self.aggregate is not None:
            return self
        own = "soft" if self.at_once else model.aggregate
        return dataclasses.replace(self, aggregate=own)

    def reads_digits(self, model: LoadedModel) -> bool:
        """Whether the digits' probabilities are read."""
        return self.soft or self.of(model).aggregate == "soft"

    @property
    def num_answers(self) -> int:
        """Texts generated per video."""
        return 0 if self.at_once else self.samples

    @property
    def num_workers(self) -> int:
        """Decoding processes to start."""
        if self.workers is not None:
            return self.workers
        return max(1, min(8, (os.cpu_count() or 1) - 1))


def settings_fingerprint(model: LoadedModel, settings: ScoreSettings) -> str:
    """Hex digest of the model and of every setting that can change a row of results.

    Raises:
      ValueError: a question that cannot be asked, longer answers than the model has positions, or
        digits to read that the tokenizer does not write one by one.
    """
    settings = settings.of(model)
    sampling = settings.sampling(model.end_id, model.pad_id, model.suppressed_ids)
    prompt = model.build_prompt(settings.question, style=settings.prompt_style)
    limit = model.cfg.decoder.max_position_embeddings
    most = limit - bucket_length(len(prompt)) - NUMBER_TOKENS * settings.reads_digits(model)
    if settings.max_new_tokens > most:
        raise ValueError(
            f"a prompt of {len(prompt)} tokens with max_new_tokens={settings.max_new_tokens} does "
            f"not fit into max_position_embeddings={limit}; at most {most} new tokens do"
        )
    if settings.reads_digits(model):
        digit_tokens(model.tokenizer)
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
        **_facts_that_differ(settings),
    }
    if model.calibration is not None:
        facts["calibration"] = dataclasses.asdict(model.calibration)
    return _digest(facts)


def calibration_settings(model: LoadedModel, settings: ScoreSettings) -> str:
    """Hex digest of the model and of what moves its scores: what a calibration is tied to.

    The seed, the decoder, the compute dtype and the longest answer are left out: they change single
    scores, but not what scores mean.
    """
    settings = settings.of(model)
    sampling = settings.sampling(model.end_id, model.pad_id, model.suppressed_ids)
    facts = {
        "model": model.fingerprint,
        "video": dataclasses.asdict(model.video),
        "prompt": model.build_prompt(settings.question, style=settings.prompt_style).tolist(),
        "temperature": sampling.temperature,
        "top_k": None if sampling.is_greedy else sampling.top_k,
        "top_p": None if sampling.is_greedy else sampling.top_p,
        "samples": settings.samples,
        "aggregate": settings.aggregate,
        "at_once": settings.at_once,
        "fallback": settings.fallback,
    }
    return _digest(facts)


def _facts_that_differ(settings: ScoreSettings) -> dict[str, Any]:
    """Newer settings, where they change what older versions did: their rows stay valid."""
    names = ("aggregate", "soft", "at_once", "segment_s")
    defaults = ScoreSettings(aggregate="mean")
    return {
        name: vars(settings)[name] for name in names if vars(settings)[name] != vars(defaults)[name]
    }


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
