"""The options of `vqathinker evaluate`."""

from __future__ import annotations

import argparse

from vqathinker_jax.cli.joining import add_joining, check_joining
from vqathinker_jax.cli.model_options import add_asking, add_model, add_running, add_seeing
from vqathinker_jax.cli.parsing import at_least_one, whole_number


def add_options(command: argparse.ArgumentParser) -> None:
    """Declares them."""
    command.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=LABELS:VIDEO_ROOT",
        help="label file (.json, .jsonl, .csv or .txt) and the folder its ids are in; repeatable",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs")
    add_model(command)
    command.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="FILE.csv",
        help="judge these predictions (filename,pred_score[,gt_score]) instead of a model's; "
        "repeatable",
    )
    command.add_argument(
        "--understanding",
        action="append",
        default=[],
        metavar="NAME=LABELS:VIDEO_ROOT",
        help="does the reasoning name the distortions that people saw? LABELS: FineVD's yes/no "
        "JSON lines (a file, or a folder of them), or a table video,color,noise,artifact,blur,"
        "temporal; repeatable",
    )
    command.add_argument(
        "--questions",
        action="append",
        default=[],
        metavar="NAME=FILE.json:VIDEO_ROOT",
        help="multiple choice: a list of objects with video, question, options, answer and group "
        "(such as global, referring), or Q-Bench-Video's own file (video_name, question, answers, "
        "correct_ans, question_type, context), of which open-ended questions and those about two "
        "videos are left out; repeatable",
    )
    command.add_argument(
        "--skip-bad-labels",
        action="store_true",
        help="leave out label rows that cannot be used, and say which (default: refuse the file)",
    )
    command.add_argument(
        "--no-report", action="store_true", help="do not write report.html, the page for people"
    )
    command.add_argument("--json", action="store_true", help="summary.json on stdout")
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    judging = command.add_argument_group("judging")
    judging.add_argument(
        "--bootstrap",
        type=whole_number,
        default=1000,
        metavar="N",
        help="draws for the intervals (default 1000; 0: none)",
    )
    judging.add_argument(
        "--level", type=float, default=0.95, metavar="P", help="of the intervals (default 0.95)"
    )
    judging.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=FILE.json",
        help="show these figures in columns beside the table: the summary.json of another "
        'evaluation, or {"KoNViD-1k": {"srcc": X, "plcc": X}, "in-domain": {"srcc": X}}, for '
        "instance a paper's; repeatable",
    )
    judging.add_argument(
        "--bootstrap-seed", type=whole_number, default=0, metavar="N", help="default 0"
    )
    endpoint = command.add_argument_group(
        "language model as the judge of --understanding (default: keywords, offline)"
    )
    endpoint.add_argument(
        "--judge-url",
        metavar="URL",
        help="OpenAI-compatible endpoint, as https://host/v1; the reasoning texts are sent there. "
        "Its key, where it wants one, is read from VQATHINKER_JUDGE_KEY",
    )
    endpoint.add_argument("--judge-model", metavar="NAME", help="which of its models")
    endpoint.add_argument(
        "--judge-timeout", type=float, default=60.0, metavar="SECONDS", help="default 60"
    )
    endpoint.add_argument(
        "--judge-attempts", type=at_least_one, default=3, metavar="N", help="per text (default 3)"
    )
    add_asking(command.add_argument_group("asking"))
    add_seeing(command.add_argument_group("seeing"))
    running = command.add_argument_group("running")
    add_running(running)
    running.add_argument(
        "--devices",
        type=at_least_one,
        metavar="N",
        help="devices of this process that score together, each with a copy of the model (default: "
        "all there are)",
    )
    add_joining(running, "each score their share of the videos, and process 0 writes the summary")


def check_options(args: argparse.Namespace) -> None:
    """Ends the program where options do not go together."""
    error = args.parser.error
    tasks = [*args.understanding, *args.questions]
    if not (args.benchmark or args.predictions or tasks):
        error("name at least one --benchmark NAME=LABELS:VIDEO_ROOT")
    if args.predictions and (args.model or tasks):
        error("--predictions needs no model: leave out --model, --understanding and --questions")
    if args.understanding and args.at_once:
        error("--understanding judges the reasons, and --at-once asks for none")
    if args.judge_model and not args.judge_url:
        error("--judge-model needs --judge-url")
    if args.judge_url and not args.understanding:
        error("--judge-url judges --understanding, which is not named")
    check_joining(args)
