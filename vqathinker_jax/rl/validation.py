"""Validation: greedy scores of held-out videos against their opinion scores."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from vqathinker_jax.asking import Asker
from vqathinker_jax.config import TrainConfig
from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.metrics import plcc, srcc
from vqathinker_jax.parallel import RowReaders, gather_rows, row_readers
from vqathinker_jax.rl.answers import parse_response, reasoning_text
from vqathinker_jax.rl.words import words_agreement
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.scoring import even_batch_size


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
      `unreadable`, `seconds`; and `words_f1`, the mean over distortions of the F1 of naming them,
      where the labels say what is wrong and the model reasons (NaN where undefined).
    """
    start = time.perf_counter()
    batch_size = even_batch_size(len(videos), config.run.videos_per_step)
    settings = ScoreSettings(
        max_new_tokens=config.rollout.max_completion_length,
        prompt_style=config.data.prompt_style,
        aggregate="mean",
        batch_size=batch_size,
    )
    asker = Asker(model, settings, batch_size)
    said, truth, texts, answered = [], [], [], []
    for batch in read_batches(model, videos, config, asker.batch_size):
        if not batch.is_readable.any():
            continue
        responses = asker.ask(batch.frames)
        for video, (text,), is_readable in zip(
            batch.videos, responses, batch.is_readable, strict=True
        ):
            if not is_readable:
                continue
            answered.append(video)
            texts.append(reasoning_text(text))
            score = parse_response(text, config.reward.fallback).score
            if score is not None:
                said.append(score)
                truth.append(video.score)
    row = {
        "srcc": srcc(said, truth) if said else math.nan,
        "plcc": plcc(said, truth) if said else math.nan,
        "mae": float(np.abs(np.subtract(said, truth)).mean()) if said else math.nan,
        "parse_rate": len(said) / len(answered) if answered else 0.0,
        "videos": len(videos),
        "unreadable": len(videos) - len(answered),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if model.reasoning and any(video.distortions is not None for video in videos):
        row["words_f1"] = words_f1(texts, answered)
    return row


@dataclasses.dataclass(frozen=True)
class ReadVideos:
    """A batch of videos with their images."""

    videos: Sequence[LabelledVideo]
    frames: UInt8[np.ndarray, "N I S S 3"]
    """Black where this process does not read them, or nobody can."""
    is_readable: Bool[np.ndarray, "N"]
    """The same on all processes."""


def read_batches(
    model: LoadedModel, videos: Sequence[LabelledVideo], config: TrainConfig, batch_size: int
) -> Iterator[ReadVideos]:
    """Batches of videos, of which each process reads those that its devices are asked about.

    Args:
      model: says how images are made, and which devices hold which row.
      videos: all of them.
      config: how they are read.
      batch_size: a multiple of the devices that share a batch.
    """
    readers = RowReaders((0,)) if model.mesh is None else row_readers(model.mesh)
    share = batch_size // readers.count
    mine = range(share * readers.mine, share * (readers.mine + 1))
    own = [video.path for place, video in enumerate(videos) if place % batch_size in mine]
    shape = (model.video.num_images, model.video.image_size, model.video.image_size, 3)
    with config.data.open_reader(model.video, config.data.num_workers) as reader:
        clips = iter(reader.read_ahead(own, ahead=share))
        for start in range(0, len(videos), batch_size):
            batch = videos[start : start + batch_size]
            frames = np.zeros((len(batch), *shape), np.uint8)
            is_read = np.zeros(batch_size, np.int32)
            for row in filter(mine.__contains__, range(len(batch))):
                clip = next(clips)
                if not isinstance(clip, VideoError):
                    frames[row], is_read[row] = clip, 1
            # Processes that bring the same rows must all have read them.
            row_parts = np.arange(len(batch)) // share
            is_asked = np.equal.outer(readers.of_process, row_parts)
            is_readable = (gather_rows(is_read)[:, : len(batch)] >= is_asked).all(axis=0)
            yield ReadVideos(batch, frames, is_readable)


def merit(row: dict[str, float], config: TrainConfig) -> float:
    """What the best checkpoint is chosen by: the SRCC, or the F1 of the words where a stage learns
    them from texts whose scores were drawn at random; NaN where undefined.

    Args:
      row: from `validate`.
      config: of the run.
    """
    learns_words = config.run.mode == "sft" and config.sft.random_scores
    return row.get("words_f1", math.nan) if learns_words else row["srcc"]


def words_f1(texts: Sequence[str | None], videos: Sequence[LabelledVideo]) -> float:
    """The mean over all distortions in the labels of the F1 of naming them.

    Args:
      texts: the reasoning about each video.
      videos: those whose label does not say what is wrong are left out.
    """
    pairs = [
        (text, video.distortions)
        for text, video in zip(texts, videos, strict=True)
        if video.distortions is not None
    ]
    names = sorted({one.name for _, truth in pairs for one in truth})
    named, truths = [text for text, _ in pairs], [truth for _, truth in pairs]
    return words_agreement(named, truths, names).macro_f1


def shown(value: float) -> str:
    """Three digits, or `undefined`.

    >>> shown(0.51234), shown(float("nan"))
    ('0.512', 'undefined')
    """
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
