"""`vqathinker calibrate`: fits a map from a model's scores to your own opinion scores."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.calibration import (
    CALIBRATION_NAME,
    LEAST_VIDEOS,
    METHODS,
    NUM_FOLDS,
    Calibration,
    CalibrationError,
    fit_calibration,
    write_calibration,
)
from vqathinker_jax.cli.model_options import (
    add_asking,
    add_running,
    add_seeing,
    load_model,
    read_settings,
)
from vqathinker_jax.cli.parsing import OK, SOME_FAILED, WRONG_USAGE, Commands, add_command, fail
from vqathinker_jax.cli.score import score_files

if TYPE_CHECKING:
    from vqathinker_jax.data.labels import LabelledVideo
    from vqathinker_jax.results import ScoreResult


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "calibrate",
        run,
        "fit a map from a model's scores to your own opinion scores",
        "Scores your videos, fits a rising map from the model's scores to\n"
        "your opinion scores, tells its error on videos it was not fitted on, and stores it with\n"
        f"the model where it is of use. It takes at least {LEAST_VIDEOS} videos.\n"
        "`score` then gives both, the plain score and the calibrated one, for the same model,\n"
        "geometry, prompt and way of asking alone: give `score` the same options.",
    )
    command.add_argument("--model", metavar="DIR", required=True, help="model folder")
    command.add_argument(
        "--labels",
        metavar="FILE",
        required=True,
        help="your opinion scores: .csv or .txt (path, score), or the published .jsonl and .json",
    )
    command.add_argument(
        "--video-root", metavar="DIR", help="folder that the paths in the labels are relative to"
    )
    command.add_argument(
        "--scale",
        nargs=2,
        type=float,
        default=(1.0, 5.0),
        metavar=("LOW", "HIGH"),
        help="range of your scores, which keep their unit (default 1 5)",
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default="isotonic",
        help="shape of the map: any rising one (isotonic, the default), or an S-shaped curve of "
        "four numbers (logistic), which suits few videos",
    )
    command.add_argument(
        "--skip-bad-lines", action="store_true", help="leave bad label lines out instead of ending"
    )
    output = command.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE.json",
        help=f"where the map goes (default: {CALIBRATION_NAME} in the model's folder, where "
        "`score` finds it by itself)",
    )
    output.add_argument(
        "--output",
        metavar="FILE",
        help="keep the rows (.jsonl or .csv); the same line again scores what is missing",
    )
    output.add_argument("--json", action="store_true", help="the map as JSON on stdout")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_asking(command.add_argument_group("asking"))
    add_seeing(command.add_argument_group("seeing"))
    add_running(command.add_argument_group("running"))


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    videos = read_videos(args)
    settings = read_settings(args)
    out = args.out or default_place(args)
    if not Path(out).absolute().parent.is_dir():
        args.parser.error(f"{out}: there is no such folder")

    from vqathinker_jax.result_file import ResultFile, ResultFileError
    from vqathinker_jax.score_settings import calibration_settings

    paths = [video.path for video in videos]
    try:
        model = load_model(args, calibration="none")
        fingerprint = model.settings_fingerprint(settings)
        file = ResultFile(args.output, fingerprint, paths) if args.output else None
    except (ValueError, ResultFileError) as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet:
        print(f"note: {model.warning}", file=sys.stderr)
    done = [] if file is None else [row for row in file.finished() if row.path in set(paths)]
    todo = paths if file is None else [path for path in paths if not file.is_done(path)]
    try:
        results = [*done, *score_files(args, model, settings, todo, file, print_rows=False)]
        scores, opinions = pairs(videos, results)
        left_out = len(videos) - len(scores)
        if left_out:
            print(f"{left_out} of {len(videos)} videos have no score", file=sys.stderr)
        fitted = fit_calibration(
            scores,
            opinions,
            source=os.path.basename(args.labels),
            settings=calibration_settings(model.loaded, settings),
            method=args.method,
        )
        if fitted.is_useful:
            write_calibration(fitted, out)
    except (CalibrationError, ResultFileError) as error:
        return fail(args, error, SOME_FAILED)
    if args.json:
        place = os.fspath(out) if fitted.is_useful else None
        print(json.dumps({**dataclasses.asdict(fitted), "file": place}))
    else:
        print(describe(fitted))
    if not fitted.is_useful:
        is_guess = fitted.errors.after >= fitted.errors.constant
        beaten_by = "the guess" if is_guess else "the scores as they are"
        reason = f"the map is no better than {beaten_by}, so it is not stored"
        return fail(args, reason, SOME_FAILED)
    if not args.json:
        print(f"written to {out}")
    return SOME_FAILED if any(row.status != "ok" for row in results) else OK


def read_videos(args: argparse.Namespace) -> tuple[LabelledVideo, ...]:
    """The labelled videos, their scores in the label's unit; ends the program on bad labels."""
    from vqathinker_jax.data.labels import LabelError, Scale, read_labels

    low, high = args.scale
    if not low < high:
        args.parser.error(f"--scale needs LOW below HIGH, got {low:g} {high:g}")
    try:
        labels = read_labels(
            args.labels,
            scale=Scale(low, high),
            video_root=args.video_root,
            on_bad="skip" if args.skip_bad_lines else "refuse",
        )
    except LabelError as error:
        args.parser.error(f"{error}\n--skip-bad-lines leaves them out")
    except OSError as error:
        args.parser.error(f"{args.labels}: {error.strerror}")
    except ValueError as error:
        args.parser.error(str(error))
    if labels.bad_lines:
        print(f"{len(labels.bad_lines)} bad label lines are left out", file=sys.stderr)
    if len(labels.videos) < LEAST_VIDEOS:
        args.parser.error(
            f"{args.labels} has {len(labels.videos)} usable lines; a calibration takes at least "
            f"{LEAST_VIDEOS} videos"
        )
    return labels.videos


def default_place(args: argparse.Namespace) -> Path:
    """The model's own folder; ends the program where the model is no folder of the user's."""
    folder = Path(args.model).expanduser()
    if not folder.is_dir():
        args.parser.error(
            f"{args.model} is not a folder, so the map cannot be kept in it; name a file with --out"
        )
    return folder / CALIBRATION_NAME


def pairs(
    videos: tuple[LabelledVideo, ...], results: list[ScoreResult]
) -> tuple[list[float], list[float]]:
    """Scores and opinion scores of the videos that have both, in the order of the labels."""
    by_path = {result.path: result.score for result in results}
    both = [
        (by_path[video.path], video.score)
        for video in videos
        if by_path.get(video.path) is not None
    ]
    return [score for score, _ in both], [opinion for _, opinion in both]


def describe(fitted: Calibration) -> str:
    """What was found, for a person."""
    errors = fitted.errors
    lines = [
        f"{fitted.method} map with {len(fitted.scores)} points, fitted on {fitted.num_videos} "
        f"videos of {fitted.source}",
        f"rank correlation of scores and opinions: {errors.srcc:.3f}",
        "root mean square error, in the unit of your scores:",
        f"  {errors.before:8.3f}  the model's scores as they are",
        f"  {errors.after:8.3f}  mapped, on videos left out of the fit ({NUM_FOLDS} folds)",
        f"  {errors.constant:8.3f}  a guess of the mean opinion, for comparison",
    ]
    step = max(1, (len(fitted.scores) - 1) // 6)
    shown = list(zip(fitted.scores, fitted.opinions, strict=True))[::step]
    lines.append("map: " + ", ".join(f"{x:.2f} → {y:.4g}" for x, y in shown))
    return "\n".join(lines)
