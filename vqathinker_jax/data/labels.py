"""Label files: which video has which opinion score.

Three forms are read: the published training lines (`.jsonl`), the published benchmark files
(`.json`) and plain tables (`.csv`, `.txt`). Nothing is guessed: a line that does not say a path
inside the video root and a finite score inside the stated scale is reported with its reason.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

ON_BAD = ("refuse", "skip")
MOST_SHOWN = 20
"""Bad lines that an error message lists."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_HEADER_WORDS = frozenset({"score", "mos", "label"})


@dataclasses.dataclass(frozen=True)
class Scale:
    """The range of a file's scores, and what they become: `score = offset + raw / divisor`.

    Raises:
      ValueError: an empty range, or a divisor that is not positive and finite.
    """

    low: float
    high: float
    divisor: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.low < self.high or not 0 < self.divisor < math.inf:
            raise ValueError(f"not a scale: {self}")


SCALES = {
    "1-5": Scale(1, 5),
    "0-100": Scale(0, 100, divisor=20),
    "mos/20": Scale(0, 5),
}
"""By name. "0-100" is divided by 20, the rule of the published training labels; those labels, in
which it has been done already, are "mos/20"."""


def linear_scale(low: float, high: float) -> Scale:
    """The scale that maps `low` to 1 and `high` to 5."""
    if not low < high:
        raise ValueError(f"a scale needs low < high, got {low} and {high}")
    divisor = (high - low) / 4
    return Scale(low, high, divisor, 1 - low / divisor)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """One thing that is wrong with a video."""

    name: str
    severity: float
    """0 (not seen) to 1 (worst)."""


@dataclasses.dataclass(frozen=True)
class LabelledVideo:
    """One usable line of a label file."""

    id: str
    """Unique in its file: the line's own id, or the path as written."""
    path: str
    """Under the video root where one was given."""
    score: float
    """After the scale's rule."""
    dataset: str
    line: int
    """1-based line; in a benchmark file, the number of the annotation."""
    response: str | None = None
    """A full answer to learn from, as the model should write it."""
    distortions: tuple[Distortion, ...] | None = None
    """What is wrong with the video; None where the label does not say."""
    content: str | None = None
    """What it shows: videos with the same text show the same, for example one source distorted in
    several ways. None where the label does not say."""


@dataclasses.dataclass(frozen=True)
class BadLine:
    """A line that was left out, and why."""

    line: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Labels:
    """A label file."""

    videos: tuple[LabelledVideo, ...]
    bad_lines: tuple[BadLine, ...]
    """Empty unless bad lines are skipped."""


class LabelError(ValueError):
    """A label file that cannot be used as it is; the message lists lines and reasons.

    `bad_lines` has the lines that `on_bad="skip"` would leave out.
    """

    def __init__(self, message: str, bad_lines: Sequence[BadLine] = ()):
        super().__init__(message)
        self.bad_lines = tuple(bad_lines)


@dataclasses.dataclass(frozen=True)
class _Row:
    """What a line says, before any check of its values."""

    path: Any
    score: Any
    id: Any = None
    dataset: Any = None
    response: Any = None
    distortions: Any = None
    content: Any = None


def read_labels(
    file: str | Path,
    *,
    scale: str | tuple[float, float] | Scale,
    video_root: str | Path | None = None,
    on_bad: str = "refuse",
    dataset: str | None = None,
) -> Labels:
    """Reads a label file.

    Args:
      file: `.jsonl` (`id`, `dataset_name`, `image: [path]`, `conversations` with one `gpt` turn
        whose `value` is the score; optionally `response`, a full answer, `distortions`, objects
        with `name` and `severity` 0 to 1, and `content`, a text that videos of the same content
        have in common), `.json` (`{"annotations": [{"image_id",
        "ann_type": "score", "score"}]}`), `.csv` or `.txt` (`path, score` or
        `path, -1, -1, score`; a header is optional).
      scale: what the file's scores mean: a name in `SCALES`, (low, high) to be mapped to 1-5
        linearly, or a `Scale`.
      video_root: folder that the paths are relative to; None leaves them as they are.
      on_bad: "refuse" the file, or "skip" bad lines and return them.
      dataset: name for lines that have none; default, the file's name without suffix.

    Raises:
      LabelError: a bad line with "refuse", a file that is no JSON at all, or no usable line.
      ValueError: unknown suffix, `scale` or `on_bad`.
      OSError: the file cannot be read.
    """
    file = Path(file)
    scale = _as_scale(scale)
    if on_bad not in ON_BAD:
        raise ValueError(f"on_bad must be one of {ON_BAD}, got {on_bad!r}")
    readers = {".jsonl": _json_lines, ".json": _benchmark, ".csv": _table, ".txt": _table}
    if file.suffix.lower() not in readers:
        raise ValueError(f"{file}: suffix must be one of {tuple(readers)}")

    videos, bad_lines, seen = [], [], {}
    for line, row in readers[file.suffix.lower()](file):
        try:
            if isinstance(row, str):
                raise _BadRow(row)
            video = _video(row, line, scale, video_root, dataset or file.stem)
            # A path given twice is as ambiguous as an id given twice.
            for kind, value in (("id", video.id), ("path", video.path)):
                first = seen.setdefault((kind, value), line)
                if first != line:
                    raise _BadRow(f"{kind} {value!r} was given in line {first}")
        except _BadRow as problem:
            bad_lines.append(BadLine(line, str(problem)))
        else:
            videos.append(video)

    if bad_lines and on_bad == "refuse":
        raise LabelError(f"{file}: {len(bad_lines)} bad lines\n{_listing(bad_lines)}", bad_lines)
    if not videos:
        raise LabelError(f"{file}: no usable line\n{_listing(bad_lines)}".rstrip())
    return Labels(tuple(videos), tuple(bad_lines))


class _BadRow(ValueError):
    """Why one line, or one path, cannot be used."""


def _as_scale(scale: str | tuple[float, float] | Scale) -> Scale:
    if isinstance(scale, Scale):
        return scale
    if isinstance(scale, str):
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {tuple(SCALES)}, a pair, got {scale!r}")
        return SCALES[scale]
    low, high = scale
    return linear_scale(low, high)


def _listing(bad_lines: list[BadLine]) -> str:
    shown = [f"  line {bad.line}: {bad.reason}" for bad in bad_lines[:MOST_SHOWN]]
    if len(bad_lines) > MOST_SHOWN:
        shown.append(f"  and {len(bad_lines) - MOST_SHOWN} more")
    return "\n".join(shown)


# --- the three forms: (line, row) or (line, why there is none) -----------------------------------


def _lines(file: Path) -> Iterator[tuple[int, str | None]]:
    """Non-blank lines with their numbers; None for one that is not UTF-8."""
    # Split as bytes: str.splitlines would also break at characters that paths may contain.
    data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for line, content in enumerate(data.split(b"\n"), start=1):
        try:
            text = content.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            yield line, None
            continue
        if text.strip():
            yield line, text


def _json_lines(file: Path) -> Iterator[tuple[int, _Row | str]]:
    for line, text in _lines(file):
        if text is None:
            yield line, "not UTF-8"
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, f"not JSON: {error}"
            continue
        yield line, _published_row(value)


def _published_row(value: Any) -> _Row | str:
    if not isinstance(value, dict):
        return "not a JSON object"
    missing = [key for key in ("id", "image", "conversations") if key not in value]
    if missing:
        return f"without {', '.join(missing)}"
    image, turns = value["image"], value["conversations"]
    if isinstance(image, list):
        if len(image) != 1:
            return f"image holds {len(image)} paths, not one"
        image = image[0]
    answers = [
        turn.get("value")
        for turn in (turns if isinstance(turns, list) else [])
        if isinstance(turn, dict) and turn.get("from") == "gpt"
    ]
    if len(answers) != 1:
        return f"conversations hold {len(answers)} gpt turns, not one"
    return _Row(
        image,
        answers[0],
        value["id"],
        value.get("dataset_name"),
        value.get("response"),
        value.get("distortions"),
        value.get("content"),
    )


def _benchmark(file: Path) -> Iterator[tuple[int, _Row | str]]:
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{file}: not JSON: {error}") from None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise LabelError(f"{file}: no list of annotations")
    for number, entry in enumerate(annotations, start=1):
        if not isinstance(entry, dict) or not {"image_id", "score"} <= entry.keys():
            yield number, "not an object with image_id and score"
        elif entry.get("ann_type", "score") != "score":
            yield number, f"ann_type is {entry['ann_type']!r}, not 'score'"
        else:
            yield number, _Row(entry["image_id"], entry["score"])


def _table(file: Path) -> Iterator[tuple[int, _Row | str]]:
    for count, (line, text) in enumerate(_lines(file)):
        if text is None:
            yield line, "not UTF-8"
            continue
        try:
            cells = next(csv.reader([text], skipinitialspace=True, strict=True))
        except csv.Error as error:
            yield line, f"not a row: {error}"
            continue
        if count == 0 and cells[-1].strip().lower() in _HEADER_WORDS:
            continue
        if len(cells) == 4 and [cell.strip() for cell in cells[1:3]] == ["-1", "-1"]:
            cells = [cells[0], cells[3]]
        if len(cells) == 2:
            yield line, _Row(*cells)
        else:
            yield line, f"{len(cells)} cells, not path and score"


# --- the checks that all forms share --------------------------------------------------------------


def _video(
    row: _Row, line: int, scale: Scale, video_root: str | Path | None, dataset: str
) -> LabelledVideo:
    path = inside_path(row.path)
    raw = _number(row.score)
    if not scale.low <= raw <= scale.high:
        raise _BadRow(f"score {raw:g} is outside {scale.low:g} to {scale.high:g}")
    identity = path if row.id is None else row.id
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise _BadRow(f"id is {identity!r}")
    name = dataset if row.dataset is None else row.dataset
    if not isinstance(name, str):
        raise _BadRow(f"dataset_name is {name!r}")
    full = path if video_root is None else str(Path(video_root) / path)
    if row.response is not None and not (isinstance(row.response, str) and row.response.strip()):
        raise _BadRow(f"response is {row.response!r}, not a text")
    if row.content is not None and not (isinstance(row.content, str) and row.content.strip()):
        raise _BadRow(f"content is {row.content!r}, not a text")
    for field, text in (
        ("path", path), ("id", identity), ("dataset_name", name), ("response", row.response),
        ("content", row.content),
    ):  # fmt: skip
        _require_encodable(field, text)
    return LabelledVideo(
        str(identity),
        full,
        scale.offset + raw / scale.divisor,
        name,
        line,
        response=row.response,
        distortions=None if row.distortions is None else _distortions(row.distortions),
        content=row.content,
    )


def _require_encodable(field: str, text: str | int | None) -> None:
    """JSON can spell half of a surrogate pair, which no log could be written with."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        raise _BadRow(f"{field} {text!r} holds half of a character") from None


def _distortions(value: Any) -> tuple[Distortion, ...]:
    if not isinstance(value, list):
        raise _BadRow(f"distortions are {type(value).__name__}, not a list")
    found = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _BadRow("a distortion is not an object with name and severity")
        severity = _number(entry.get("severity"))
        if not 0 <= severity <= 1:
            raise _BadRow(f"severity {severity:g} of {entry['name']!r} is outside 0 to 1")
        _require_encodable("distortion", entry["name"])
        found.append(Distortion(entry["name"], severity))
    return tuple(found)


def _number(value: Any) -> float:
    if isinstance(value, str):
        # float() alone would also take "1_000", "nan" and digits of other scripts.
        if not _NUMBER.fullmatch(value.strip()):
            raise _BadRow(f"score {value[:40]!r} is not a number")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _BadRow(f"score is {type(value).__name__}, not a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise _BadRow(f"score is {value}, not a finite number")
    return value


def inside_path(path: Any) -> str:
    """The path, stripped, if it is relative and stays below the folder it is relative to.

    Raises:
      ValueError: it does not, or is no path; the message says why.
    """
    if not isinstance(path, str) or not path.strip():
        raise _BadRow("no path")
    path = path.strip()
    if "\0" in path:
        raise _BadRow("path holds a null character")
    # Checked by both systems' rules, so that a file means the same everywhere.
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor:
        raise _BadRow(f"path {path!r} is absolute")
    if ".." in PureWindowsPath(path).parts:
        raise _BadRow(f"path {path!r} climbs out of its folder")
    return path
