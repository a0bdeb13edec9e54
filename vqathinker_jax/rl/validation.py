"""Validation: greedy scores of held-out videos against their opinion scores."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.metrics import plcc, srcc
from vqathinker_jax.scoring import ScoreSettings, score_many


def validate(
    model: LoadedModel, videos: Sequence[LabelledVideo], config: TrainConfig
) -> dict[str, float]:
    """Agreement with the opinion scores, over the videos that a score could be read for.

    Args:
      model: with the present parameters, in the layout of rollouts.
      videos: at least one.
      config: of the run: prompt, lengths, how videos are read.

    Returns:
      `srcc`, `plcc`, `mae` (NaN where undefined), `parse_rate` (of the readable videos), `videos`,
      `unreadable`, `seconds`.
    """
    start = time.perf_counter()
    settings = ScoreSettings(
        max_new_tokens=config.rollout.max_completion_length,
        prompt_style=config.data.prompt_style,
        decoder=config.data.decoder,
        batch_size=min(config.run.videos_per_step, len(videos)),
        workers=max(1, config.data.num_workers),
        timeout_s=config.data.timeout_s,
    )
    results = list(score_many(model, [video.path for video in videos], settings))
    pairs = [
        (result.score, video.score)
        for result, video in zip(results, videos, strict=True)
        if result.score is not None
    ]
    answered = sum(result.status == "ok" for result in results)
    said, truth = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        "srcc": srcc(said, truth) if pairs else math.nan,
        "plcc": plcc(said, truth) if pairs else math.nan,
        "mae": float(np.abs(np.subtract(said, truth)).mean()) if pairs else math.nan,
        "parse_rate": len(pairs) / answered if answered else 0.0,
        "videos": len(videos),
        "unreadable": len(videos) - answered,
        "seconds": round(time.perf_counter() - start, 2),
    }


def shown(value: float) -> str:
    """Three digits, or `undefined`.

    >>> shown(0.51234), shown(float("nan"))
    ('0.512', 'undefined')
    """
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
