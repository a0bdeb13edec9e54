"""`vqathinker score`: scores and reasons for files, folders and lists of paths."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    at_least_one,
    fail,
    whole_number,
)
from vqathinker_jax.data.prompt import STYLES
from vqathinker_jax.rl.answers import FALLBACKS
from vqathinker_jax.spec import VIEWS, VideoSpec

if TYPE_CHECKING:
    from vqathinker_jax.api import VideoQualityModel
    from vqathinker_jax.results import ResultFile, ScoreResult
    from vqathinker_jax.scoring import ScoreSettings

GEOMETRY = tuple(field.name for field in dataclasses.fields(VideoSpec))
COUNTS = tuple(name for name in GEOMETRY if name not in ("view", "has_motion"))
"""Each has an option of its own that changes it."""


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
    command.add_argument(
        "--model",
        metavar="DIR|OWNER/NAME",
        help="model folder (published, InternVL3, -hf or converted layout), or a hub id "
        "(default: the nano model, where one is bundled)",
    )
    output = command.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="write rows to FILE (.jsonl or .csv); the same line again scores what is missing",
    )
    output.add_argument("--json", action="store_true", help="JSON lines on stdout")
    output.add_argument(
        "--explain",
        action="store_true",
        help="say which distortions the reasoning names: color, noise, artifact, blur, temporal "
        "(by keywords)",
    )
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_asking(command.add_argument_group("asking"))
    add_seeing(command.add_argument_group("seeing"))
    add_running(command.add_argument_group("running"))


def add_asking(asking: argparse._ArgumentGroup) -> None:
    """How the model is asked."""
    asking.add_argument(
        "--samples",
        type=at_least_one,
        default=1,
        metavar="K",
        help="answers per video; above 1 they are sampled, and their mean and std reported",
    )
    asking.add_argument(
        "--temperature", type=float, metavar="X", help="sample at X (default: greedy; 0.9 with K)"
    )
    asking.add_argument("--top-k", type=int, default=50, metavar="N", help="default 50; 0 is off")
    asking.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1.0")
    asking.add_argument("--seed", type=int, default=0, help="root of all sampling (default 0)")
    asking.add_argument(
        "--max-new-tokens", type=at_least_one, default=1024, metavar="N", help="default 1024"
    )
    asking.add_argument("--question", metavar="TEXT", help="ask this instead of the published one")
    asking.add_argument(
        "--prompt-style",
        choices=STYLES,
        help="published wording for inference or for training, or the brief one of small models "
        "(default: the folder's, or test)",
    )
    asking.add_argument(
        "--fallback",
        choices=FALLBACKS,
        default="none",
        help="what to read of an answer without tags (default none: it has no score)",
    )


def add_seeing(seeing: argparse._ArgumentGroup) -> None:
    """How videos are shown to it."""
    seeing.add_argument(
        "--geometry",
        choices=("inference", "training"),
        help="published geometry: 12 frames of 560 px, or 6 of 448 (default: the folder's, or "
        "inference)",
    )
    for name in COUNTS:
        seeing.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_number,
            metavar="N",
            help="instead of the geometry's",
        )
    seeing.add_argument(
        "--view", choices=VIEWS, help="how frames are shown, instead of the geometry's"
    )
    seeing.add_argument(
        "--motion",
        dest="has_motion",
        action=argparse.BooleanOptionalAction,
        help="with or without the motion token, instead of the geometry's",
    )
    seeing.add_argument("--decoder", choices=("pyav", "decord"), default="pyav")


def add_running(running: argparse._ArgumentGroup) -> None:
    """With what means."""
    running.add_argument(
        "--batch-size", type=at_least_one, default=1, metavar="N", help="videos at once (default 1)"
    )
    running.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="compute dtype; auto is bfloat16 on accelerators and float32 on a CPU",
    )
    running.add_argument(
        "--workers", type=at_least_one, metavar="N", help="decoding processes (default: by cores)"
    )
    running.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="give up on decoding a file after this long (default 120)",
    )
    running.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="address space a decoding process may use (default 4)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.data.sources import expand_sources
    from vqathinker_jax.results import ResultFile, ResultFileError

    try:
        paths = expand_sources(args.sources)
    except ValueError as error:
        args.parser.error(str(error))
    if not paths:
        args.parser.error("no video or image found in what was named")

    from vqathinker_jax.api import from_pretrained, video_spec

    settings = read_settings(args)
    changes = {name: vars(args)[name] for name in GEOMETRY if vars(args)[name] is not None}
    try:
        video = video_spec(args.model, args.geometry, changes)
        model = from_pretrained(args.model, dtype=args.dtype, video=video)
        fingerprint = model.settings_fingerprint(settings)
        file = ResultFile(args.output, fingerprint, paths) if args.output else None
    except (ValueError, ResultFileError) as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet:
        print(f"note: {model.warning}", file=sys.stderr)

    todo = paths if file is None else [path for path in paths if not file.is_done(path)]
    skipped = len(paths) - len(todo)
    if skipped and not args.quiet:
        print(f"{skipped} of {len(paths)} already in {args.output}", file=sys.stderr)
    return score_all(args, model, settings, todo, file)


def read_settings(args: argparse.Namespace) -> ScoreSettings:
    """How to ask, from the options; ends the program where they cannot be."""
    from vqathinker_jax.scoring import ScoreSettings

    try:
        return ScoreSettings(
            samples=args.samples,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
            max_new_tokens=args.max_new_tokens,
            question=args.question,
            prompt_style=args.prompt_style,
            fallback=args.fallback,
            decoder=args.decoder,
            batch_size=args.batch_size,
            workers=args.workers,
            timeout_s=args.timeout,
            memory_bytes=int(args.memory * 2**30),
        )
    except (ValueError, OverflowError) as error:
        args.parser.error(str(error))


def score_all(
    args: argparse.Namespace,
    model: VideoQualityModel,
    settings: ScoreSettings,
    paths: list[str],
    file: ResultFile | None,
) -> int:
    """Scores the files, shows and writes each as it comes; returns the exit code."""
    from vqathinker_jax.results import ResultFileError
    from vqathinker_jax.terminal import Progress, print_results

    results: list[ScoreResult] = []
    try:
        with Progress(total=len(paths), is_quiet=args.quiet) as progress:
            for result in model.score_many(paths, settings):
                if args.explain:
                    result = explained(result)
                results.append(result)
                if args.json:
                    print(result.to_json(), flush=True)
                if file is not None:
                    file.write(result)
                progress.advance(result)
    except (KeyboardInterrupt, ResultFileError) as error:
        # What is known already is not lost, even where nothing else holds it.
        if not args.json:
            print_results(results)
        if isinstance(error, KeyboardInterrupt):
            raise
        return fail(args, error, SOME_FAILED)
    if file is not None:
        file.close()
    if not args.json:
        print_results(results)
    if not args.quiet:
        print(summary(results, args.output), file=sys.stderr)
    return SOME_FAILED if any(result.status != "ok" for result in results) else OK


def explained(result: ScoreResult) -> ScoreResult:
    """The result with the distortions that its reasoning names."""
    from vqathinker_jax.evaluation.distortions import attribute

    text = result.reasoning or result.response
    if result.status != "ok" or not text:
        return result
    return dataclasses.replace(result, distortions=attribute(text).named)


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
    if output:
        parts.append(f"rows in {output}")
    return "; ".join(parts)
