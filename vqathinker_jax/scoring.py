"""Scoring files: decode ahead in worker processes, ask the model in batches, read the answers."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
from jaxtyping import UInt8

from vqathinker_jax.asking import Asker, Decoded, draw_id
from vqathinker_jax.data.clip import Clip, FrameRequest, printable
from vqathinker_jax.data.frames import split_clip
from vqathinker_jax.data.pool import DecodePool
from vqathinker_jax.data.video import VideoError
from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.results import ScoreResult, Segment, file_stamp
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.timeline import clip_seconds, segment_bounds, why_no_timeline

GROUP_BYTES = 1 << 27
"""Images of the stretches that are read in one walk through a file, unless one has more."""
STREAM_CHUNK = 8
"""Tokens between two looks at a text that is being generated."""


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """Something to show while a video is judged."""

    kind: str
    """`frames`, `text`, `timeline` or `result`."""
    images: UInt8[np.ndarray, "I S S 3"] | None = None
    """Of `frames`: what the model is shown."""
    text: str = ""
    """Of `text`: the first answer so far."""
    result: ScoreResult | None = None
    """Of `result`; of `timeline` with the segments judged so far."""


def score_many(
    model: LoadedModel, paths: Sequence[str], settings: ScoreSettings
) -> Iterator[ScoreResult]:
    """Scores files one after another and yields a result for each, in the order given.

    Files are decoded ahead of need in worker processes while the model computes. A file that cannot
    be decoded gives a result with status `error`; the others are not affected.
    """
    if not paths:
        return
    largest = settings.batch_size * model.num_shares
    # Segments of one video fill a batch by themselves.
    is_filled = settings.segment_s is not None
    asker = Asker(model, settings, largest if is_filled else even_batch_size(len(paths), largest))
    ahead = settings.num_workers + asker.batch_size
    with _open_pool(model, settings, len(paths)) as pool:
        waiting = collections.deque()
        upcoming = iter(paths)

        def submit_one() -> None:
            path = next(upcoming, None)
            if path is not None:
                waiting.append((path, file_stamp(path), pool.submit(path)))

        for _ in range(ahead):
            submit_one()
        batch: list[ScoreResult | Decoded] = []
        while waiting:
            path, stamp, future = waiting.popleft()
            try:
                batch.append(Decoded(path, stamp, future.result()))
            except VideoError as error:
                batch.append(asker.failure(path, stamp, _reason(path, error)))
            submit_one()
            if sum(isinstance(item, Decoded) for item in batch) == asker.batch_size or not waiting:
                for item, result in zip(batch, asker.answer(batch), strict=True):
                    *_, whole = _over_time(asker, pool, item, result)
                    yield whole
                batch = []


def stream_one(
    model: LoadedModel, path: str, settings: ScoreSettings, chunk: int = STREAM_CHUNK
) -> Iterator[StreamEvent]:
    """Scores one file and tells what happens meanwhile.

    Args:
      model: whom to ask.
      path: the file.
      settings: as for `score_many`.
      chunk: tokens between two `text` events.

    Yields:
      One `frames` event, `text` events whose text grows, a `timeline` event for every segment where
      segments are asked for, and a `result` event that equals what `score_many` gives. Of a file
      that cannot be decoded, a `result` event alone.
    """
    batch_size = 1 if settings.segment_s is None else settings.batch_size
    asker, stamp = Asker(model, settings, batch_size), file_stamp(path)
    with _open_pool(model, settings, 1) as pool:
        try:
            item = Decoded(path, stamp, pool.submit(path).result())
        except VideoError as error:
            result = asker.failure(path, stamp, _reason(path, error))
            yield StreamEvent("result", result=result)
            return
        yield StreamEvent("frames", images=item.clip.frames)
        shown = ""
        ids = np.array([draw_id(item)], np.uint32)
        for (asked,) in asker.ask_step_by_step(item.clip.frames[None], ids, chunk):
            if asked.responses and asked.responses[0] != shown:
                shown = asked.responses[0]
                yield StreamEvent("text", text=shown)
        results = _over_time(asker, pool, item, asker.result(item, asked))
        result = next(results)
        for more in results:
            yield StreamEvent("timeline", result=result)
            result = more
        yield StreamEvent("result", result=result)


def _open_pool(model: LoadedModel, settings: ScoreSettings, num_files: int) -> DecodePool:
    workers = settings.num_workers
    return DecodePool(
        num_workers=workers if settings.segment_s is not None else min(workers, num_files),
        request=FrameRequest.of(model.video),
        decoder=settings.decoder,
        timeout_s=settings.timeout_s,
        memory_bytes=settings.memory_bytes,
    )


def _over_time(
    asker: Asker, pool: DecodePool, item: ScoreResult | Decoded, result: ScoreResult
) -> Iterator[ScoreResult]:
    """The result with more and more of its timeline, where one was asked for and can be made; the
    last one is whole."""
    length = asker.settings.segment_s
    if length is None or not isinstance(item, Decoded):
        yield result
        return
    reason = why_no_timeline(item.clip.facts, length)
    if reason is not None:
        yield dataclasses.replace(result, warnings=(*result.warnings, reason))
        return
    bounds = segment_bounds(clip_seconds(item.clip.facts), length)
    timeline: tuple[Segment, ...] = ()
    for segment in _timeline(asker, pool, item, bounds):
        timeline += (segment,)
        yield dataclasses.replace(result, timeline=timeline)
    failed = sum(segment.error is not None for segment in timeline)
    warnings = result.warnings
    if failed:
        warnings += (f"{failed} of {len(timeline)} segments have no score",)
    yield dataclasses.replace(result, timeline=timeline, warnings=warnings)


def _timeline(
    asker: Asker, pool: DecodePool, item: Decoded, bounds: Sequence[tuple[float, float]]
) -> Iterator[Segment]:
    """Judges stretches of a video in batches, each by frames of its own, decoded ahead."""
    stretches = _stretches(asker, pool, item, bounds)
    while batch := list(itertools.islice(stretches, asker.batch_size)):
        results = asker.answer([part for _, part in batch])
        for ((start, end), _), result in zip(batch, results, strict=True):
            yield asker.segment(start, end, result)


def _stretches(
    asker: Asker, pool: DecodePool, item: Decoded, bounds: Sequence[tuple[float, float]]
) -> Iterator[tuple[tuple[float, float], Decoded | ScoreResult]]:
    """Each stretch with its clip, or with the row that says why there is none.

    Several are read in one walk through the file: where seeking is not exact a walk decodes all of
    it. If a walk fails, its stretches are read one by one.
    """
    whole = FrameRequest.of(asker.model.video)
    size = max(1, GROUP_BYTES // item.clip.frames.nbytes)
    groups = iter([tuple(bounds[i : i + size]) for i in range(0, len(bounds), size)])
    waiting = collections.deque()

    def read(group: Sequence[tuple[float, float]]) -> _Group:
        request = dataclasses.replace(whole, bounds=tuple(group))
        return _Group(request, pool.submit(item.path, request))

    for group in itertools.islice(groups, asker.settings.num_workers + 1):
        waiting.append(read(group))
    while waiting:
        group = waiting.popleft()
        try:
            clips = split_clip(group.clip.result(), group.request)
        except VideoError as error:
            if len(group.request.bounds) > 1:
                waiting.extendleft(read([bound]) for bound in reversed(group.request.bounds))
                continue
            reason = _reason(item.path, error)
            yield group.request.bounds[0], asker.failure(item.path, item.stamp, reason)
        else:
            for bound, clip in zip(group.request.bounds, clips, strict=True):
                yield bound, Decoded(item.path, item.stamp, clip, start=bound[0])
        if len(waiting) <= asker.settings.num_workers:
            upcoming = next(groups, None)
            if upcoming is not None:
                waiting.append(read(upcoming))


@dataclasses.dataclass(frozen=True)
class _Group:
    """Stretches that are read in one walk."""

    request: FrameRequest
    clip: Future[Clip]


def _reason(path: str, error: VideoError) -> str:
    return str(error).removeprefix(f"{printable(path)}: ")


def even_batch_size(count: int, largest: int) -> int:
    """The size of the fewest batches of at most `largest`, as even as they can be.

    A short last batch is filled up, which costs as much as a full one.

    >>> even_batch_size(9, 8)
    5
    """
    return math.ceil(count / math.ceil(count / largest))
