"""What every page shares: its templates, its policy, and how it is written."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import os
import re
from pathlib import Path

import jinja2

from vqathinker_jax.data.clip import printable
from vqathinker_jax.whole_file import write_whole

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class ReportError(ValueError):
    """A page that cannot be written; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A headline number."""

    title: str
    value: str
    note: str


def environment(package: str, folder: str = "templates") -> jinja2.Environment:
    """Templates of a package, and those that pages share; every value is escaped.

    Args:
      package: dotted name.
      folder: inside the package; empty: the package's own.
    """
    loaders = [jinja2.PackageLoader(package, folder)]
    if package != "vqathinker_jax.reports":
        loaders.append(jinja2.PackageLoader("vqathinker_jax.reports", "templates"))
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["decimals"] = decimals
    found.filters["count"] = "{:,}".format
    return found


def decimals(value: float | None, places: int = 2) -> str:
    """A number with so many decimals, or a dash where there is none.

    >>> decimals(0.25), decimals(-0.123, 3), decimals(-0.001), decimals(None)
    ('0.25', '−0.123', '0.00', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    shown = f"{value:.{places}f}"
    if float(shown) == 0:
        return shown.removeprefix("-")
    return "−" + shown[1:] if shown.startswith("-") else shown


def script_hashes(page: str) -> str:
    """Sources for `script-src` that allow the scripts inside a page and no others.

    >>> script_hashes("<p>no script</p>")
    "'none'"
    """
    hashes = [
        base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        for body in _SCRIPT.findall(page)
    ]
    return " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"


def check_writable(path: Path) -> None:
    """Says early, before minutes of work, that a page cannot be written there.

    Raises:
      ReportError: it does not end in .html, is a folder, or its folder cannot be written to.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"{path}: a report must end in .html")
    if path.is_dir():
        raise ReportError(f"{path}: is a folder, not a file")
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise ReportError(f"{path}: cannot write: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ReportError(f"{path}: cannot write: Permission denied")


def write_page(page: str, path: Path) -> None:
    """Writes a page in one step: a reader sees the old one or the new one, whole.

    Raises:
      ReportError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Lone surrogates of undecodable file names have no encoding.
        write_whole(path, page, errors="replace")
    except OSError as error:
        raise ReportError(f"{path}: cannot write: {error.strerror}") from None


def legible(text: str) -> str:
    """A text of several lines without control characters."""
    return "\n".join(printable(line.expandtabs(2)) for line in text.splitlines())


def shown_setting(value: object) -> str:
    """A setting as it is written."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
