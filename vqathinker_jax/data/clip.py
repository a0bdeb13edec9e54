"""What decoding a file gives, what it may cost, and how it fails: shared by all decoders."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from typing import Protocol

import numpy as np

from vqathinker_jax.spec import VIEWS, VideoSpec

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""How `http://` and the like begin. Never opened, and named in errors as they were given."""


class VideoError(ValueError):
    """A file that cannot be scored; the message is one line for the user and names the file."""

    @classmethod
    def of(cls, path: os.PathLike | str, reason: str) -> VideoError:
        """The error of one file."""
        return cls(f"{printable(path)}: {reason}")


def printable(path: os.PathLike | str) -> str:
    """The path on one line: control characters and undecodable bytes become escapes."""
    text = os.fsdecode(path)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """What the container and the first decoded frame say about a file."""

    codec: str
    """`h264`, `hevc`, `vp9`, ...; `png`, `jpeg`, ... for a still image."""
    pixel_format: str
    """As decoded: `yuv420p`, `yuv420p10le`, ...; Pillow's mode for a still image."""
    width: int
    """Pixels, as shown (after rotation)."""
    height: int
    fps: float
    """Average frames per second; 0 where the container does not say, and for a still image."""
    num_frames: int
    """Frames that can be decoded."""
    rotation: int
    """Degrees by which stored frames are turned before they are shown, counterclockwise: 0, 90, -90
    or 180; -90 is a phone's clip shown turned 90 degrees clockwise."""
    bit_depth: int
    duration: float
    """Seconds; 0 where unknown."""
    transfer: str
    """`sdr`, `pq` or `hlg`."""
    container: str
    """Name of the demuxer: `mov,mp4,m4a,3gp,3g2,mj2`, `matroska,webm`, ...; `image`."""
    file_bytes: int
    decoder: str
    """`pyav`, `decord` or `pillow`."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The images of a file that the model sees."""

    frames: np.ndarray
    """uint8 [I, S, S, 3], RGB, upright: F frames in the view asked for (squashed to the square, or
    mosaics of native pixels, `data.fragments`), D extras in the other, L slices."""
    indices: np.ndarray
    """int64 [F]: place of each frame in order of presentation."""
    facts: VideoFacts
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FrameRequest:
    """Which frames are wanted, and how they are shown.

    Raises:
      ValueError: a count or a size below one (below zero for extras and slices), an odd number
        of slices, images that fragments do not fill, an unknown view, or a `bound` that does not
        run forwards.
    """

    num_frames: int
    """F."""
    image_size: int
    """S, pixels."""
    bound: tuple[float, float] | None = None
    """Start and end in seconds; None: the whole clip."""
    num_extras: int = 0
    """D."""
    fragment_size: int = 28
    """Side of a fragment, pixels."""
    view: str = "squashed"
    """Of the frames, one of `VIEWS`; extras have the other."""
    burst: int = 1
    """Consecutive frames in a run; it divides F."""
    num_slices: int = 0
    """L."""
    bounds: tuple[tuple[float, float], ...] = ()
    """B stretches in seconds in place of `bound`: each gets F frames and all other images of its
    own from one walk through the file. The clip then has B F indices and images uint8
    [B I, S, S, 3], stretch by stretch; `data.frames.split_clip` takes it apart."""

    @classmethod
    def of(cls, spec: VideoSpec) -> FrameRequest:
        """What a geometry asks of every clip, read whole."""
        return cls(
            spec.num_frames,
            spec.image_size,
            num_extras=spec.num_extras,
            fragment_size=spec.fragment_size,
            view=spec.view,
            burst=spec.burst,
            num_slices=spec.num_slices,
        )

    def __post_init__(self) -> None:
        counts = (self.num_frames, self.image_size, self.fragment_size)
        if min(counts) < 1 or min(self.num_extras, self.num_slices) < 0:
            raise ValueError(f"num_frames and image_size must be at least 1, got {self}")
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {VIEWS}, got {self.view!r}")
        if self.burst < 1 or self.num_frames % self.burst:
            raise ValueError(f"num_frames must be a multiple of burst, got {self}")
        if self.num_slices % 2:
            raise ValueError(f"num_slices must be even, got {self}")
        has_cells = self.num_extras or self.num_slices or self.view == "fragments"
        if has_cells and self.image_size % self.fragment_size:
            raise ValueError(f"image_size must be a multiple of fragment_size, got {self}")
        if self.bound is not None and self.bounds:
            raise ValueError(f"either bound or bounds, got {self.bound} and {self.bounds}")
        for bound in self.bounds or (self.bound,):
            if bound is not None and not bound[0] < bound[1]:
                raise ValueError(f"bound must be (start, end) with start < end, got {bound}")

    @property
    def num_stretches(self) -> int:
        """B; 1 where there is no more than one."""
        return max(1, len(self.bounds))

    @property
    def num_images(self) -> int:
        """I = F + D + L."""
        return self.num_frames + self.num_extras + self.num_slices


@dataclasses.dataclass(frozen=True)
class Limits:
    """What decoding one file may cost.

    Raises:
      ValueError: a limit that is not positive.
    """

    seconds: float = 120.0
    """Wall time, looked at between packets and frames; a decoder that hangs inside one call is
    stopped only by `read_clip_bounded` and `DecodePool`."""
    frame_pixels: int = 8192 * 8192
    """Pixels of one stored frame."""
    threads: int = 0
    """Decoding threads; 0: as many as there are cores."""

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.frame_pixels < 1 or self.threads < 0:
            raise ValueError(f"limits must be positive, got {self}")

    def check_size(self, path: str, width: int, height: int) -> None:
        """Raises VideoError where a frame has more pixels than allowed, or none."""
        if width < 1 or height < 1:
            raise VideoError.of(path, f"its frames have no pixels ({width}x{height})")
        if width * height > self.frame_pixels:
            raise VideoError.of(
                path, f"a frame of {width}x{height} has more than {self.frame_pixels} pixels"
            )


class Deadline:
    """The moment at which decoding a file is given up."""

    def __init__(self, path: str, seconds: float):
        self._path = path
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises VideoError once the time is up."""
        if time.monotonic() > self._end:
            raise VideoError.of(self._path, f"decoding took longer than {self._seconds:g} s")


class Decoder(Protocol):
    """Reads the frames asked for from a regular file.

    Raises:
      VideoError: nothing to show, or over a limit.
    """

    def __call__(self, path: str, request: FrameRequest, limits: Limits) -> Clip: ...
