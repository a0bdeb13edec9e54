"""The geometry a video is seen in: how many images, how large, and how SlowFast reads them."""

from __future__ import annotations

import dataclasses

VIEWS = ("squashed", "fragments")
"""How a frame becomes a square image."""
MAY_BE_ZERO = ("num_extras", "num_slices")


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """How a clip is sampled and how its motion pathway is laid out.

    Defaults are the published inference geometry; `TRAINING` is the published training geometry.
    The pooling windows of SlowFast belong to the weights and live in `SlowFastConfig`.

    The model is shown I = F + D + L images: the frames in one view, after them extras in the other,
    and last slices through space and time (`data.slices`).
    Squashed to a square, a frame is seen whole, but compression, noise and small blur vanish; as a
    mosaic of native pixels (`data.fragments`) it keeps them. SlowFast sees the frames only.

    Raises:
      ValueError: an unknown view, a count below one (zero for extras and slices), fewer frames than
        the slow pathway needs, frames that bursts do not divide, more extras than frames, an odd
        number of slices, or images that fragments do not fill.
    """

    num_frames: int = 12
    """F: frames sampled from the clip."""
    image_size: int = 560
    """S: side in pixels of the square every frame is resized to."""
    slow_divisor: int = 4
    """The slow pathway sees `num_frames // slow_divisor` frames."""
    motion_repeat: int = 4
    """Times each temporal position of both feature maps is repeated before pooling."""
    num_extras: int = 0
    """D: images in the other view, shown after the frames."""
    fragment_size: int = 28
    """Side in pixels of a fragment; 28 is one visual token (patch 14, pixel shuffle by 2)."""
    view: str = "squashed"
    """How frames are shown: `squashed`, as published, or as mosaics of `fragments`."""
    burst: int = 1
    """Frames come in runs of so many consecutive ones. SlowFast sees them all, the tower the first
    of each run: lost, repeated and shaking frames show between neighbours only."""
    num_slices: int = 0
    """L: images of what lines of pixels show from frame to frame, half of them along rows and half
    along columns: freezes, lost or shuffled frames and shaking show in them."""
    has_motion: bool = True
    """Whether the prompt ends with the motion token. Without it SlowFast does not run, and
    `slow_divisor` and `motion_repeat` say nothing."""

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"VideoSpec.view must be one of {VIEWS}, got {self.view!r}")
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), int(field.name not in MAY_BE_ZERO)
            if field.name in ("view", "has_motion"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"VideoSpec.{field.name} must be an integer >= {least}, got {value!r}"
                )
        if not isinstance(self.has_motion, bool):
            raise ValueError(f"VideoSpec.has_motion must be true or false, got {self.has_motion!r}")
        if self.has_motion and self.num_frames < self.slow_divisor:
            raise ValueError(
                f"VideoSpec: num_frames={self.num_frames} is less than "
                f"slow_divisor={self.slow_divisor}: the slow pathway would see no frame"
            )
        if self.num_frames % self.burst:
            raise ValueError(
                f"VideoSpec: num_frames={self.num_frames} is not a multiple of burst={self.burst}"
            )
        if self.num_extras > self.num_frames:
            raise ValueError(
                f"VideoSpec: num_extras={self.num_extras} is more than "
                f"num_frames={self.num_frames}: each extra is made from a frame of its own"
            )
        if self.num_slices % 2:
            raise ValueError(f"VideoSpec: num_slices={self.num_slices} must be even")
        if self.has_cells and self.image_size % self.fragment_size:
            raise ValueError(
                f"VideoSpec: image_size={self.image_size} is not a multiple of "
                f"fragment_size={self.fragment_size}, of which mosaics and slices are made"
            )

    @property
    def num_images(self) -> int:
        """I = F + D + L: the frames, the extras, the slices."""
        return self.num_frames + self.num_views

    @property
    def num_views(self) -> int:
        """D + L: images beside the frames."""
        return self.num_extras + self.num_slices

    @property
    def num_shown(self) -> int:
        """Frames that the tower sees, and the prompt counts: one of each burst."""
        return self.num_frames // self.burst

    @property
    def has_cells(self) -> bool:
        """Whether any image is made of cells of `fragment_size`: mosaics and slices are."""
        return self.num_views > 0 or self.view == "fragments"


INFERENCE = VideoSpec()
"""Published inference geometry: 12 frames, 560 px, slow pathway T // 4, repeat 4."""

TRAINING = VideoSpec(num_frames=6, image_size=448, slow_divisor=3, motion_repeat=6)
"""Published training geometry: 6 frames, 448 px, slow pathway T // 3, repeat 6."""

VIDEO_SPECS = {"inference": INFERENCE, "training": TRAINING}
