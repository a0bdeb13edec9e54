"""`vqathinker score`: scores and reasons for files, folders and lists of paths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.cli.model_options import (
    add_asking,
    add_model,
    add_running,
    add_seeing,
    load_model,
    read_settings,
)
from vqathinker_jax.cli.parsing import OK, SOME_FAILED, WRONG_USAGE, Commands, add_command, fail

if TYPE_CHECKING:
    from vqathinker_jax.api import VideoQualityModel
    from vqathinker_jax.result_file import ResultFile
    from vqathinker_jax.results import ScoreResult
    from vqathinker_jax.score_settings import ScoreSettings


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "score",
        run,
        "score files, folders, globs or lists of paths",
        "Scores videos and still images from 1 (worst) to 5 (best) and gives the reasons.\n"
        "A broken file gets an error row; the others are scored all the same (exit code 1).",
    )
    command.add_argument(
        "sources",
        nargs="+",
        metavar="FILE|DIR|GLOB|LIST.txt",
        help="videos, images, folders of them, glob patterns, or a text file with a path a line",
    )
    add_model(command)
    output = command.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="write rows to FILE (.jsonl or .csv); the same line again scores what is missing",
    )
    output.add_argument(
        "--segment",
        type=float,
        metavar="SECONDS",
        help="also score every stretch of so many seconds, and name the worst moments",
    )
    output.add_argument(
        "--timeline-plot",
        metavar="FILE",
        help="draw the scores over time into FILE (.png or .svg); needs --segment",
    )
    output.add_argument(
        "--report",
        metavar="FILE.html",
        help="write one page to look at: a table that can be sorted, frames, reasons, timelines",
    )
    output.add_argument("--json", action="store_true", help="JSON lines on stdout")
    output.add_argument(
        "--explain",
        action="store_true",
        help="say which distortions the reasoning names: color, noise, artifact, blur, temporal "
        "(by keywords)",
    )
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    asking = command.add_argument_group("asking")
    add_asking(asking)
    asking.add_argument(
        "--calibration",
        metavar="FILE|none",
        help="map scores by this file of `vqathinker calibrate` (default: the model folder's own, "
        "where it has one); rows keep the plain score beside it",
    )
    add_seeing(command.add_argument_group("seeing"))
    add_running(command.add_argument_group("running"))


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.data.sources import expand_sources
    from vqathinker_jax.result_file import ResultFile, ResultFileError

    try:
        paths = expand_sources(args.sources)
    except ValueError as error:
        args.parser.error(str(error))
    if not paths:
        args.parser.error("no video or image found in what was named")
    if args.timeline_plot and args.segment is None:
        args.parser.error("--timeline-plot needs --segment SECONDS")

    from vqathinker_jax.reports.page import ReportError, check_writable
    from vqathinker_jax.timeline_plot import PlotError, check_plot

    settings = read_settings(args, args.segment)
    if args.timeline_plot:
        try:
            check_plot(args.timeline_plot, len(paths))
        except PlotError as error:
            args.parser.error(str(error))
    if args.report:
        try:
            check_writable(Path(args.report))
        except ReportError as error:
            args.parser.error(str(error))
    try:
        model = load_model(args, args.calibration or "auto")
        fingerprint = model.settings_fingerprint(settings)
        file = ResultFile(args.output, fingerprint, paths) if args.output else None
    except (ValueError, ResultFileError) as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet:
        print(f"note: {model.warning}", file=sys.stderr)
    if model.calibration and not args.quiet:
        print(f"note: {about_calibration(model, settings)}", file=sys.stderr)

    todo = paths if file is None else [path for path in paths if not file.is_done(path)]
    skipped = len(paths) - len(todo)
    if skipped and not args.quiet:
        print(f"{skipped} of {len(paths)} already in {args.output}", file=sys.stderr)
    earlier = [] if file is None else [row for row in file.finished() if row.path in set(paths)]
    return score_all(args, model, settings, todo, file, earlier)


def about_calibration(model: VideoQualityModel, settings: ScoreSettings) -> str:
    """What is said of a model's calibration before it is used, or left out."""
    from vqathinker_jax.score_settings import calibration_settings

    if model.calibration.settings == calibration_settings(model.loaded, settings):
        return f"calibrated scores follow the arrow: {model.calibration.describe()}"
    return (
        "scores are not calibrated: the calibration was fitted to another model or to other "
        "settings (geometry, prompt, samples, aggregate)"
    )


def score_all(
    args: argparse.Namespace,
    model: VideoQualityModel,
    settings: ScoreSettings,
    paths: list[str],
    file: ResultFile | None,
    earlier: list[ScoreResult],
) -> int:
    """Scores the files, shows and writes each as it comes; returns the exit code.

    `earlier` are the rows of files that were scored before; a plot shows them too.
    """
    from vqathinker_jax.reports.page import ReportError
    from vqathinker_jax.result_file import ResultFileError
    from vqathinker_jax.terminal import print_results
    from vqathinker_jax.timeline_plot import PlotError

    try:
        results = score_files(args, model, settings, paths, file, True, args.explain)
        if not args.json:
            print_results(results)
        if args.timeline_plot:
            draw_timelines(args, [*earlier, *results])
        if args.report:
            write_report(args, model, [*earlier, *results])
    except (ResultFileError, PlotError, ReportError) as error:
        return fail(args, error, SOME_FAILED)
    if not args.quiet:
        print(summary(results, args.output), file=sys.stderr)
    return SOME_FAILED if any(result.status != "ok" for result in results) else OK


def score_files(
    args: argparse.Namespace,
    model: VideoQualityModel,
    settings: ScoreSettings,
    paths: list[str],
    file: ResultFile | None,
    print_rows: bool,
    explains: bool = False,
) -> list[ScoreResult]:
    """Scores files with progress on stderr, and writes each row as it comes.

    Args:
      args: of the command; `quiet` and `json` are looked at.
      model, settings, paths: what is asked of whom.
      file: where the rows go too; closed at the end.
      print_rows: whether stdout gets rows: JSON lines as they come where asked for, and on an
        early end what is known already.
      explains: whether rows get the distortions that the reasoning names.

    Raises:
      ResultFileError: the file cannot be written.
    """
    from vqathinker_jax.evaluation.distortions import with_distortions
    from vqathinker_jax.result_file import ResultFileError
    from vqathinker_jax.terminal import Progress, print_results

    results: list[ScoreResult] = []
    try:
        with Progress(total=len(paths), is_quiet=args.quiet) as progress:
            for result in model.score_many(paths, settings):
                if explains:
                    result = with_distortions(result)
                results.append(result)
                if args.json and print_rows:
                    print(result.to_json(), flush=True)
                if file is not None:
                    file.write(result)
                progress.advance(result)
    except (KeyboardInterrupt, ResultFileError):
        # What is known already is not lost, even where nothing else holds it.
        if print_rows and not args.json:
            print_results(results)
        raise
    if file is not None:
        file.close()
    return results


def draw_timelines(args: argparse.Namespace, results: list[ScoreResult]) -> None:
    """Writes the plot and says so; raises PlotError where it cannot be written."""
    from vqathinker_jax.timeline_plot import write_timeline_plot

    count = write_timeline_plot(results, args.timeline_plot)
    if not count:
        print(f"no timeline to draw, so {args.timeline_plot} was not written", file=sys.stderr)
    elif not args.quiet:
        print(f"{args.timeline_plot}: timelines of {count} videos", file=sys.stderr)


def write_report(
    args: argparse.Namespace, model: VideoQualityModel, results: list[ScoreResult]
) -> None:
    """Writes the page and says so; raises ReportError where it cannot be written."""
    from vqathinker_jax.evaluation.distortions import with_distortions
    from vqathinker_jax.reports.folder import write_folder_report

    if args.explain:
        # Rows of an earlier run may have been written without.
        results = [with_distortions(result) for result in results]
    if not args.quiet:
        print(f"writing {args.report}, with frames of the lowest scores", file=sys.stderr)
    write_folder_report(results, model.name, model.warning, Path(args.report))


def summary(results: list[ScoreResult], output: str | None) -> str:
    """What became of the files, in one line."""
    if not results:
        return "nothing left to do"
    failed = sum(result.status != "ok" for result in results)
    unparseable = sum(result.status == "ok" and not result.parseable for result in results)
    parts = [f"{len(results) - failed} answered"]
    if unparseable:
        parts.append(f"{unparseable} of them without a readable score")
    if failed:
        parts.append(f"{failed} failed")
    segments = [segment for result in results for segment in result.timeline]
    if segments:
        lost = sum(segment.error is not None for segment in segments)
        parts.append(f"{len(segments)} segments" + (f", {lost} without a score" if lost else ""))
    warned = sum(bool(result.warnings) for result in results)
    if warned:
        parts.append(f"{warned} with warnings (in --json and --output rows)")
    if output:
        parts.append(f"rows in {output}")
    return "; ".join(parts)
