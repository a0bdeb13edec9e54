"""The `vqathinker` command. Thin: it reads options, calls the library and prints.

Results go to stdout, everything else to stderr. Exit codes: 0 all well, 1 some inputs failed,
2 wrong usage. JAX is imported only by the commands that need it, once their options are right.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from vqathinker_jax.results import ScoreResult

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2

DESCRIPTION = """\
Score the quality of videos from 1 (worst) to 5 (best), with reasons, by a vision-language model.

  vqathinker make-tiny t                     a random model, for trying things out
  vqathinker score clip.mp4 --model t        one score and its reasons
  vqathinker score clips/ --model M --output scores.jsonl
                                             a folder; run the same line again to resume
  vqathinker train CONFIG.yaml --output-dir RUN
                                             GRPO or SFT; run the same line again to resume
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the nearest right word."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        print(f"{self.prog} --help shows what there is", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, but an unknown option is named with its nearest neighbour."""
        args, unknown = self.parse_known_args(argv)
        if unknown and not args.takes_settings:
            parser = args.parser
            wrong = unknown[0].split("=")[0]
            known = [option for action in parser._actions for option in action.option_strings]
            parser.error(f"unknown option {wrong!r}{did_you_mean(wrong, known)}")
        args.settings = unknown
        return args


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="vqathinker",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(parser=parser, run=None, takes_settings=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    add_score(commands)
    add_train(commands)
    add_convert(commands)
    add_make_tiny(commands)
    add_synth(commands)
    return parser


def add_command(commands, name: str, run, help: str, description: str) -> Parser:
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(parser=command, run=run)
    return command


# ------------------------------------------------------------------------------------------------
# score


def add_score(commands) -> None:
    command = add_command(
        commands,
        "score",
        run_score,
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
        help="model folder (published, InternVL3, -hf or converted layout), or a hub id",
    )
    output = command.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        help="write rows to FILE (.jsonl or .csv); the same line again scores what is missing",
    )
    output.add_argument("--json", action="store_true", help="JSON lines on stdout")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    asking = command.add_argument_group("asking")
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
        choices=("test", "train"),
        help="published wording for inference or for training (default: the folder's, or test)",
    )
    seeing = command.add_argument_group("seeing")
    seeing.add_argument(
        "--geometry",
        choices=("inference", "training"),
        help="published geometry: 12 frames of 560 px, or 6 of 448 (default: the folder's, or "
        "inference)",
    )
    seeing.add_argument("--num-frames", type=at_least_one, metavar="F")
    seeing.add_argument("--image-size", type=at_least_one, metavar="PX")
    seeing.add_argument("--slow-divisor", type=at_least_one, metavar="D")
    seeing.add_argument("--motion-repeat", type=at_least_one, metavar="R")
    seeing.add_argument("--decoder", choices=("pyav", "decord"), default="pyav")
    running = command.add_argument_group("running")
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


def run_score(args: argparse.Namespace) -> int:
    from vqathinker_jax.data.sources import expand_sources
    from vqathinker_jax.results import ResultFile, ResultFileError

    if args.model is None:
        args.parser.error(
            "name a model with --model DIR, or make a random one to try: vqathinker make-tiny DIR"
        )
    try:
        paths = expand_sources(args.sources)
    except ValueError as error:
        args.parser.error(str(error))
    if not paths:
        args.parser.error("no video or image found in what was named")
    overrides = {
        name: value
        for name in ("num_frames", "image_size", "slow_divisor", "motion_repeat")
        if (value := vars(args)[name]) is not None
    }

    from vqathinker_jax.api import from_pretrained, video_spec
    from vqathinker_jax.scoring import ScoreSettings

    try:
        settings = ScoreSettings(
            samples=args.samples,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
            max_new_tokens=args.max_new_tokens,
            question=args.question,
            prompt_style=args.prompt_style,
            decoder=args.decoder,
            batch_size=args.batch_size,
            workers=args.workers,
            timeout_s=args.timeout,
            memory_bytes=int(args.memory * 2**30),
        )
    except (ValueError, OverflowError) as error:
        args.parser.error(str(error))
    try:
        video = video_spec(args.model, args.geometry, overrides)
        model = from_pretrained(args.model, dtype=args.dtype, video=video)
        fingerprint = model.settings_fingerprint(settings)
        file = ResultFile(args.output, fingerprint, paths) if args.output else None
    except (ValueError, ResultFileError) as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return WRONG_USAGE
    if model.warning and not args.quiet:
        print(f"note: {model.warning}", file=sys.stderr)

    from vqathinker_jax.terminal import Progress, print_results

    todo = paths if file is None else [path for path in paths if not file.is_done(path)]
    skipped = len(paths) - len(todo)
    if skipped and not args.quiet:
        print(f"{skipped} of {len(paths)} already in {args.output}", file=sys.stderr)
    results: list[ScoreResult] = []
    try:
        with Progress(total=len(todo), is_quiet=args.quiet) as progress:
            for result in model.score_many(todo, settings):
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
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return SOME_FAILED
    if file is not None:
        file.close()
    if not args.json:
        print_results(results)
    failed = sum(result.status != "ok" for result in results)
    unparseable = sum(result.status == "ok" and not result.parseable for result in results)
    if not todo and not args.quiet:
        print("nothing left to do", file=sys.stderr)
    elif not args.quiet:
        parts = [f"{len(results) - failed} answered"]
        if unparseable:
            parts.append(f"{unparseable} of them without a readable score")
        if failed:
            parts.append(f"{failed} failed")
        if args.output:
            parts.append(f"rows in {args.output}")
        print("; ".join(parts), file=sys.stderr)
    return SOME_FAILED if failed else OK


# ------------------------------------------------------------------------------------------------
# train


def add_train(commands) -> None:
    command = add_command(
        commands,
        "train",
        run_train,
        "train a model with GRPO or SFT from a configuration file",
        "Trains a model as CONFIG says. Any setting can be changed on this line, for instance\n"
        "--run.steps 100 --optimizer.learning_rate 1e-5. The same line again goes on where the\n"
        "run stopped; Ctrl-C and SIGTERM save first. RUN gets the settings, logs, checkpoints\n"
        "and the finished model.",
    )
    command.set_defaults(takes_settings=True)
    command.add_argument("config", metavar="CONFIG.yaml", help="settings; see configs/")
    command.add_argument(
        "--output-dir",
        metavar="RUN",
        help="folder of the run (default: runs/ and the name of CONFIG)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run_train(args: argparse.Namespace) -> int:
    from vqathinker_jax.config import ConfigError, load_config

    try:
        config = load_config(args.config, args.settings)
    except ConfigError as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return WRONG_USAGE

    from vqathinker_jax.data.dataset import UnreadableVideosError
    from vqathinker_jax.data.labels import LabelError
    from vqathinker_jax.rl.run_state import TrainingError
    from vqathinker_jax.rl.train import train
    from vqathinker_jax.weights.errors import WeightsError

    folder = Path(args.output_dir or Path("runs", Path(args.config).stem))
    try:
        train(config, folder, is_quiet=args.quiet)
    except ConfigError as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return WRONG_USAGE
    except (TrainingError, WeightsError, LabelError, UnreadableVideosError, OSError) as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return SOME_FAILED
    return OK


# ------------------------------------------------------------------------------------------------
# convert


def add_convert(commands) -> None:
    command = add_command(
        commands,
        "convert",
        run_convert,
        "convert model folders: HuggingFace layouts to ours and back",
        "Converts a model folder without changing a bit of any tensor. SRC may be the published\n"
        "folder, a plain InternVL3 folder, a transformers-native (-hf) folder, or a checkpoint\n"
        "made by this command.",
    )
    command.add_argument("src", metavar="SRC", help="model folder or hub id")
    command.add_argument("dst", metavar="DST", help="folder to make; must not hold anything yet")
    command.add_argument("--to", choices=("jax", "hf"), required=True, help="what DST becomes")
    command.add_argument(
        "--layout",
        choices=("official", "hf"),
        help="names for --to hf: the published layout or the transformers-native one "
        "(default: that of SRC)",
    )
    command.add_argument(
        "--slowfast",
        metavar="FILE.pyth",
        help="SLOWFAST_8x8_R50.pyth for a folder without a motion encoder",
    )
    command.add_argument(
        "--verify", action="store_true", help="read DST again and compare every tensor bit for bit"
    )


def run_convert(args: argparse.Namespace) -> int:
    from vqathinker_jax.weights.convert import convert
    from vqathinker_jax.weights.errors import WeightsError

    try:
        report = convert(
            args.src,
            args.dst,
            to=args.to,
            verify=args.verify,
            layout=args.layout,
            slowfast_pyth=args.slowfast,
        )
    except WeightsError as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return SOME_FAILED
    print(report)
    return OK


# ------------------------------------------------------------------------------------------------
# make-tiny


def add_make_tiny(commands) -> None:
    command = add_command(
        commands,
        "make-tiny",
        run_make_tiny,
        "make a small random model folder, for trying things out",
        "Makes a complete model folder in the published layout with random weights. Its answers\n"
        "mean nothing, and every output says so.",
    )
    command.add_argument("dir", metavar="DIR", help="folder to make; must not hold anything yet")
    command.add_argument("--seed", type=int, default=0, help="root of the random weights")


def run_make_tiny(args: argparse.Namespace) -> int:
    from vqathinker_jax.weights.errors import WeightsError
    from vqathinker_jax.weights.tiny import make_tiny

    try:
        make_tiny(Path(args.dir), seed=args.seed)
    except WeightsError as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return SOME_FAILED
    print(f"{args.dir}: a small random model in the published layout; its scores mean nothing")
    return OK


# ------------------------------------------------------------------------------------------------
# synth


def add_synth(commands) -> None:
    command = add_command(
        commands,
        "synth",
        run_synth,
        "make distorted clips with pseudo opinion scores",
        "Writes real video files of procedural and photographic content with known distortions,\n"
        "labels from 1 to 5 computed from their severity, and a split by content. The labels are\n"
        "not opinions of people. The same line again goes on where it stopped.",
    )
    command.add_argument("dir", metavar="OUT", help="folder to make or to go on with")
    command.add_argument("--clips", type=at_least_one, required=True, metavar="N", help="how many")
    command.add_argument("--seed", type=int, default=0, help="root of everything (default 0)")
    command.add_argument(
        "--workers", type=at_least_one, metavar="N", help="processes (default: as many as cores)"
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run_synth(args: argparse.Namespace) -> int:
    from vqathinker_jax.synthetic.collection import SynthesisError, synthesize
    from vqathinker_jax.terminal import Counter

    try:
        with Counter("clips", args.clips, is_quiet=args.quiet) as counter:
            made = synthesize(
                args.dir,
                args.clips,
                args.seed,
                args.workers,
                command=f"vqathinker synth OUT --clips {args.clips} --seed {args.seed}",
                progress=counter.show,
            )
    except SynthesisError as error:
        print(f"{args.parser.prog}: {error}", file=sys.stderr)
        return SOME_FAILED
    if not made.has_photographs:
        print(
            "note: without scikit-image (extra `synth`) all content is procedural", file=sys.stderr
        )
    counts = ", ".join(f"{count} {split}" for split, count in made.counts.items())
    print(f"{args.dir}: {made.num_written} clips written, {made.num_kept} kept ({counts})")
    return OK


# ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    # The tokenizer library advises installing torch; nothing here needs it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    names = ("score", "train", "convert", "make-tiny", "synth")
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        parser.error(f"unknown command {argv[0]!r}{did_you_mean(argv[0], names)}")
    args = parser.parse_strictly(argv)
    if args.version:
        from vqathinker_jax import __version__

        print(f"vqathinker {__version__}")
        return OK
    if args.run is None:
        parser.print_help()
        return OK
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED


if __name__ == "__main__":
    raise SystemExit(main())
