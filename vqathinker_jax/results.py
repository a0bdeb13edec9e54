"""What scoring one file gives."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

AGGREGATES = ("mean", "median", "trimmed_mean", "soft")
"""What the score of a video may be: of the sampled numbers, or expected from the digits."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """The judgement of a stretch of a video."""

    start: float
    """Seconds from the beginning of the video."""
    end: float
    """Seconds; the next segment starts here."""
    score: float | None = None
    """As `ScoreResult.score`, of this stretch alone."""
    std: float | None = None
    """As `ScoreResult.score_std`."""
    reasoning: str | None = None
    error: str | None = None
    """One line that says why there is no score."""


@dataclasses.dataclass(frozen=True)
class ScoreResult:
    """The judgement of one file: one row of every output.

    `score` is None where there is none: an error, or an answer without a number.
    """

    path: str
    """The file as it was named; undecodable bytes are surrogate escapes."""
    status: str
    """`ok` (the model answered) or `error` (nothing could be asked; see `error`)."""
    score: float | None = None
    """Quality from 1 (worst) to 5: the one of the statistics below that `aggregate` names."""
    std: float | None = None
    """Standard deviation (ddof 1) over the parseable samples; None for fewer than two."""
    parseable: bool = False
    """Whether at least one answer held a number."""
    reasoning: str | None = None
    """The text inside `<think>` of `response`; None where the response has no such block."""
    response: str | None = None
    """The raw answer; with several samples, the one whose score is nearest to the mean."""
    distortions: tuple[str, ...] | None = None
    """Distortions that the reasoning names, where they were asked for; None where they were not."""
    error: str | None = None
    """One line that says why there is no answer."""
    warnings: tuple[str, ...] = ()
    samples: int = 1
    """K: answers asked for."""
    scores: tuple[float | None, ...] = ()
    """One per sample; None where the answer held no number."""
    responses: tuple[str, ...] = ()
    """All raw answers, in the order of `scores`."""
    frames: tuple[int, ...] = ()
    """Indices, in order of presentation, of the frames the model saw."""
    video: dict[str, Any] | None = None
    """Decoder facts: codec, size, fps, frame count, rotation, bit depth, decoder."""
    model: str = ""
    model_kind: str = ""
    """`published` layout weights, or the folder's own label: `random`, `nano`, ..."""
    mode: str = "greedy"
    """`greedy` or `sampled`."""
    seed: int | None = None
    """Root seed of sampling; None when greedy."""
    settings: str = ""
    """Fingerprint of the model and of every setting that can change the answer."""
    size: int | None = None
    """File size in bytes when it was scored."""
    mtime_ns: int | None = None
    """Modification time of the file in nanoseconds when it was scored."""
    aggregate: str = "mean"
    """What `score` is: `mean`, `median` or `trimmed_mean` of the parseable samples, or `soft`."""
    mean: float | None = None
    """Over the parseable samples, like the next three."""
    median: float | None = None
    trimmed_mean: float | None = None
    """Without the smallest and the largest fifth of the samples, each rounded down."""
    interval: tuple[float, float] | None = None
    """Where one more answer of the model is expected, with a probability of 90 % and within 1-5;
    None for fewer than two. It says nothing about people."""
    soft_score: float | None = None
    """Expected score under the model's probabilities of the digits; None where it was not read."""
    soft_std: float | None = None
    """Standard deviation of that distribution."""
    soft_mass: float | None = None
    """Probability, 0 to 1, that the model gave to the numbers 1.00 to 5.00 before they were
    renormalised; where it is low, `soft_score` means little."""
    calibrated: float | None = None
    """`score` mapped to the scale of a user's own opinion scores; None without a calibration."""
    calibration: str | None = None
    """What that map is and how many videos it was fitted on."""
    timeline: tuple[Segment, ...] = ()
    """Scores over time, where they were asked for."""

    @property
    def score_std(self) -> float | None:
        """The standard deviation that belongs to `score`: `soft_std` where it is soft, else `std`;
        None without a score."""
        if self.score is None:
            return None
        return self.soft_std if self.aggregate == "soft" else self.std

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))


FIELDS = tuple(field.name for field in dataclasses.fields(ScoreResult))
LIST_FIELDS = ("warnings", "scores", "responses", "frames", "timeline")


def file_stamp(path: os.PathLike | str) -> tuple[int | None, int | None]:
    """Size in bytes and modification time in nanoseconds; (None, None) where there is no file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return stat.st_size, stat.st_mtime_ns


def result_from_json(line: str) -> ScoreResult:
    """Reads one line of `ScoreResult.to_json`; raises ValueError on anything else.

    Rows of older versions lack fields, which then have their defaults.
    """
    row = json.loads(line)
    if not isinstance(row, dict) or not {"path", "status"} <= set(row) <= set(FIELDS):
        raise ValueError("its keys are not those of a result")
    return result_from_fields(row)


def result_from_fields(row: dict[str, Any]) -> ScoreResult:
    """The result of a row whose lists are still JSON's; raises ValueError on wrong ones."""
    for name in LIST_FIELDS:
        if name in row:
            if not isinstance(row[name], list):
                raise ValueError(f"its {name} is not a list")
            row[name] = tuple(row[name])
    try:
        row["timeline"] = tuple(Segment(**segment) for segment in row.get("timeline", ()))
    except TypeError:
        raise ValueError("its timeline is not one of segments") from None
    interval = row.get("interval")
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError("its interval is not a pair")
        row["interval"] = tuple(interval)
    if row.get("distortions") is not None:
        row["distortions"] = tuple(row["distortions"])
    return ScoreResult(**row)
