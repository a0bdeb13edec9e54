"""Files that people upload: written under random names, judged, and deleted."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from vqathinker_jax.app.limits import Limits
from vqathinker_jax.data.clip import printable
from vqathinker_jax.data.sources import VIDEO_SUFFIXES
from vqathinker_jax.data.stills import is_still
from vqathinker_jax.data.video import PLAYLISTS

CHUNK_BYTES = 1 << 18
HEAD_BYTES = 16
"""What tells a list of other files, or a still image, from a video."""
LONGEST_NAME = 120
PREFIX = "vqathinker-app-"


class Refused(Exception):
    """A request that is not served.

    Args:
      status: of HTTP.
      reason: one line for the person.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Uploads:
    """A folder of this process alone; nothing in it outlives the process's orderly end."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))

    def receive(self, name: str, length: int, body: io.BufferedIOBase) -> Path:
        """Writes an upload to a file of a random name.

        Args:
          name: what the person calls it; only its suffix is used.
          length: bytes that `body` has to give.
          body: the upload.

        Raises:
          Refused: it is no video by its name or its first bytes, empty, too large, too slow, or cut
            short; nothing is left of it.
        """
        suffix = check_upload(name, length, self._limits)
        path = self.folder / f"{secrets.token_hex(16)}{suffix}"
        end = time.monotonic() + self._limits.upload_s
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                head = body.read(min(HEAD_BYTES, length))
                check_head(path, head)
                file.write(head)
                left = length - len(head)
                while left:
                    # Not `read`, which would wait for the whole chunk whatever the time.
                    data = body.read1(min(CHUNK_BYTES, left))
                    if not data:
                        raise Refused(400, "the upload was cut short")
                    if time.monotonic() > end:
                        limit = f"{self._limits.upload_s:g} s"
                        raise Refused(408, f"the upload took longer than {limit}")
                    file.write(data)
                    left -= len(data)
        except OSError as error:
            self.delete(path)
            if isinstance(error, TimeoutError | ConnectionError):
                raise Refused(408, "the upload stopped coming") from None
            raise Refused(507, f"the upload cannot be kept ({error.strerror})") from None
        except Refused:
            self.delete(path)
            raise
        return path

    def delete(self, path: Path) -> None:
        """Removes an upload; nothing happens where it is gone."""
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_upload(name: str, length: int, limits: Limits) -> str:
    """The suffix of a file that may come.

    Raises:
      Refused: its name is not a video's, it is empty, or too large.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in VIDEO_SUFFIXES:
        kind = f"“{suffix}”" if suffix.isascii() and 1 < len(suffix) < 9 else "its name"
        raise Refused(415, f"{kind} is not the ending of a video file (mp4, mov, mkv, webm, …)")
    if length < 1:
        raise Refused(400, "the file is empty (0 bytes)")
    if length > limits.upload_bytes:
        raise Refused(
            413,
            f"the file has {shown_bytes(length)}; at most {shown_bytes(limits.upload_bytes)} are "
            "taken",
        )
    return suffix


def check_head(path: Path, head: bytes) -> None:
    """Raises Refused where the first bytes are those of something else than a video."""
    if head.startswith(PLAYLISTS):
        raise Refused(415, "it is a list of other files, not a video")
    if is_still(str(path), head):
        raise Refused(415, "it is a still image, not a video")


def shown_bytes(count: int) -> str:
    """A size as a person reads it.

    >>> shown_bytes(512 * 2**20), shown_bytes(1500)
    ('512 MiB', '1.46 KiB')
    """
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def shown_name(name: str) -> str:
    """What a file is called on the page: the last part of its name, on one line, not too long."""
    last = printable(name.replace("\\", "/").rpartition("/")[2]) or "video"
    if len(last) <= LONGEST_NAME:
        return last
    return last[: LONGEST_NAME // 2] + "…" + last[-LONGEST_NAME // 2 :]
