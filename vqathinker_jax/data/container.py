"""Opening a video container safely, and the table of its packets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NoReturn

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from vqathinker_jax.data.clip import Deadline, Limits, VideoError

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,mxf,gxf,"
    "gif,ivf,h264,hevc,m4v,h263,mjpeg,obu,av1,yuv4mpegpipe,nut,dv,rm,wtv,dirac,vc1"
)
"""Demuxers that read one file and nothing else: no playlists, no scripts, no devices."""
READ_BYTES = 1 << 18
"""Bytes asked of the file at once: PyAV's own 32 KiB is 1.6 times slower on a whole file."""
INDEXED_CONTAINERS = ("mov", "matroska")
INDEXED_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1")
"""In these containers and codecs each kept packet is one shown frame, at the packet's own time.
VP8 is absent because a packet may hold a frame that is never shown."""


@contextlib.contextmanager
def open_container(path: str, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a regular file and its best video stream.

    FFmpeg is handed an open file, never a name, so nothing in the name can mean a protocol; it may
    not open anything else, and only containers that need nothing else are known to it.

    Raises:
      VideoError: not a video, no video stream, or frames over the limit; and anything FFmpeg or
        the file system says while the container is in use.
    """
    try:
        with (
            open(path, "rb", buffering=0) as file,
            av.open(
                file,
                options={"format_whitelist": FORMATS},
                io_open=_refuse,
                buffer_size=READ_BYTES,
                metadata_errors="replace",
            ) as container,
        ):
            stream = container.streams.best("video")
            if stream is None or Disposition.attached_pic in stream.disposition:
                has_audio = bool(container.streams.audio)
                raise VideoError.of(
                    path, "has no video in it" + (", only sound" if has_audio else "")
                )
            context = stream.codec_context
            if context is None:
                raise VideoError.of(path, "no decoder for its video codec is installed")
            if context.width or context.height:
                limits.check_size(path, context.width, context.height)
            context.options = {"max_pixels": str(limits.frame_pixels)}
            context.thread_type = "AUTO"
            context.thread_count = limits.threads
            yield container, stream
    except av.error.MemoryError:
        raise VideoError.of(path, "there is not enough memory to decode it") from None
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError.of(path, _explain(error)) from None


def _refuse(url: str, flags: int, options: dict) -> NoReturn:
    raise PermissionError("it refers to another file or address, which is not opened")


def _explain(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "cannot be read as a video: it is damaged, cut short, or something else"
    if isinstance(error, av.error.ArgumentError):
        return "is not a video file of a known kind"
    if isinstance(error, av.error.FFmpegError):
        return f"cannot be decoded ({error.strerror})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return " ".join(str(error).split())


@dataclasses.dataclass(frozen=True)
class PacketTable:
    """The packets of one stream, in the order in which they are stored; Q of them."""

    times: np.ndarray
    """int64 [Q, 2]: presentation and decoding time in the stream's unit; `NO_TIME` where absent."""
    is_shown_mask: np.ndarray
    """bool [Q]: neither cut away by an edit list nor known to be incomplete."""
    has_incomplete: bool
    """Whether the file ends inside a packet, or a packet is marked as damaged."""
    is_start_mask: np.ndarray
    """bool [Q]: nothing shown from here on depends on an earlier packet; True for the first."""

    @property
    def num_shown(self) -> int:
        """Packets that should each give a frame."""
        return int(self.is_shown_mask.sum())

    def is_index(self) -> bool:
        """Whether presentation times alone say which frame is which."""
        pts = self.times[self.is_shown_mask, 0]
        return len(pts) > 0 and NO_TIME not in pts and len(np.unique(pts)) == len(pts)


NO_TIME = np.iinfo(np.int64).min


def read_packet_table(
    container: InputContainer, stream: VideoStream, deadline: Deadline
) -> PacketTable:
    """Reads every packet of a stream without decoding any."""
    times, shown, starts = [], [], []
    has_incomplete = False
    codec = stream.codec_context.codec.canonical_name
    extradata = stream.codec_context.extradata or b""
    for packet in packets(container, stream, deadline):
        if packet.size == 0:
            continue
        times.append(packet_times(packet))
        shown.append(not (packet.is_discard or packet.is_corrupt))
        has_incomplete |= packet.is_corrupt
        starts.append(
            not starts or (packet.is_keyframe and _starts_clean(codec, extradata, packet))
        )
    return PacketTable(
        times=np.array(times, np.int64).reshape(-1, 2),
        is_shown_mask=np.array(shown, bool),
        has_incomplete=has_incomplete,
        is_start_mask=np.array(starts, bool),
    )


def packets(container: InputContainer, stream: VideoStream, deadline: Deadline) -> Iterator[Packet]:
    """Packets of one stream from where the container stands, then an empty one that flushes.

    A file that cannot be read further ends here, like one that is cut short.
    """
    source = container.demux(stream)
    while True:
        deadline.check()
        try:
            packet = next(source, None)
        except (av.error.InvalidDataError, av.error.EOFError):
            packet = None
        if packet is None:
            return
        yield packet


def packet_times(packet: Packet) -> tuple[int, int]:
    """Presentation and decoding time; `NO_TIME` where the container has none."""
    return (
        NO_TIME if packet.pts is None else packet.pts,
        NO_TIME if packet.dts is None else packet.dts,
    )


def _starts_clean(codec: str, extradata: bytes, packet: Packet) -> bool:
    """Whether decoding from a packet flagged as a key frame is exact from its own time on.

    H.264 recovery points are flagged too, but what follows them need not be exact: only an
    IDR picture (NAL type 5) counts. HEVC random access points (16 to 21) all do, because the
    leading pictures they may spoil are shown before them.
    """
    if codec not in ("h264", "hevc"):
        return True
    length_at = {"h264": 4, "hevc": 21}[codec]
    if len(extradata) <= length_at or extradata[0] != 1:
        return False
    width = (extradata[length_at] & 3) + 1
    data = bytes(packet)
    position = 0
    while position + width < len(data):
        header = data[position + width]
        if codec == "h264" and header & 31 == 5:
            return True
        if codec == "hevc" and 16 <= header >> 1 & 63 <= 21:
            return True
        position += width + int.from_bytes(data[position : position + width], "big")
    return False
