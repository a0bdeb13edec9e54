"""The whole command line: every command, and what happens around it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vqathinker_jax.cli import (
    app,
    calibrate,
    convert,
    demo,
    evaluate,
    make_tiny,
    plan,
    report,
    score,
    synth,
    train,
)
from vqathinker_jax.cli.parsing import OK, SOME_FAILED, Parser, did_you_mean

COMMANDS = (score, app, evaluate, calibrate, demo, train, plan, report, convert, make_tiny, synth)
"""In the order of the help."""

DESCRIPTION = """\
Score the quality of videos from 1 (worst) to 5 (best), with reasons, by a vision-language model.

  vqathinker make-tiny t                     a random model, for trying things out
  vqathinker score clip.mp4 --model M        one score and its reasons
  vqathinker demo --model M                  makes damaged clips, scores them, writes one page
  vqathinker score clips/ --model M --output scores.jsonl
                                             a folder; run the same line again to resume
  vqathinker score long.mp4 --model M --segment 5
                                             also every 5 seconds, worst moments named
  vqathinker app --model M                   a local page: drop a video, watch it being judged
  vqathinker evaluate --model M --benchmark NAME=LABELS.json:VIDEO_ROOT --out DIR
                                             agreement with people's scores
  vqathinker calibrate --model M --labels mine.csv
                                             a map from its scores to your own
  vqathinker train CONFIG.yaml --output-dir RUN
                                             GRPO or SFT; run the same line again to resume
  vqathinker plan CONFIG.yaml --topology v5p:2x2x2
                                             whether that fits a machine: compiled, not guessed
  vqathinker report RUN                      the curves of a run as one HTML file
"""


def build_parser() -> tuple[Parser, tuple[str, ...]]:
    """The parser, and the names of its commands."""
    parser = Parser(
        prog="vqathinker",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(parser=parser, run=None, takes_settings=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser, tuple(commands.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    # The tokenizer library advises installing torch; nothing here needs it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, names = build_parser()
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
