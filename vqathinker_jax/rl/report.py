"""The report of a run: one HTML file that needs nothing but itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from vqathinker_jax.reports.page import environment, write_page
from vqathinker_jax.rl.curves import (
    ALL_OF_STEPS,
    POLICY,
    RESPONSES,
    REWARDS,
    SPEED,
    VALIDATION,
    other_panels,
)
from vqathinker_jax.rl.figures import Drawn, draw_panels, draw_phases
from vqathinker_jax.rl.recorded_run import RecordedRun, read_stages

NUM_SAMPLED_STEPS = 5
REWARD_COLUMNS = ("format", "regression", "ranking", "temporal", "total", "advantage")


@dataclasses.dataclass(frozen=True)
class Tile:
    """A headline number."""

    title: str
    value: str
    note: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    title: str
    figures: list[Drawn]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the page says of one stage."""

    title: str
    kind: str
    facts: list[tuple[str, str]]
    notes: list[str]
    tiles: list[Tile]
    sections: list[Section]
    sampled: list[Mapping[str, Any]]
    settings: list[tuple[str, str]]


def write_report(run_dir: Path, output: Path) -> None:
    """Draws what a run has logged so far into one file.

    Args:
      run_dir: folder of a run, finished or not; with a stage before it, that one is shown first.
      output: replaced where it exists.

    Raises:
      NoRunError: there is no run in the folder.
      OSError: something cannot be read.
      ReportError: the page cannot be written.
    """
    write_page(render_report(run_dir), output)


def render_report(run_dir: Path) -> str:
    """The page. Texts of the model and names from its logs are escaped.

    Raises:
      NoRunError: there is no run in the folder.
      OSError: something cannot be read.
    """
    runs = read_stages(run_dir)
    templates = environment("vqathinker_jax.rl")
    templates.filters["number"] = number
    stages = [describe_stage(run, i, len(runs)) for i, run in enumerate(runs)]
    return templates.get_template("report.html").render(
        name=run_dir.resolve().name, stages=stages, columns=REWARD_COLUMNS
    )


def describe_stage(run: RecordedRun, index: int, count: int) -> Stage:
    """Everything that is said of one stage.

    Args:
      run: what it has logged.
      index: its place among the stages.
      count: of the stages.
    """
    mode = str(run.settings.get("run.mode", "grpo")).upper()
    return Stage(
        title=f"Stage {index + 1} of {count}: {mode}" if count > 1 else mode,
        kind=run.kind,
        facts=facts(run),
        notes=notes(run),
        tiles=tiles(run),
        sections=sections(run, f"stage{index}"),
        sampled=run.sampled(NUM_SAMPLED_STEPS),
        settings=[(key, _setting(value)) for key, value in run.settings.items()],
    )


def facts(run: RecordedRun) -> list[tuple[str, str]]:
    """What was run, on what, when, and how far it is."""
    settings = run.settings
    start = settings.get("model.path") or f"preset {settings.get('model.preset')}, random weights"
    planned = f" of {run.num_planned}" if run.num_planned else ""
    found = [("Steps done", f"{run.num_done}{planned}"), ("Started from", str(start))]
    for title, key in (("Trained on", "train"), ("Validated with", "validation")):
        labels = settings.get(f"data.{key}.labels")
        number_of = run.attempt("videos" if key == "train" else "validation_videos")
        if labels:
            count = f" ({number_of} videos)" if number_of else ""
            found.append((title, f"{labels}{count}"))
    per_step = f"{settings.get('run.videos_per_step', '?')} videos"
    if settings.get("run.mode", "grpo") == "grpo":
        per_step += f", {settings.get('rollout.num_generations', '?')} responses each"
    found.append(("A step", per_step))
    if parameters := run.attempt("trained_parameters"):
        frozen = run.attempt("frozen_parameters") or 0
        found.append(("Parameters", f"{parameters:,} trained, {frozen:,} frozen"))
    if device := run.attempt("device"):
        found.append(("Hardware", f"{run.attempt('num_devices')} x {device}"))
    if run.attempts.rows:
        starts = [_moment(row.get("time")) for row in run.attempts.rows]
        found.append(("Started", starts[0]))
        if len(starts) > 1:
            found.append(("Resumed", ", ".join(starts[1:])))
        versions = f"vqathinker_jax {run.attempt('vqathinker_jax')}, jax {run.attempt('jax')}"
        found.append(("Software", versions))
    seconds = np.nansum(run.metrics.values("seconds.step"))
    seconds += np.nansum(run.validations.values("seconds"))
    if seconds > 0:
        found.append(("Time", f"{_duration(float(seconds))} in steps and validations"))
    return found


def notes(run: RecordedRun) -> list[str]:
    """What a reader of the curves has to know."""
    said = []
    if (run.folder / "bad_batch.json").exists():
        said.append(
            "A loss was not finite and stopped the run; bad_batch.json in its folder holds the "
            "videos and texts."
        )
    if run.num_done == 0:
        said.append("No step is done yet.")
    elif run.num_planned and run.num_done < run.num_planned:
        said.append(
            f"Step {run.num_done} is the last so far: the run was stopped or is still going on."
        )
    if not run.validations.rows:
        said.append("There was no validation: nothing here says how it does on other videos.")
    elif not run.validations.has("srcc"):
        said.append("No validation has a correlation: it needs two answers with different scores.")
    for name, rows in (("metrics", run.metrics), ("validation", run.validations)):
        if rows.num_unreadable:
            said.append(f"{rows.num_unreadable} unreadable lines of {name}.jsonl are left out.")
    if run.metrics.has("unparseable_batches"):
        number_of = int(np.nanmax(run.metrics.values("unparseable_batches")))
        if number_of:
            said.append(f"In {number_of} steps no score could be read from any response.")
    return said


def tiles(run: RecordedRun) -> list[Tile]:
    """The headline numbers: validation first, then what training itself saw."""
    found = []
    for name, title, is_better in (
        ("srcc", "SRCC", np.nanargmax),
        ("plcc", "PLCC", np.nanargmax),
        ("mae", "MAE", np.nanargmin),
        ("parse_rate", "Answers with a score", np.nanargmax),
    ):
        if run.validations.has(name):
            values, steps = run.validations.values(name), run.validations.steps
            shown, note = _first_to_last(values)
            best = int(is_better(values))
            if np.unique(values[np.isfinite(values)]).size > 1:
                note = f"{note} · best {number(values[best])} at step {steps[best]}"
            found.append(Tile(f"{title}, held-out", shown, note))
    pairs = (("reward_total", "Reward"), ("loss", "Loss"), ("likelihood", "Likelihood"))
    is_grpo = run.metrics.has("reward_total")
    for name, title in pairs:
        if run.metrics.has(name) and (name != "loss" or not is_grpo):
            # A single step is noise: the ends are means over a tenth of the run.
            values = run.metrics.values(name)
            tenth = max(1, len(values) // 10)
            ends = np.array([np.nanmean(values[:tenth]), np.nanmean(values[-tenth:])])
            if len(values) == 1:
                ends = ends[:1]
            shown, note = _first_to_last(ends)
            over = f", means of {tenth} steps" if tenth > 1 else ""
            found.append(Tile(f"{title}, training", shown, note + over))
    return found


def sections(run: RecordedRun, prefix: str) -> list[Section]:
    """All figures, those without anything to show left out."""
    validation = (*VALIDATION, *other_panels(run.validations, VALIDATION))
    drawn = [Section("Validation", draw_panels(validation, run.validations, f"{prefix}-v"))]
    of_steps = (
        ("Rewards", REWARDS),
        ("Policy", POLICY),
        ("Responses", RESPONSES),
        ("Speed and data", SPEED),
        ("Others", other_panels(run.metrics, ALL_OF_STEPS)),
    )
    for place, (title, panels) in enumerate(of_steps):
        figures = draw_panels(panels, run.metrics, f"{prefix}-{place}")
        if panels is SPEED and (phases := draw_phases(run.metrics, prefix)) is not None:
            figures.insert(0, phases)
        drawn.append(Section(title, figures))
    return [section for section in drawn if section.figures]


def number(value: Any) -> str:
    """Four digits, or a dash where there is no number.

    >>> number(3.14159), number(None)
    ('3.142', '–')
    """
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return f"{value:.4g}" if is_number else "–"


def _first_to_last(values: np.ndarray) -> tuple[str, str]:
    values = values[np.isfinite(values)]
    if values.size == 1:
        return number(float(values[0])), "the only value"
    return number(float(values[-1])), f"from {number(float(values[0]))}"


def _setting(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _moment(text: Any) -> str:
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return str(text)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
