"""The geometry a video is seen in: how many frames, how large, and how SlowFast reads them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """How a clip is sampled and how its motion pathway is laid out.

    Defaults are the published inference geometry; `TRAINING` is the published training geometry.
    The pooling windows of SlowFast belong to the weights and live in `SlowFastConfig`.

    Raises:
      ValueError: a count below one, or fewer frames than the slow pathway needs.
    """

    num_frames: int = 12
    """F: frames sampled from the clip."""
    image_size: int = 560
    """S: side in pixels of the square every frame is resized to."""
    slow_divisor: int = 4
    """The slow pathway sees `num_frames // slow_divisor` frames."""
    motion_repeat: int = 4
    """Times each temporal position of both feature maps is repeated before pooling."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"VideoSpec.{field.name} must be an integer >= 1, got {value!r}")
        if self.num_frames < self.slow_divisor:
            raise ValueError(
                f"VideoSpec: num_frames={self.num_frames} is less than "
                f"slow_divisor={self.slow_divisor}: the slow pathway would see no frame"
            )


INFERENCE = VideoSpec()
"""Published inference geometry: 12 frames, 560 px, slow pathway T // 4, repeat 4."""

TRAINING = VideoSpec(num_frames=6, image_size=448, slow_divisor=3, motion_repeat=6)
"""Published training geometry: 6 frames, 448 px, slow pathway T // 3, repeat 6."""

VIDEO_SPECS = {"inference": INFERENCE, "training": TRAINING}
