"""Pixels of a decoded frame as the networks expect them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vqathinker_jax.spec import VideoSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Red, green, blue, of values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_pixels(frames: UInt8[Array, "*B S S 3"]) -> Float[Array, "*B S S 3"]:
    """`(frames / 255 - mean) / std` per colour channel, in float32.

    Computed as `(frames - 255 mean) * (1 / (255 std))`, which is rounded twice only: closer to the
    formula than torchvision's three float32 steps, and within 5e-7 of them. Both the vision tower
    and SlowFast take the result.

    Args:
      frames: RGB, 0 to 255.

    Raises:
      TypeError: the frames are not uint8.
      ValueError: the last axis is not three channels.

    Source: `build_transform` of the published `test/single_infer.py`.
    """
    if frames.dtype != jnp.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    if frames.shape[-1] != 3:
        raise ValueError(f"frames must have three channels last, got shape {frames.shape}")
    # XLA would turn divisions by constants into multiplications by their rounded reciprocals; the
    # constants are therefore folded here, in double precision.
    centre = np.float32(255 * np.array(IMAGENET_MEAN))
    scale = np.float32(1 / (255 * np.array(IMAGENET_STD)))
    return (jnp.asarray(frames).astype(jnp.float32) - centre) * scale


def shown_images(pixels: Float[Array, "N I S S 3"], video: VideoSpec) -> Float[Array, "N J S S 3"]:
    """The images that the tower sees: the first frame of every burst, then the extras
    and the slices."""
    if video.burst == 1:
        return pixels
    frames = pixels[:, : video.num_frames : video.burst]
    return jnp.concatenate([frames, pixels[:, video.num_frames :]], axis=1)
