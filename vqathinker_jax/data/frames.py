"""Which frames of a clip the model sees, and gathering them while a clip is decoded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vqathinker_jax.data.clip import Clip, FrameRequest
from vqathinker_jax.data.fragments import extra_slots, fragments
from vqathinker_jax.data.resize import resize_square
from vqathinker_jax.data.slices import lines, slice_moments
from vqathinker_jax.spec import VIEWS

WHOLE_CLIP = (-1e5, 1e5)
"""Seconds: the published bounds of a clip that is read whole."""


def frame_indices(
    num_frames_in_clip: int, fps: float, num: int, bound: tuple[float, float] | None = None
) -> np.ndarray:
    """Places of the published choice of frames.

    With last = frames - 1, start = max(0, round(t0 fps)), end = min(round(t1 fps), last) and
    step = (end - start) / num, frame i is at int(start + step / 2 + round(step i)).

    Reference quirk: `last`, not the number of frames, is divided, and half a step is added after
    the rounding (half to even), not before (test/batch_infer.py `get_index`).

    Args:
      num_frames_in_clip: frames that can be decoded; with fewer than `num`, indices repeat.
      fps: average frames per second; 0 where unknown, which only a clip read whole can do without.
      num: F.
      bound: (t0, t1) in seconds; None: the whole clip.

    Returns:
      int64 [F], in [0, num_frames_in_clip).

    Raises:
      ValueError: no frames, a bound outside the clip, or a bound with an unknown frame rate.
    """
    if num_frames_in_clip < 1 or num < 1:
        raise ValueError(f"cannot choose {num} of {num_frames_in_clip} frames")
    start, end = _span(num_frames_in_clip, fps, bound)
    step = float(end - start) / num
    return np.array(
        [int(start + step / 2 + np.round(step * i)) for i in range(num)], dtype=np.int64
    )


def _span(
    num_frames_in_clip: int, fps: float, bound: tuple[float, float] | None
) -> tuple[int, int]:
    """First and last frame of a time span."""
    last = num_frames_in_clip - 1
    if fps > 0 and math.isfinite(fps):
        first_second, last_second = WHOLE_CLIP if bound is None else bound
        start = max(0, round(first_second * fps))
        end = min(round(last_second * fps), last)
    elif bound is None:
        start, end = 0, last
    else:
        raise ValueError("the frame rate is unknown, so a time span cannot be cut out")
    if start > end:
        raise ValueError(f"the time span {bound} lies outside the clip")
    return start, end


def burst_indices(
    num_frames_in_clip: int,
    fps: float,
    num: int,
    burst: int,
    bound: tuple[float, float] | None = None,
) -> np.ndarray:
    """Places of `num` frames in runs of `burst` consecutive ones, int64 [F].

    Runs begin at the published choice of num / burst frames, and earlier where the clip ends first;
    frames repeat in a clip shorter than a run. With a burst of 1 this is `frame_indices`, whose
    arguments and errors it has.
    """
    starts = frame_indices(num_frames_in_clip, fps, num // burst, bound)
    starts = np.maximum(0, np.minimum(starts, num_frames_in_clip - burst))
    places = starts[:, None] + np.arange(burst)
    return np.minimum(places, num_frames_in_clip - 1).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Places:
    """Which frames one stretch of a clip, or the whole of it, is shown by."""

    frames: np.ndarray
    """int64 [F]."""
    extras: np.ndarray
    """int64 [D]."""
    moments: np.ndarray
    """int64 [M]: the frame behind each column of the slices; empty without slices."""

    @classmethod
    def of(cls, frames: np.ndarray, start: int, end: int, request: FrameRequest) -> Places:
        """Those of the frames `start` to `end` - 1, of which `frames` were chosen."""
        moments = np.empty(0, np.int64)
        if request.num_slices:
            moments = slice_moments(start, end, request.image_size, request.fragment_size).ravel()
        return cls(frames, frames[extra_slots(request.num_frames, request.num_extras)], moments)


def choose_places(num_frames_in_clip: int, fps: float, request: FrameRequest) -> list[Places]:
    """What a request asks for, stretch by stretch: the published choice of frames, in runs where
    bursts are asked for. Arguments and errors are those of `burst_indices`."""
    chosen = []
    for bound in request.bounds or (request.bound,):
        frames = burst_indices(num_frames_in_clip, fps, request.num_frames, request.burst, bound)
        start, last = _span(num_frames_in_clip, fps, bound)
        chosen.append(Places.of(frames, start, last + 1, request))
    return chosen


def still_places(request: FrameRequest) -> list[Places]:
    """What a request asks for of a clip with one frame."""
    frames = np.zeros(request.num_frames, np.int64)
    return [Places.of(frames, 0, 1, request)] * request.num_stretches


class FrameCollector:
    """Gathers the images asked for while a decoder walks through a clip.

    `frames` holds the I images of each stretch, one stretch after the other.

    Args:
      stretches: which frames are looked at.
      request: what is made of them.
    """

    def __init__(self, stretches: Sequence[Places], request: FrameRequest):
        self.request = request
        self.indices = np.concatenate([places.frames for places in stretches])
        size = request.image_size
        self.frames = np.empty((len(stretches) * request.num_images, size, size, 3), np.uint8)
        self.missing: set[int] = set()
        for places in stretches:
            for wanted in (places.frames, places.extras, places.moments):
                self.missing.update(wanted.tolist())
        self._stretches = stretches

    def wants(self, index: int) -> bool:
        """Whether the frame at this place was asked for and has not come yet."""
        return index in self.missing

    def add(self, index: int, frame: np.ndarray) -> None:
        """Takes the frame uint8 [H, W, 3] at one place, for every slot that shows it."""
        request = self.request
        (other,) = set(VIEWS) - {request.view}
        num_still = request.num_frames + request.num_extras
        images = self.frames.reshape(len(self._stretches), -1, *self.frames.shape[1:])
        for shown, places in zip(images, self._stretches, strict=True):
            is_frame, is_extra = places.frames == index, places.extras == index
            if is_frame.any():
                shown[: request.num_frames][is_frame] = self._show(frame, request.view)
            if is_extra.any():
                shown[request.num_frames : num_still][is_extra] = self._show(frame, other)
            columns = np.flatnonzero(places.moments == index)
            if len(columns):
                shown[num_still:, :, columns] = self._lines(frame)
        self.missing.discard(index)

    def _lines(self, frame: np.ndarray) -> np.ndarray:
        size, fragment = self.request.image_size, self.request.fragment_size
        shown = lines(frame, self.request.num_slices, size // fragment, fragment)
        return shown.reshape(len(shown), size, 1, 3)

    def _show(self, frame: np.ndarray, view: str) -> np.ndarray:
        size = self.request.image_size
        if view == "fragments":
            return fragments(frame, size, self.request.fragment_size)
        return resize_square(frame, size)


def split_clip(clip: Clip, request: FrameRequest) -> list[Clip]:
    """The clips of the stretches that were read in one walk, each as if read alone."""
    images = clip.frames.reshape(request.num_stretches, -1, *clip.frames.shape[1:])
    indices = clip.indices.reshape(request.num_stretches, -1)
    return [
        dataclasses.replace(clip, frames=shown, indices=places)
        for shown, places in zip(images, indices, strict=True)
    ]
