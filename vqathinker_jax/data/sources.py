"""The files meant by what a person named: files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqathinker_jax.data.clip import ADDRESS

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .flv .gif .h264 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv "
    ".mov .mp4 .mpeg .mpg .mts .mxf .nut .obu .ogg .ogv .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .webp".split())
LIST_SUFFIX = ".txt"


def expand_sources(sources: Sequence[os.PathLike | str]) -> list[str]:
    """Turns what was named into files, in order and each once.

    A folder gives the videos and images below it, sorted, without hidden ones. A `.txt` file is a
    list: one path, folder or pattern a line, relative to the list; blank lines and lines that begin
    with `#` are skipped. A name that does not exist but holds `*`, `?` or `[` is a pattern (`**`
    goes through folders). Anything else is kept as it is, a missing file or a pattern that matches
    nothing included, so that it is reported with the others.

    Raises:
      ValueError: a list that names a list, or cannot be read.
    """
    found: dict[str, str] = {}
    for source in sources:
        for path in _expand(os.fsdecode(source), is_inside_list=False):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(name: str, is_inside_list: bool) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _media_below(name)
    elif name.lower().endswith(LIST_SUFFIX) and os.path.isfile(name):
        if is_inside_list:
            raise ValueError(f"{ascii(name)[1:-1]}: a list of files must not name another list")
        for line in _lines(name):
            if not ADDRESS.match(line):
                line = os.path.join(os.path.dirname(name), line)
            yield from _expand(line, is_inside_list=True)
    elif not os.path.lexists(name) and glob.has_magic(name):
        for match in sorted(glob.glob(name, recursive=True)) or [name]:
            if os.path.isdir(match):
                # `**` matches folders as well as what is in them.
                yield from _media_below(match)
            else:
                yield match
    else:
        yield name


def _media_below(folder: str) -> Iterator[str]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and is_media(name):
                yield os.path.join(directory, name)


def is_media(name: str) -> bool:
    """Whether a file name ends like a video or a still image."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _lines(path: str) -> list[str]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{ascii(path)[1:-1]}: cannot be read ({error.strerror})") from None
    lines = (line.rstrip(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [os.fsdecode(line) for line in lines if line.strip() and not line.startswith(b"#")]
