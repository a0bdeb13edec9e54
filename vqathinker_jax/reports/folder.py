"""The report of scored files: one HTML file with a table that can be sorted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from vqathinker_jax.data.clip import printable
from vqathinker_jax.reports.charts import histogram
from vqathinker_jax.reports.page import (
    Tile,
    decimals,
    environment,
    legible,
    script_hashes,
    shown_setting,
    write_page,
)
from vqathinker_jax.reports.pictures import Strip, frame_strips
from vqathinker_jax.reports.timeline_chart import moments, timeline_chart
from vqathinker_jax.results import ScoreResult

MOST_ROWS = 2000
MOST_PICTURED = 60
"""Files whose frames are shown: those with the lowest scores."""
MOST_FRAMES = 6
LONGEST_REASON = 900
"""Characters of a reasoning that are shown."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "


@dataclasses.dataclass(frozen=True)
class Row:
    """One file, ready for the page."""

    name: str
    """Its path below the folder that all have in common."""
    path: str
    facts: str
    score: float | None
    shown: str
    """The score, or why there is none, in a word."""
    place: float | None
    """Of the score, percent of the line from 1 to 5."""
    spread: tuple[float, float] | None
    """Left end and width of one standard deviation to both sides, percent."""
    samples: tuple[float, ...]
    """Places of the samples' scores, percent."""
    std: float | None
    others: tuple[tuple[str, str], ...]
    """Further statistics by name."""
    distortions: str | None
    """Those that the reasons name, in words; None where they were not looked for."""
    reason: str
    is_cut: bool
    error: str | None
    warnings: tuple[str, ...]
    strip: Strip
    timeline: Markup | None
    """None for fewer than two segments, which say no more than the score."""
    moments: str


def write_folder_report(
    results: Sequence[ScoreResult], model: str, warning: str | None, path: Path
) -> None:
    """Writes results of scoring as one HTML file.

    Frames that the model saw are decoded again from the files, where these are unchanged.

    Args:
      results: in any order.
      model: its name.
      warning: what must be said before a score of it is trusted.
      path: of the file; replaced where it exists.

    Raises:
      ReportError: it cannot be written.
    """
    write_page(render_folder(results, model, warning), path)


def render_folder(results: Sequence[ScoreResult], model: str, warning: str | None) -> str:
    """The page; paths and what the model said are escaped."""
    # Lowest first: what a person looks for; files without a score come last.
    ranked = sorted(results, key=lambda one: math.inf if one.score is None else one.score)
    shown = ranked[:MOST_ROWS]
    pictured = [one for one in shown if one.status == "ok"][:MOST_PICTURED]
    strips = {
        id(one): s for one, s in zip(pictured, frame_strips(pictured, MOST_FRAMES), strict=True)
    }
    root = common_folder([one.path for one in results])
    rows = [make_row(one, root, strips.get(id(one), Strip())) for one in shown]
    scores = np.array([one.score for one in results if one.score is not None], np.float64)
    chart = None
    if len(scores) > 1:
        said = f"Histogram of {len(scores)} scores, mean {decimals(float(scores.mean()))}"
        chart = histogram(
            np.clip(scores, 1, 5), "score", said, np.linspace(1, 5, 33 if len(scores) > 200 else 17)
        )
    template = environment("vqathinker_jax.reports").get_template("folder.html")
    page = template.render(
        model=printable(model),
        kinds=sorted({printable(one.model_kind) for one in results if one.model_kind}),
        warning=None if warning is None else printable(warning),
        root=printable(root),
        rows=rows,
        tiles=tiles(results, scores),
        chart=chart,
        num_results=len(results),
        num_pictured=len(pictured),
        num_could_be_pictured=sum(one.status == "ok" for one in results),
        settings=settings(results),
        policy="@policy@",
    )
    return page.replace("@policy@", POLICY + script_hashes(page), 1)


def common_folder(paths: Sequence[str]) -> str:
    """The folder, with a slash at its end, that all paths begin with; empty where there is none.

    >>> common_folder(["a/b/c.mp4", "a/b/d/e.mp4"]), common_folder(["c.mp4"])
    ('a/b/', '')
    """
    folders = [path.rpartition("/")[0].split("/") if "/" in path else [] for path in paths]
    if not folders:
        return ""
    shared = []
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "/".join([*shared, ""]) if shared else ""


def make_row(result: ScoreResult, root: str, strip: Strip) -> Row:
    """What the page says of one file."""
    reason = (result.reasoning or result.response or "").strip()
    spread = None
    std = result.score_std
    if std:
        left, right = line_place(result.score - std), line_place(result.score + std)
        spread = (left, round(right - left, 2))
    numbers = [score for score in result.scores if score is not None]
    return Row(
        name=printable(result.path.removeprefix(root)),
        path=printable(result.path),
        facts=video_facts(result),
        score=result.score,
        shown=shown_score(result),
        place=None if result.score is None else line_place(result.score),
        spread=spread,
        samples=tuple(map(line_place, numbers)) if len(numbers) > 1 else (),
        std=std,
        others=other_statistics(result),
        distortions=named_distortions(result),
        reason=legible(reason[:LONGEST_REASON]),
        is_cut=len(reason) > LONGEST_REASON,
        error=None if result.error is None else printable(result.error),
        warnings=tuple(map(printable, result.warnings)),
        strip=strip,
        timeline=timeline_chart(result.timeline) if len(result.timeline) > 1 else None,
        moments=moments(result.timeline),
    )


def named_distortions(result: ScoreResult) -> str | None:
    """The distortions that the reasons name, in words; None where they were not looked for."""
    if result.distortions is None:
        return None
    return printable(", ".join(result.distortions)) or "no distortion"


def shown_score(result: ScoreResult) -> str:
    """The score with two decimals, or why there is none."""
    if result.status != "ok":
        return "error"
    return "no score" if result.score is None else decimals(result.score)


def line_place(score: float) -> float:
    """Where a score lies on the line from 1 to 5, percent; beyond the ends, at the end.

    >>> line_place(2.0), line_place(7.0)
    (25.0, 100.0)
    """
    return round(25 * min(max(score - 1, 0.0), 4.0), 2)


def video_facts(result: ScoreResult) -> str:
    """Size, codec, rate and length of a file, where they are known."""
    facts = result.video
    if not facts:
        return ""
    parts = [f"{facts['width']}x{facts['height']}".replace("x", " × "), str(facts["codec"])]
    if facts["fps"]:
        parts.append(f"{facts['fps']:.4g} fps")
        parts.append(f"{facts['num_frames'] / facts['fps']:.1f} s")
    # A number and its unit stay on one line.
    return " · ".join(printable(part).replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def other_statistics(result: ScoreResult) -> tuple[tuple[str, str], ...]:
    """What was computed beside the score and its standard deviation, by name."""
    found = []
    statistics = (
        ("mean", "mean of samples", result.mean),
        ("median", "median", result.median),
        ("trimmed_mean", "trimmed mean", result.trimmed_mean),
        ("soft", "expected score", result.soft_score),
        ("calibrated", "calibrated", result.calibrated),
    )
    for name, title, value in statistics:
        has_samples = len(result.scores) > 1 or name in ("soft", "calibrated")
        if value is not None and name != result.aggregate and has_samples:
            found.append((title, decimals(value)))
    if result.interval is not None:
        low, high = result.interval
        found.append(("90 % range", f"{decimals(low)} to {decimals(high)}"))
    return tuple(found)


def tiles(results: Sequence[ScoreResult], scores: np.ndarray) -> list[Tile]:
    """The headline numbers."""
    failed = sum(one.status != "ok" for one in results)
    unread = len(results) - failed - len(scores)
    lost = [f"{failed:,} could not be judged"] * bool(failed)
    lost += [f"{unread:,} answered without a number"] * bool(unread)
    found = [Tile("Files with a score", f"{len(scores):,}", "; ".join(lost) or "all of them")]
    if len(scores):
        found.append(Tile("Mean score", decimals(float(scores.mean())), "1 is worst, 5 is best"))
        ends = f"{decimals(float(scores.min()))} – {decimals(float(scores.max()))}"
        found.append(Tile("Lowest – highest", ends, f"median {decimals(float(np.median(scores)))}"))
    spreads = [one.score_std for one in results if one.score_std is not None]
    if spreads:
        is_soft = any(one.aggregate == "soft" for one in results)
        whose = "of the digits’ probabilities" if is_soft else "of the answers to one file"
        note = f"{whose}, mean over {len(spreads):,} file{'s' * (len(spreads) != 1)}"
        found.append(Tile("Spread", f"± {decimals(float(np.mean(spreads)))}", note))
    return found


def settings(results: Sequence[ScoreResult]) -> list[tuple[str, str]]:
    """How the files were judged: each setting with all values that occur."""
    found = []
    for name in ("model", "model_kind", "mode", "samples", "aggregate", "seed", "settings"):
        values = dict.fromkeys(shown_setting(vars(one)[name]) for one in results)
        if values and list(values) != [""]:
            title = "fingerprint of all settings" if name == "settings" else name.replace("_", " ")
            found.append((title, ", ".join(values)))
    calibrations = dict.fromkeys(one.calibration for one in results if one.calibration)
    if calibrations:
        found.append(("calibration", printable("; ".join(calibrations))))
    return found
