"""What the page is told while a video is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vqathinker_jax.data.clip import printable
from vqathinker_jax.evaluation.distortions import with_distortions
from vqathinker_jax.reports.folder import other_statistics, shown_score, video_facts
from vqathinker_jax.reports.pictures import jpeg_uri
from vqathinker_jax.reports.timeline_chart import moments, timeline_chart
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.scoring import StreamEvent
from vqathinker_jax.timeline import clock

MOST_FRAMES = 24
PICTURE_SIDE = 192
"""Pixels."""


def describe(event: StreamEvent, path: str, name: str) -> dict[str, Any]:
    """What happened, as JSON takes it.

    Args:
      event: of judging.
      path: of the upload; the page is never told.
      name: of the file on the page.

    Raises:
      ValueError: an unknown kind.
    """
    match event.kind:
        case "frames":
            return describe_frames(event.images)
        case "text":
            return {"text": event.text}
        case "timeline":
            return {"until": clock(event.result.timeline[-1].end)}
        case "result":
            return describe_result(event.result, path, name)
    raise ValueError(f"unknown kind of event {event.kind!r}")


def describe_frames(images: UInt8[np.ndarray, "I S S 3"]) -> dict[str, Any]:
    """The images that the model is shown, made small: squares, as it gets them."""
    places = np.linspace(0, len(images) - 1, min(len(images), MOST_FRAMES)).round().astype(int)
    side = min(PICTURE_SIDE, images.shape[1])
    return {
        "pictures": [
            jpeg_uri(Image.fromarray(images[place]).resize((side, side), Image.Resampling.BICUBIC))
            for place in places.tolist()
        ],
        "count": len(images),
        "side": images.shape[1],
    }


def describe_result(result: ScoreResult, path: str, name: str) -> dict[str, Any]:
    """The judgement; an error is said in words that name the file as the person does."""
    error = None
    if result.error is not None:
        error = printable(result.error.replace(path, name))
    return {
        "status": result.status,
        "score": result.score,
        "shown": shown_score(result),
        "std": result.score_std,
        "scores": list(result.scores),
        "responses": list(result.responses),
        "distortions": list(with_distortions(result).distortions or ()),
        "timeline": timeline_chart(result.timeline) if len(result.timeline) > 1 else None,
        "moments": moments(result.timeline),
        "others": [list(pair) for pair in other_statistics(result)],
        "reasoning": result.reasoning,
        "response": result.response,
        "warnings": list(map(printable, result.warnings)),
        "facts": video_facts(result),
        "error": error,
        "kind": result.model_kind,
    }
