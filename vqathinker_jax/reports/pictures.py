"""The frames a model saw, decoded again and made small enough for a page."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vqathinker_jax.data.clip import Clip, FrameRequest, VideoError, printable
from vqathinker_jax.data.frames import burst_indices
from vqathinker_jax.data.pool import DecodePool
from vqathinker_jax.results import ScoreResult, file_stamp

QUALITY = 72
"""Of JPEG: a small picture of 176 x 99 takes 4 KB."""
DECODED_SIDE = 224
"""Pixels of the square that frames are decoded to before they get their shape back."""
NUM_WORKERS = 2
TIMEOUT_S = 60.0
"""Seconds for the frames of one file."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One frame as a page shows it."""

    uri: str
    """`data:image/jpeg;base64,...`."""
    width: int
    """Pixels."""
    height: int
    index: int
    """Place of the frame in order of presentation."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """Some of the frames that a model saw of one file."""

    pictures: tuple[Picture, ...] = ()
    num_seen: int = 0
    """Frames it saw; `pictures` may be fewer."""
    why_none: str | None = None
    """One line that says why there are no pictures."""


def jpeg_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def frame_strips(results: Sequence[ScoreResult], most: int, longest: int = 176) -> list[Strip]:
    """Frames that the model saw, for each result.

    Files are decoded in processes of their own. One that has changed since it was scored, or is
    gone, has no pictures, and its strip says why.

    Args:
      results: of scoring.
      most: pictures a file; fewer where the model saw fewer different frames.
      longest: pixels of the longer side of a picture.
    """
    if not results:
        return []
    strips: list[Strip | None] = [None] * len(results)
    with DecodePool(NUM_WORKERS, FrameRequest(1, DECODED_SIDE), timeout_s=TIMEOUT_S) as pool:
        waiting = []
        for place, result in enumerate(results):
            request = None if (why := why_no_frames(result)) else seen_request(result)
            if request is None:
                why = why or "the frames it saw cannot be told from its row"
                strips[place] = Strip(num_seen=len(result.frames), why_none=why)
            else:
                waiting.append((place, result, pool.submit(result.path, request=request)))
        for place, result, future in waiting:
            try:
                strips[place] = make_strip(result, future.result(), most, longest)
            except VideoError as error:
                reason = str(error).removeprefix(f"{printable(result.path)}: ")
                strips[place] = Strip(num_seen=len(result.frames), why_none=reason)
    return [strip for strip in strips if strip is not None]


def why_no_frames(result: ScoreResult) -> str | None:
    """Why a file need not be opened again; None where it should be."""
    if not result.frames or result.video is None:
        return "no frames were seen"
    if result.size is not None and file_stamp(result.path) != (result.size, result.mtime_ns):
        return "the file is gone, or has changed since it was scored"
    return None


def seen_request(result: ScoreResult) -> FrameRequest | None:
    """What to ask for, so that the very frames of a result come; None where nothing fits."""
    facts, num = result.video or {}, len(result.frames)
    count, fps = facts.get("num_frames", 0), facts.get("fps", 0.0)
    if count < 1:
        return None
    for burst in (length for length in range(1, num + 1) if num % length == 0):
        if burst_indices(count, fps, num, burst).tolist() == list(result.frames):
            return FrameRequest(num, DECODED_SIDE, burst=burst)
    return None


def make_strip(result: ScoreResult, clip: Clip, most: int, longest: int) -> Strip:
    """Pictures of frames spread over those that were seen, each frame once."""
    if tuple(clip.indices.tolist()) != result.frames:
        return Strip(num_seen=len(result.frames), why_none="other frames came than were seen")
    different = list(dict.fromkeys(result.frames))
    places = np.linspace(0, len(different) - 1, min(most, len(different))).round().astype(int)
    scale = longest / max(clip.facts.width, clip.facts.height)
    width = max(1, round(clip.facts.width * scale))
    height = max(1, round(clip.facts.height * scale))
    pictures = []
    for index in (different[place] for place in places.tolist()):
        frame = clip.frames[result.frames.index(index)]
        pictures.append(Picture(_unsquash(frame, width, height), width, height, index))
    return Strip(tuple(pictures), len(result.frames))


def _unsquash(frame: UInt8[np.ndarray, "S S 3"], width: int, height: int) -> str:
    return jpeg_uri(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
