"""From a file to the frames that the model sees."""

from __future__ import annotations

import os
import stat

from vqathinker_jax.data.clip import (
    ADDRESS,
    Clip,
    Decoder,
    FrameRequest,
    Limits,
    VideoError,
    VideoFacts,
)
from vqathinker_jax.data.stills import decode_still, is_still

__all__ = ["DECODERS", "Clip", "FrameRequest", "Limits", "VideoError", "VideoFacts", "read_clip"]

DECODERS = ("pyav", "decord")

PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0\r", b"v=0\n")
"""First bytes of lists and session descriptions that name other files and addresses."""


def read_clip(
    path: os.PathLike | str,
    request: FrameRequest,
    *,
    decoder: str = "pyav",
    limits: Limits | None = None,
) -> Clip:
    """Reads the images of a video or still image that the model sees.

    >>> clip = read_clip("clip.mp4", FrameRequest(12, 560))  # doctest: +SKIP
    >>> clip.frames.shape, clip.facts.codec  # doctest: +SKIP
    ((12, 560, 560, 3), 'h264')

    Args:
      path: a regular file; undecodable bytes of its name are surrogate escapes.
      request: which frames, and how they are shown; `FrameRequest.of` a geometry.
      decoder: `pyav`, or `decord`, which the published scores were made with.
      limits: time, size and threads; None: `Limits()`.

    Returns:
      Images uint8 [I, S, S, 3] with the frames' indices, facts and warnings.

    Raises:
      VideoError: the file cannot be scored; one line that says why.
      ValueError: an unknown decoder.
    """
    limits = limits or Limits()
    decode = _decoder(decoder)
    name = os.fsdecode(path)
    head = _first_bytes(name)
    if is_still(name, head):
        return decode_still(name, request, limits)
    if head.startswith(PLAYLISTS):
        raise VideoError.of(
            name, "is a list of other files, not a video; name the files themselves"
        )
    return decode(name, request, limits)


def _decoder(name: str) -> Decoder:
    match name:
        case "pyav":
            from vqathinker_jax.data.pyav import decode_with_pyav

            return decode_with_pyav
        case "decord":
            from vqathinker_jax.data.decord import decode_with_decord

            return decode_with_decord
    raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {name!r}")


def _first_bytes(path: str) -> bytes:
    """First bytes of a regular, readable, non-empty file.

    Raises:
      VideoError: anything else; a pipe or a device is never opened.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if ADDRESS.match(path):
            raise VideoError.of(path, "is an address; download it and name the file") from None
        if isinstance(error, FileNotFoundError):
            raise VideoError.of(path, "there is no such file") from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise VideoError.of(path, f"cannot be read ({reason})") from None
    if not stat.S_ISREG(mode):
        raise VideoError.of(path, f"is {_kind(mode)}, not a file")
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise VideoError.of(path, f"cannot be read ({error.strerror})") from None
    if not head:
        raise VideoError.of(path, "is empty (0 bytes)")
    return head


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")
