"""Writing a file in one step: a reader sees the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "surrogateescape") -> None:
    """Writes a text as UTF-8 into a folder that is there.

    Args:
      path: of the file; replaced where it exists.
      text: all of it.
      errors: what becomes of lone surrogates, which undecodable file names hold: bytes as they
        were, or as `str.encode` has it.

    Raises:
      OSError, UnicodeError: it cannot be written; the old file stays and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors=errors, newline="")
        os.replace(partial, path)
    except (OSError, UnicodeError):
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
