"""Decoding with PyAV: by seeking where that is exact, from the first packet on otherwise."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vqathinker_jax.data.clip import (
    Clip,
    Deadline,
    FrameRequest,
    Limits,
    VideoError,
    VideoFacts,
)
from vqathinker_jax.data.color import RGBConverter, bit_depth, rotation, transfer
from vqathinker_jax.data.container import (
    INDEXED_CODECS,
    INDEXED_CONTAINERS,
    PacketTable,
    open_container,
    packet_times,
    packets,
    read_packet_table,
)
from vqathinker_jax.data.frames import FrameCollector, Places, choose_places

SEQUENTIAL_PASSES = 2
"""The first counts the frames while it gathers those that a guess of the count asks for."""


def decode_with_pyav(path: str, request: FrameRequest, limits: Limits) -> Clip:
    """Reads the frames asked for with PyAV.

    A frame's index is its place in order of presentation among all frames that can be decoded. The
    packets are read first, undecoded. Where each is one frame with its own time (MP4 and Matroska
    with most codecs), only the stretches from a clean key frame to a wanted frame are decoded;
    otherwise (AVI, transport streams, missing times), or if a wanted frame does not turn up, the
    whole stream is.

    Raises:
      VideoError: nothing to show, or over a limit.
    """
    deadline = Deadline(path, limits.seconds)
    with open_container(path, limits) as (container, stream):
        table = read_packet_table(container, stream, deadline)
        if not table.num_shown:
            raise VideoError.of(path, "has a video stream, but no frames in it")
        if _is_indexed(container, stream, table):
            reader = _Reader(path, container, stream, limits, deadline)
            clip = _decode_by_seeking(reader, table, request)
            if clip is not None:
                return clip
    count = table.num_shown
    for _ in range(SEQUENTIAL_PASSES):
        # A fresh container each time: seeking back to the start is not exact in every format.
        with open_container(path, limits) as (container, stream):
            reader = _Reader(path, container, stream, limits, deadline)
            collector, found = _decode_from_the_start(reader, count, request)
            if found == count:
                return reader.clip(collector, count, announced=stream.frames)
            count = found
    raise VideoError.of(path, "decoding it twice gave different numbers of frames")


def probe_with_pyav(path: str, limits: Limits) -> VideoFacts:
    """Facts of a file from its headers, packets and first decodable frame.

    Raises:
      VideoError: as for decoding.
    """
    deadline = Deadline(path, limits.seconds)
    with open_container(path, limits) as (container, stream):
        count = read_packet_table(container, stream, deadline).num_shown
    with open_container(path, limits) as (container, stream):
        reader = _Reader(path, container, stream, limits, deadline)
        if next(reader.frames(), None) is None:
            raise VideoError.of(path, "no frame of it can be decoded")
        return reader.facts(count)


class _Reader:
    """One walk through a stream: decodes, converts, and remembers what it saw."""

    def __init__(
        self,
        path: str,
        container: InputContainer,
        stream: VideoStream,
        limits: Limits,
        deadline: Deadline,
    ):
        self.path = path
        self.container = container
        self.stream = stream
        self.limits = limits
        self.deadline = deadline
        self.to_rgb = RGBConverter()
        self.num_broken = 0
        self.sample: av.VideoFrame | None = None
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else 0.0

    def frames(self, allowed_starts: set[tuple[int, int]] | None = None) -> Iterator[av.VideoFrame]:
        """Frames from where the container stands; packets that cannot be decoded are counted.

        Ends at once if the first packet is not one of `allowed_starts` (presentation and decoding
        time), which says where a seek may land.
        """
        for packet in packets(self.container, self.stream, self.deadline):
            if allowed_starts is not None and packet_times(packet) not in allowed_starts:
                return
            allowed_starts = None
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                self.num_broken += 1
                continue
            for frame in decoded:
                self.deadline.check()
                self.limits.check_size(self.path, frame.width, frame.height)
                self.sample = self.sample or frame
                yield frame

    def clip(self, collector: FrameCollector, num_frames: int, announced: int) -> Clip:
        """What was gathered, with the facts and warnings that go with it.

        Args:
          announced: frames that the container says it has; 0 where it does not say.
        """
        facts = self.facts(num_frames)
        notes = []
        if num_frames < announced:
            notes.append(
                f"only {num_frames} of the {announced} frames that the file announces could be "
                "decoded: it may be damaged or cut short"
            )
        elif self.num_broken:
            notes.append(f"{self.num_broken} packets could not be decoded: the file is damaged")
        notes += clip_notes(facts, collector.request.num_frames)
        return Clip(collector.frames, collector.indices, facts, tuple(notes))

    def facts(self, num_frames: int) -> VideoFacts:
        """The facts, once a frame has been seen."""
        frame, stream = self.sample, self.stream
        turn = rotation(frame)
        width, height = frame.width, frame.height
        if turn % 180:
            width, height = height, width
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        else:
            duration = (self.container.duration or 0) / av.time_base
        return VideoFacts(
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=frame.format.name,
            width=width,
            height=height,
            fps=self.fps,
            num_frames=num_frames,
            rotation=turn,
            bit_depth=bit_depth(frame),
            duration=max(0.0, duration),
            transfer=transfer(frame),
            container=self.container.format.name,
            file_bytes=os.stat(self.path).st_size,
            decoder="pyav",
        )


def clip_notes(facts: VideoFacts, num_wanted: int) -> list[str]:
    """Warnings that follow from the facts alone."""
    notes = []
    if facts.transfer != "sdr":
        notes.append(
            f"HDR ({facts.transfer.upper()}): scored as stored, without tone mapping, as the "
            "published model does"
        )
    if facts.num_frames < num_wanted:
        notes.append(
            f"the clip has {facts.num_frames} frames for the {num_wanted} that the model looks at: "
            "some are shown more than once"
        )
    return notes


def _is_indexed(container: InputContainer, stream: VideoStream, table: PacketTable) -> bool:
    return (
        container.format.name.split(",")[0] in INDEXED_CONTAINERS
        and stream.codec_context.codec.canonical_name in INDEXED_CODECS
        and table.is_index()
    )


def _decode_by_seeking(reader: _Reader, table: PacketTable, request: FrameRequest) -> Clip | None:
    """Decodes only the stretches needed; None if a wanted frame did not turn up."""
    shown = np.flatnonzero(table.is_shown_mask)
    shown = shown[np.argsort(table.times[shown, 0])]
    places = _choose(reader, len(shown), request)
    collector = FrameCollector(places, request)

    starts = np.flatnonzero(table.is_start_mask)
    index_by_pts: dict[int, dict[int, int]] = collections.defaultdict(dict)
    for index in sorted(collector.missing):
        position = shown[index]
        pts = int(table.times[position, 0])
        usable = starts[(starts <= position) & (table.times[starts, 0] <= pts)]
        index_by_pts[int(usable[-1]) if len(usable) else 0][pts] = index

    for start, wanted in sorted(index_by_pts.items()):
        landings = starts[starts <= start]
        reader.container.seek(int(table.times[start, 0]), stream=reader.stream)
        for frame in reader.frames({(int(p), int(d)) for p, d in table.times[landings]}):
            index = wanted.pop(frame.pts, None)
            if index is not None:
                collector.add(index, reader.to_rgb(frame))
            if not wanted:
                break
    if collector.missing:
        return None
    # Packets that an edit list cuts away are announced too, and not missing.
    is_cut = len(table.times) < reader.stream.frames or table.has_incomplete
    return reader.clip(collector, len(shown), announced=reader.stream.frames if is_cut else 0)


def _decode_from_the_start(
    reader: _Reader, guess: int, request: FrameRequest
) -> tuple[FrameCollector, int]:
    """Decodes the whole stream, gathering the frames that a clip of `guess` frames asks for.

    Returns:
      What was gathered, and how many frames there really are.
    """
    collector = FrameCollector(_choose(reader, guess, request), request)
    count = 0
    for frame in reader.frames():
        if collector.wants(count):
            collector.add(count, reader.to_rgb(frame))
        count += 1
    if not count:
        raise VideoError.of(reader.path, "no frame of it can be decoded")
    return collector, count


def _choose(reader: _Reader, num_frames: int, request: FrameRequest) -> list[Places]:
    try:
        return choose_places(num_frames, reader.fps, request)
    except ValueError as error:
        raise VideoError.of(reader.path, str(error)) from None
