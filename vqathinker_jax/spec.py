"""The geometry a video is seen in: how many images, how large, and how SlowFast reads them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """How a clip is sampled and how its motion pathway is laid out.

    Defaults are the published inference geometry; `TRAINING` is the published training geometry.
    The pooling windows of SlowFast belong to the weights and live in `SlowFastConfig`.

    The model is shown I = F + D images: whole frames squashed to a square, which hides compression,
    noise and small blur, and after them mosaics of native pixels, which do not
    (`data.fragments`).

    Raises:
      ValueError: a count below one (zero for `num_details`), fewer frames than the slow pathway
        needs, more details than frames, or images that fragments do not fill.
    """

    num_frames: int = 12
    """F: frames sampled from the clip."""
    image_size: int = 560
    """S: side in pixels of the square every frame is resized to."""
    slow_divisor: int = 4
    """The slow pathway sees `num_frames // slow_divisor` frames."""
    motion_repeat: int = 4
    """Times each temporal position of both feature maps is repeated before pooling."""
    num_details: int = 0
    """D: mosaics of unscaled fragments shown after the frames."""
    fragment_size: int = 28
    """Side in pixels of a fragment; 28 is one visual token (patch 14, pixel shuffle by 2)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "num_details" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"VideoSpec.{field.name} must be an integer >= {least}, got {value!r}"
                )
        if self.num_frames < self.slow_divisor:
            raise ValueError(
                f"VideoSpec: num_frames={self.num_frames} is less than "
                f"slow_divisor={self.slow_divisor}: the slow pathway would see no frame"
            )
        if self.num_details > self.num_frames:
            raise ValueError(
                f"VideoSpec: num_details={self.num_details} is more than "
                f"num_frames={self.num_frames}: each detail is made from a frame of its own"
            )
        if self.num_details and self.image_size % self.fragment_size:
            raise ValueError(
                f"VideoSpec: image_size={self.image_size} is not a multiple of "
                f"fragment_size={self.fragment_size}, of which details are made"
            )

    @property
    def num_images(self) -> int:
        """I = F + D: the frames, then the details."""
        return self.num_frames + self.num_details


INFERENCE = VideoSpec()
"""Published inference geometry: 12 frames, 560 px, slow pathway T // 4, repeat 4."""

TRAINING = VideoSpec(num_frames=6, image_size=448, slow_divisor=3, motion_repeat=6)
"""Published training geometry: 6 frames, 448 px, slow pathway T // 3, repeat 6."""

VIDEO_SPECS = {"inference": INFERENCE, "training": TRAINING}
