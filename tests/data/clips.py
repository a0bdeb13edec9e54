"""Writing small clips for tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def pictures(count: int, width: int, height: int, seed: int = 0) -> list[np.ndarray]:
    """Blocky random pictures uint8 [H, W, 3], each different from the others."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3), np.uint8)
    large = np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)
    return [np.ascontiguousarray(picture[:height, :width]) for picture in large]


def write_clip(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
    colorspace: int = 2,
    color_range: int = 0,
    transfer: int = 2,
    times: list[int] | None = None,
) -> Path:
    """Encodes pictures; `times` in frame units makes the frame rate variable."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.options = options or {}
        context = stream.codec_context
        context.colorspace, context.color_range = colorspace, color_range
        context.color_trc = transfer
        context.time_base = Fraction(1, rate)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = i if times is None else times[i]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
