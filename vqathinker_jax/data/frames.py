"""Which frames of a clip the model sees, and gathering them while a clip is decoded."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vqathinker_jax.data.clip import Clip, FrameRequest
from vqathinker_jax.data.fragments import extra_slots, fragments
from vqathinker_jax.data.resize import resize_square
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
    step = float(end - start) / num
    return np.array(
        [int(start + step / 2 + np.round(step * i)) for i in range(num)], dtype=np.int64
    )


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


def choose_indices(num_frames_in_clip: int, fps: float, request: FrameRequest) -> np.ndarray:
    """The places that a request asks for, int64 [B F]; arguments and errors of `burst_indices`."""
    return np.concatenate(
        [
            burst_indices(num_frames_in_clip, fps, request.num_frames, request.burst, bound)
            for bound in request.bounds or (request.bound,)
        ]
    )


class FrameCollector:
    """Gathers the images asked for, frames and extras, while a decoder walks through a clip.

    Args:
      indices: int64 [B F], from `choose_indices`.
      request: what is made of these frames.
    """

    def __init__(self, indices: np.ndarray, request: FrameRequest):
        self.indices = indices
        size, stretches = request.image_size, request.num_stretches
        slots = extra_slots(request.num_frames, request.num_extras)
        self._extra_indices = indices.reshape(stretches, -1)[:, slots].reshape(-1)
        count = len(indices) + len(self._extra_indices)
        self.frames = np.empty((count, size, size, 3), np.uint8)
        self.missing: set[int] = set(indices.tolist())
        self.request = request

    def wants(self, index: int) -> bool:
        """Whether the frame at this place was asked for and has not come yet."""
        return index in self.missing

    def add(self, index: int, frame: np.ndarray) -> None:
        """Takes the frame uint8 [H, W, 3] at one place, for every slot that shows it."""
        num_frames, view = len(self.indices), self.request.view
        self.frames[:num_frames][self.indices == index] = self._show(frame, view)
        is_extra = self._extra_indices == index
        if is_extra.any():
            (other,) = set(VIEWS) - {view}
            self.frames[num_frames:][is_extra] = self._show(frame, other)
        self.missing.discard(index)

    def _show(self, frame: np.ndarray, view: str) -> np.ndarray:
        size = self.request.image_size
        if view == "fragments":
            return fragments(frame, size, self.request.fragment_size)
        return resize_square(frame, size)


def split_clip(clip: Clip, request: FrameRequest) -> list[Clip]:
    """The clips of the stretches that were read in one walk, each as if read alone."""
    stretches, frames, extras = request.num_stretches, request.num_frames, request.num_extras
    size = clip.frames.shape[1:]
    images = clip.frames[: stretches * frames].reshape(stretches, frames, *size)
    others = clip.frames[stretches * frames :].reshape(stretches, extras, *size)
    return [
        dataclasses.replace(clip, frames=np.concatenate([shown, other]), indices=indices)
        for shown, other, indices in zip(
            images, others, clip.indices.reshape(stretches, frames), strict=True
        )
    ]
