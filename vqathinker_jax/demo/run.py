"""The demonstration from beginning to end."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vqathinker_jax.api import VideoQualityModel, from_pretrained
from vqathinker_jax.demo.folder import DemoFolder
from vqathinker_jax.demo.handful import HandfulConfig, make_handful
from vqathinker_jax.demo.outcome import Demo, Row
from vqathinker_jax.demo.page import render_page
from vqathinker_jax.demo.training import TRAINED_FOLDER, ShortRun, train_briefly
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.terminal import Counter, Progress

PAGE, SCORES = "demo.html", "scores.jsonl"
SETTINGS = ScoreSettings(batch_size=4)


def run_demo(
    folder: DemoFolder,
    model: VideoQualityModel,
    model_folder: Path,
    config: HandfulConfig,
    short_run: ShortRun | None = None,
    *,
    settings: ScoreSettings = SETTINGS,
    is_quiet: bool = False,
) -> Demo:
    """Makes clips, scores them, and writes the rows and the page; trains and scores again if asked.

    The page is complete before training begins, so that a run that is stopped leaves a good one.

    Args:
      folder: where everything goes.
      model: asked about the clips.
      model_folder: where it lies; a training starts from it.
      config: which clips.
      short_run: the training; None for none.
      settings: how the model is asked.
      is_quiet: nothing on stderr.

    Raises:
      ValueError: clips cannot be made, or the folder cannot be written to (`DemoError`).
      OSError, and what `train_briefly` raises.
    """
    start = time.perf_counter()
    names = config.file_names()
    folder.begin([*names, SCORES, PAGE])
    with Counter("clips", len(names), is_quiet) as counter:
        clips = make_handful(config, folder.path, counter.show)
    paths = [folder.path / name for name in names]
    before = score(model, paths, settings, is_quiet)
    demo = Demo(
        rows=tuple(Row(clip, result) for clip, result in zip(clips, before, strict=True)),
        model_name=model.name,
        model_kind=model.loaded.kind,
        warning=model.warning,
        seed=config.seed,
        seconds=time.perf_counter() - start,
        short_run=short_run,
    )
    write(demo, folder)
    if short_run is None:
        return demo
    if not is_quiet:
        print(f"training for {short_run.steps} steps of GRPO", file=sys.stderr, flush=True)
    style, reasoning = model.loaded.prompt_style, model.loaded.reasoning
    report = train_briefly(short_run, model_folder, model.video, style, reasoning, folder, is_quiet)
    trained = from_pretrained(folder.path / TRAINED_FOLDER / "model", dtype=model.loaded.dtype)
    after = score(trained, paths, settings, is_quiet)
    demo = dataclasses.replace(
        demo,
        rows=tuple(
            dataclasses.replace(row, after=result)
            for row, result in zip(demo.rows, after, strict=True)
        ),
        seconds=time.perf_counter() - start,
        training=report,
    )
    write(demo, folder)
    return demo


def score(
    model: VideoQualityModel, paths: Sequence[Path], settings: ScoreSettings, is_quiet: bool
) -> list[ScoreResult]:
    """The model's result for every clip, with progress on stderr."""
    results = []
    with Progress(total=len(paths), is_quiet=is_quiet) as progress:
        for result in model.score_many(paths, settings):
            results.append(result)
            progress.advance(result)
    return results


def write(demo: Demo, folder: DemoFolder) -> None:
    """Writes the rows and the page.

    Raises:
      OSError: they cannot be written.
    """
    lines = "".join(f"{row.to_json()}\n" for row in demo.rows)
    (folder.path / SCORES).write_text(lines, encoding="utf-8")
    page = render_page(demo, folder.path)
    # A path that was typed may hold bytes that are no text.
    (folder.path / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
