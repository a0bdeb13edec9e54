"""Decoding with decord, which the published scores were made with."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator

from vqathinker_jax.data.clip import Clip, Deadline, FrameRequest, Limits, VideoError
from vqathinker_jax.data.frames import FrameCollector, choose_places
from vqathinker_jax.data.pyav import clip_notes, probe_with_pyav

SEQUENTIAL_CONTAINERS = ("avi", "mpegts", "mpeg")
"""decord's seeks are not exact here, so every frame up to the last wanted one is decoded."""


def decode_with_decord(path: str, request: FrameRequest, limits: Limits) -> Clip:
    """Reads the frames asked for with decord, as the published script does: `vr[i]`, one by one.

    The file is first probed with PyAV, which keeps out what is not a plain video file and supplies
    the facts that decord does not tell. The number of frames is decord's own.

    Raises:
      VideoError: decord is not installed or cannot read the file, or over a limit.
    """
    if importlib.util.find_spec("decord") is None:
        raise VideoError.of(
            path, "decord is not installed (it has no wheels for every system); use pyav instead"
        )
    import decord

    deadline = Deadline(path, limits.seconds)
    facts = probe_with_pyav(path, limits)
    # An absolute name cannot be taken for a protocol; one that is not UTF-8 decord cannot be told.
    name = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            try:
                name.encode()
                source = name
            except UnicodeEncodeError:
                source = file
            reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=limits.threads or 1)
        num_frames, fps = len(reader), float(reader.get_avg_fps())
        if not num_frames:
            raise VideoError.of(path, "decord finds no frames in it")
        places = choose_places(num_frames, fps, request)
        collector = FrameCollector(places, request)
        is_sequential = facts.container in SEQUENTIAL_CONTAINERS
        for index, frame in _frames(reader, sorted(collector.missing), is_sequential):
            deadline.check()
            if collector.wants(index):
                collector.add(index, frame.asnumpy())
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise VideoError.of(path, f"decord cannot decode it ({_first_line(error)})") from None
    facts = dataclasses.replace(facts, num_frames=num_frames, fps=fps, decoder="decord")
    notes = clip_notes(facts, request.num_frames)
    return Clip(collector.frames, collector.indices, facts, tuple(notes))


def _frames(reader, indices: list[int], is_sequential: bool) -> Iterator:
    if not is_sequential:
        yield from ((index, reader[index]) for index in indices)
        return
    for index in range(indices[-1] + 1):
        yield index, reader.next()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # decord's messages begin with a time of day and a place in its own source.
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0]) if lines else type(error).__name__
