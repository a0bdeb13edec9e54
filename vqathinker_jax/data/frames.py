"""Which frames of a clip the model sees, and gathering them while a clip is decoded."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vqathinker_jax.data.clip import FrameRequest
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
    """Which frames of a clip are looked at."""

    frames: np.ndarray
    """int64 [F]."""
    moments: np.ndarray
    """int64 [g, f]: the stretches of frames that slices show; empty without slices."""

    @classmethod
    def choose(cls, num_frames_in_clip: int, fps: float, request: FrameRequest) -> Places:
        """The published choice of frames, in runs where the request asks for bursts.

        Raises:
          ValueError: as `frame_indices`.
        """
        frames = burst_indices(
            num_frames_in_clip, fps, request.num_frames, request.burst, request.bound
        )
        start, end = _span(num_frames_in_clip, fps, request.bound)
        return cls(frames, _moments(start, end + 1, request))

    @classmethod
    def of_still(cls, request: FrameRequest) -> Places:
        """Those of a clip with one frame."""
        return cls(np.zeros(request.num_frames, np.int64), _moments(0, 1, request))

    @property
    def all(self) -> np.ndarray:
        """int64: every frame that is looked at, once, in order."""
        return np.unique(np.concatenate([self.frames, self.moments.ravel()]))


def _moments(start: int, end: int, request: FrameRequest) -> np.ndarray:
    if not request.num_slices:
        return np.empty((0, 0), np.int64)
    return slice_moments(start, end, request.image_size, request.fragment_size)


class FrameCollector:
    """Gathers the images asked for while a decoder walks through a clip.

    Args:
      places: which frames are looked at.
      request: what is made of them.
    """

    def __init__(self, places: Places, request: FrameRequest):
        self.indices = places.frames
        size = request.image_size
        self.frames = np.empty((request.num_images, size, size, 3), np.uint8)
        self.missing: set[int] = set(places.all.tolist())
        self._request = request
        self._extra_indices = self.indices[extra_slots(len(self.indices), request.num_extras)]
        self._moments = places.moments.ravel()

    def wants(self, index: int) -> bool:
        """Whether the frame at this place was asked for and has not come yet."""
        return index in self.missing

    def add(self, index: int, frame: np.ndarray) -> None:
        """Takes the frame uint8 [H, W, 3] at one place, for every slot that shows it."""
        num_frames, view = len(self.indices), self._request.view
        num_still = num_frames + self._request.num_extras
        is_frame, is_extra = self.indices == index, self._extra_indices == index
        if is_frame.any():
            self.frames[:num_frames][is_frame] = self._show(frame, view)
        if is_extra.any():
            (other,) = set(VIEWS) - {view}
            self.frames[num_frames:num_still][is_extra] = self._show(frame, other)
        is_moment = self._moments == index
        if is_moment.any():
            self._add_lines(frame, np.flatnonzero(is_moment), self.frames[num_still:])
        self.missing.discard(index)

    def _add_lines(self, frame: np.ndarray, columns: np.ndarray, slices: np.ndarray) -> None:
        size, fragment = self._request.image_size, self._request.fragment_size
        shown = lines(frame, self._request.num_slices, size // fragment, fragment)
        slices[:, :, columns] = shown.reshape(len(slices), size, 1, 3)

    def _show(self, frame: np.ndarray, view: str) -> np.ndarray:
        size = self._request.image_size
        if view == "fragments":
            return fragments(frame, size, self._request.fragment_size)
        return resize_square(frame, size)
