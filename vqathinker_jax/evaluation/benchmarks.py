"""The ten published benchmarks, and reading any benchmark's labels."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from pathlib import Path

from vqathinker_jax.data.labels import LabelError, LabelledVideo, Scale, read_labels

IN_DOMAIN, OOD, CUSTOM = "in-domain", "ood", "custom"

_ANY_SCALE = Scale(-1e300, 1e300)
"""Labels keep their own unit: agreement does not depend on it."""
MOST_SHOWN = 20
"""Rows that are left out, by number."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BenchmarkError(ValueError):
    """A benchmark that cannot be used as it was named; the message is for the user."""


@dataclasses.dataclass(frozen=True)
class PublishedBenchmark:
    """What is known of a published label file."""

    name: str
    domain: str
    num_videos: int
    sha256: str
    """Of the label file in the published repository."""


PUBLISHED = tuple(
    PublishedBenchmark(*facts)
    for facts in (
        (
            "LSVQ-test",
            IN_DOMAIN,
            7182,
            "e95369d75634da4117552cfbc0a58fb7c6d1eaef6826cab9407117f1ea79e39b",
        ),
        (
            "LSVQ-1080p",
            IN_DOMAIN,
            3573,
            "3b0e82401dabd0f8b2f8ff5cf759397c03d9d9717aacfc0da2f798fd6cd46115",
        ),
        (
            "KoNViD-1k",
            IN_DOMAIN,
            1200,
            "011bfed81cd4e699c29d7141fe77fe24556cf63057d1dd51805972a3435ff333",
        ),
        (
            "LIVE-VQC",
            IN_DOMAIN,
            585,
            "05e4a77a2df97e691cd36c1379dfa35f19e457ca7a8b39e4ec640d1c90d2bc20",
        ),
        (
            "YouTube-UGC",
            IN_DOMAIN,
            1020,
            "d085a7180e0b27a0156b83d1163f9d5edfcb34ae23904a90e4c827f52a960b7e",
        ),
        (
            "LIVE-YT-Gaming",
            OOD,
            600,
            "18677ffaee672d644ca2ec1bae3558d65c995d185a01db9d2eb0f9899ccd07c2",
        ),
        (
            "CGVDS",
            OOD,
            357,
            "967f676e54ad344feaa84fa4a4f7db04b1f1f79418938eb1204770a9f6f5b5c8",
        ),
        (
            "LIVE-YT-HFR",
            OOD,
            480,
            "2242c355d4feef11da7e2bb12e55197262fd0b57c5cd4307d82c94f658bb061d",
        ),
        (
            "Waterloo-IVC-4K",
            OOD,
            1200,
            "300df70985a93569e440759d51ce3705c29a0a0e71696cd4dd6c257bcf1ea2d1",
        ),
        (
            "VDPVE",
            OOD,
            839,
            "813b99d818390faf03d0df698f90dde4a24e72b76416d6f0b6c75ea92d192eca",
        ),
    )
)
"""In the order of the paper's table. The first five are the paper's in-domain benchmarks."""


@dataclasses.dataclass(frozen=True)
class BenchmarkSource:
    """A benchmark as the user names it: `NAME=LABELS.json:VIDEO_ROOT`."""

    name: str
    labels: Path
    root: Path | None
    """None: no videos are needed, predictions are given."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Labels that were read."""

    name: str
    domain: str
    videos: tuple[LabelledVideo, ...]
    """`id` as in the file, `path` under the video root, `score` in the file's own unit."""
    notes: tuple[str, ...]
    """What differs from the published file, and what was left out."""


def parse_source(text: str, needs_root: bool = True) -> BenchmarkSource:
    """Reads `NAME=LABELS.json:VIDEO_ROOT`.

    Args:
      text: as typed. Paths may hold colons: the split that names an existing label file wins.
      needs_root: whether `:VIDEO_ROOT` must be there.

    Raises:
      BenchmarkError: another form, or a name that cannot be a file's name.
    """
    name, equals, rest = text.partition("=")
    form = "NAME=LABELS.json:VIDEO_ROOT" if needs_root else "NAME=LABELS.json[:VIDEO_ROOT]"
    if not equals or not rest:
        raise BenchmarkError(f"{text!r} is not of the form {form}")
    if not _NAME.fullmatch(name):
        raise BenchmarkError(
            f"{name!r} cannot be the name of a benchmark: use letters, digits, -_."
        )
    if not needs_root and Path(rest).is_file():
        return BenchmarkSource(name, Path(rest), None)
    colons = [i for i, character in enumerate(rest) if character == ":"]
    splits = [(rest[:i], rest[i + 1 :]) for i in colons if rest[:i] and rest[i + 1 :]]
    if not splits:
        if needs_root:
            raise BenchmarkError(f"{text!r} names no video root: {form}")
        return BenchmarkSource(name, Path(rest), None)
    labels, root = next((pair for pair in splits if Path(pair[0]).is_file()), splits[-1])
    return BenchmarkSource(name, Path(labels), Path(root))


def find_published(name: str) -> PublishedBenchmark | None:
    """The published benchmark of that name, whatever its case and dashes.

    >>> find_published("konvid_1k").name
    'KoNViD-1k'
    """
    return next((one for one in PUBLISHED if _plain(one.name) == _plain(name)), None)


def load_benchmark(source: BenchmarkSource, on_bad: str = "refuse") -> Benchmark:
    """Reads the labels, and says how they differ from the published file of that name.

    Args:
      source: which.
      on_bad: "refuse" a file with bad rows, or "skip" them and say so.

    Raises:
      BenchmarkError: it cannot be read, its video root is no folder, or it has bad rows (each
        named with its number and reason).
    """
    if source.root is not None and not source.root.is_dir():
        raise BenchmarkError(f"{source.name}: video root {source.root} is no folder")
    try:
        content = source.labels.read_bytes()
        labels = read_labels(source.labels, scale=_ANY_SCALE, video_root=source.root, on_bad=on_bad)
    except ValueError as error:
        has_bad_lines = isinstance(error, LabelError) and error.bad_lines
        advice = "\n--skip-bad-labels leaves them out" if has_bad_lines else ""
        raise BenchmarkError(f"{source.name}: {error}{advice}") from None
    except OSError as error:
        raise BenchmarkError(
            f"{source.name}: {source.labels} cannot be read ({error.strerror})"
        ) from None
    notes = [f"row {bad.line} left out: {bad.reason}" for bad in labels.bad_lines[:MOST_SHOWN]]
    if len(labels.bad_lines) > MOST_SHOWN:
        notes.append(f"{len(labels.bad_lines) - MOST_SHOWN} more rows left out")
    published = find_published(source.name)
    if published is None:
        near = difflib.get_close_matches(
            _plain(source.name), [_plain(one.name) for one in PUBLISHED], n=1, cutoff=0.7
        )
        if near:
            name = next(one.name for one in PUBLISHED if _plain(one.name) == near[0])
            notes.append(f"taken as a benchmark of your own; did you mean {name}?")
        return Benchmark(source.name, CUSTOM, labels.videos, tuple(notes))
    if len(labels.videos) != published.num_videos:
        notes.append(f"{len(labels.videos)} labels, the published file has {published.num_videos}")
    if hashlib.sha256(content).hexdigest() != published.sha256:
        notes.append("the label file is not the published one (its SHA-256 differs)")
    return Benchmark(published.name, published.domain, labels.videos, tuple(notes))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
