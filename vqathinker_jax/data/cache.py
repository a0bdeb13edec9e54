"""Decoded images on disk, so that a clip that is read again and again is decoded once."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vqathinker_jax.data.clip import FrameRequest

LOG = logging.getLogger(__name__)

VERSION = 1
"""Part of every name; to be raised when the decoders give other images than before."""


class CacheError(OSError):
    """The folder of a cache cannot be used; one line that says which and why."""


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What a `.npy` file of uint8 numbers in C order begins with."""
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


class FrameCache:
    """A folder with the images of clips, one `.npy` file each, in front of a reader.

    A file's name is a digest of the clip's path, size and time of change, of the decoder and of the
    request: whatever of them changes, the clip is decoded anew, and the file of before stays until
    somebody deletes it. Files are written under another name first, so that several processes may
    share a folder. One that is damaged is logged, decoded anew and replaced; changed pixels behind
    a sound header are not noticed. Clips that cannot be read are not kept.

    A disk that fills up does not end the run: it is logged once, and clips are read without being
    kept from then on.

    >>> cache = FrameCache("frames", FrameRequest(6, 448), "pyav", decode)  # doctest: +SKIP
    >>> frames = cache.read("clip.mp4")  # doctest: +SKIP

    Args:
      folder: made where it is missing.
      request: what `read` asks of every clip.
      decoder: the decoder that `read` uses.
      read: from a path to uint8 images [I, S, S, 3]; may be called from several threads.

    Raises:
      CacheError: the folder cannot be made or written to.
    """

    def __init__(
        self,
        folder: os.PathLike | str,
        request: FrameRequest,
        decoder: str,
        read: Callable[[str], UInt8[np.ndarray, "I S S 3"]],
    ):
        self._folder = Path(folder)
        self._request = dataclasses.asdict(request)
        # Several stretches are never cached, and caches of before know nothing of them.
        if self._request.pop("bounds"):
            raise ValueError("a cache holds whole clips, not several stretches of them")
        size = request.image_size
        self._shape = (request.num_images, size, size, 3)
        self._header = npy_header(self._shape)
        self._decoder = decoder
        self._read = read
        self._is_writing = True
        trial = self._temporary()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            trial.write_bytes(b"")
            trial.unlink()
        except OSError as error:
            raise CacheError(
                f"{folder}: cannot be written to as a cache of frames ({error.strerror})"
            ) from None

    def read(self, path: str) -> UInt8[np.ndarray, "I S S 3"]:
        """The images of a clip, from its file here, or decoded and kept.

        Raises:
          VideoError: as the reader behind this cache.
        """
        kept = self._kept(path)
        if kept is None:
            return self._read(path)
        frames = self._load(kept, path)
        if frames is None:
            frames = self._read(path)
            self._save(kept, frames)
        return frames

    def _kept(self, path: str) -> Path | None:
        """Where a clip's images are kept; None: there is no such clip, which its reader reports."""
        try:
            facts = os.stat(path)
        except (OSError, ValueError):
            return None
        identity = {
            "version": VERSION,
            "path": os.fsencode(os.path.abspath(path)).hex(),
            "size": facts.st_size,
            "mtime_ns": facts.st_mtime_ns,
            "decoder": self._decoder,
            "request": self._request,
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.npy"

    def _load(self, kept: Path, path: str) -> UInt8[np.ndarray, "I S S 3"] | None:
        # The one header that can be right is compared, not parsed: NumPy evaluates headers as
        # Python, which fails now and then where several threads do so at once (CPython 3.11), and a
        # damaged one could claim an array of any size.
        num = math.prod(self._shape)
        try:
            with open(kept, "rb") as file:
                header, pixels = file.read(len(self._header)), np.fromfile(file, np.uint8, num + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            LOG.warning("%s: damaged (%s), decoding %s anew", kept, error, path)
            return None
        if header != self._header or pixels.size != num:
            LOG.warning(
                "%s: damaged (no uint8 %s), decoding %s anew", kept, list(self._shape), path
            )
            return None
        return pixels.reshape(self._shape)

    def _save(self, kept: Path, frames: UInt8[np.ndarray, "I S S 3"]) -> None:
        if not self._is_writing:
            return
        temporary = self._temporary()
        try:
            with open(temporary, "xb") as file:
                file.write(self._header)
                np.ascontiguousarray(frames, np.uint8).tofile(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, kept)
        except OSError as error:
            if self._is_writing:
                self._is_writing = False
                LOG.warning(
                    "%s: no more frames are kept, clips are decoded every time (%s)",
                    *(self._folder, error.strerror),
                )
            temporary.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self._folder / f".{uuid.uuid4().hex}.tmp"
