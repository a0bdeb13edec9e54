"""Frames to files and back: H.264 and VP9 in MP4, one thread, the same bytes every time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import numpy as np

CODECS = {"h264": "libx264", "vp9": "libvpx-vp9"}
"""Encoders by the name of what they write."""
NEAR_LOSSLESS = 12
"""Constant rate factor of x264 at which the encoding itself cannot be seen."""


def missing_encoders() -> list[str]:
    """Encoders this build of PyAV lacks."""
    return [name for name in CODECS.values() if name not in av.codecs_available]


def write_video(
    target: os.PathLike | str | io.BytesIO,
    frames: np.ndarray,
    fps: float,
    codec: str = "h264",
    crf: float = NEAR_LOSSLESS,
    preset: str = "veryfast",
) -> None:
    """Encodes a clip into an MP4 file.

    Args:
      target: path or writable buffer.
      frames: uint8 [F, H, W, 3], RGB; H and W even.
      fps: frames per second.
      codec: `h264` or `vp9`.
      crf: constant rate factor; 0 to 51 for H.264, 0 to 63 for VP9.
      preset: x264's trade of time for size; on noise, `ultrafast` saves much time and costs little.

    Raises:
      ValueError: odd sizes, no frames, or an unknown codec.
      OSError: the file cannot be written.
    """
    if codec not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
    if frames.ndim != 4 or not len(frames) or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames must be [F, H, W, 3] with even H and W, got {frames.shape}")
    sink = target if isinstance(target, io.BytesIO) else os.fspath(target)
    with av.open(sink, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream(CODECS[codec], rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = _options(codec, crf, preset)
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _options(codec: str, crf: float, preset: str) -> dict[str, str]:
    if codec == "vp9":
        return {
            "crf": str(round(crf)),
            "b:v": "0",
            "deadline": "realtime",
            "cpu-used": "8",
            "row-mt": "0",
        }
    # x264's macroblock tree gives other bytes for the same frames from one run to the next, even
    # with one thread (its assembly, not its C, as far as could be seen with libx264 165).
    return {"crf": f"{crf:.2f}", "preset": preset, "threads": "1", "x264-params": "mbtree=0"}


def read_video(source: os.PathLike | str | io.BytesIO) -> Iterator[np.ndarray]:
    """Decodes a whole clip frame by frame: RGB uint8 [H, W, 3]."""
    source = source if isinstance(source, io.BytesIO) else os.fspath(source)
    with av.open(source) as container:
        container.streams.video[0].thread_type = "NONE"
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def recompressed(frames: np.ndarray, fps: float, codec: str, crf: float) -> np.ndarray:
    """The clip after encoding and decoding: uint8 [F, H, W, 3]."""
    buffer = io.BytesIO()
    write_video(buffer, frames, fps, codec, crf)
    buffer.seek(0)
    return np.stack(list(read_video(buffer)))
