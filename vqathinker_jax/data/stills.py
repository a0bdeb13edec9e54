"""Still images, shown as a video of one frame."""

from __future__ import annotations

import os
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from vqathinker_jax.data.clip import Clip, FrameRequest, Limits, VideoError, VideoFacts
from vqathinker_jax.data.frames import FrameCollector, still_places

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
MOTION_JPEG_SUFFIXES = (".mjpg", ".mjpeg")
"""A raw Motion-JPEG stream begins like a JPEG file; its name tells them apart."""


def is_still(path: str, head: bytes) -> bool:
    """Whether the first bytes of a file are those of a still image.

    A GIF is not one: it is read as the video it may be.
    """
    if os.path.splitext(path)[1].lower() in MOTION_JPEG_SUFFIXES:
        return False
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def decode_still(path: str, request: FrameRequest, limits: Limits) -> Clip:
    """Reads a PNG, JPEG, WebP or BMP image (the first picture of an animated one), upright.

    Transparency is dropped and 16-bit values lose their low byte. Every frame of the clip is the
    image, and every index 0.

    Raises:
      VideoError: a damaged image, or one with too many pixels.
    """
    frame, codec, mode = read_still(path, limits)
    collector = FrameCollector(still_places(request), request)
    collector.add(0, frame)
    facts = VideoFacts(
        codec=codec,
        pixel_format=mode,
        width=frame.shape[1],
        height=frame.shape[0],
        fps=0.0,
        num_frames=1,
        rotation=0,
        bit_depth=16 if mode.startswith("I") else 8,
        duration=0.0,
        transfer="sdr",
        container="image",
        file_bytes=os.stat(path).st_size,
        decoder="pillow",
    )
    warning = "a still image: shown to the model as a video in which nothing moves"
    return Clip(collector.frames, collector.indices, facts, (warning,))


def read_still(path: str, limits: Limits) -> tuple[UInt8[np.ndarray, "H W 3"], str, str]:
    """The pixels of an image, upright, RGB; its format and Pillow's mode of it.

    Raises:
      VideoError: a damaged image, or one with too many pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; our own limit decides instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                limits.check_size(path, *image.size)
                codec, mode = (image.format or "image").lower(), image.mode
                return _to_rgb(ImageOps.exif_transpose(image)), codec, mode
    except Image.DecompressionBombError:
        raise VideoError.of(path, f"the image has more than {limits.frame_pixels} pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError.of(path, f"the image is damaged or cut short ({_reason(error)})") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
