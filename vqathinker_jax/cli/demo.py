"""`vqathinker demo`: makes clips of known damage, scores them, and explains what it did."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.cli.model_options import add_model
from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    fail,
    whole_number,
)

if TYPE_CHECKING:
    from vqathinker_jax.demo.outcome import Demo


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "demo",
        run,
        "make clips, score them, and explain what was done: offline, in a minute or two",
        "Makes a dozen short clips from clean to badly damaged, asks a model about them, and sets\n"
        "its scores beside pseudo scores computed from the damage. OUT gets the clips, the rows\n"
        "(scores.jsonl) and one page to look at (demo.html). The same line again writes OUT anew;\n"
        "a folder that holds anything else is refused.",
    )
    command.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        default="vqathinker-demo",
        help="folder to write (default vqathinker-demo)",
    )
    add_model(command)
    command.add_argument(
        "--train",
        action="store_true",
        help="also train the model for a few steps of GRPO on other clips, and score again",
    )
    command.add_argument(
        "--seed", type=whole_number, default=0, help="another seed, other clips (default 0)"
    )
    command.add_argument("--json", action="store_true", help="JSON lines on stdout")
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.demo.folder import DemoError, DemoFolder

    try:
        folder = DemoFolder(Path(args.out))
    except DemoError as error:
        return fail(args, error, WRONG_USAGE)

    from vqathinker_jax.api import from_pretrained
    from vqathinker_jax.bundled import find_model
    from vqathinker_jax.demo.handful import HandfulConfig
    from vqathinker_jax.demo.run import run_demo
    from vqathinker_jax.demo.training import ShortRun
    from vqathinker_jax.rl.run_state import TrainingError

    try:
        config = HandfulConfig(seed=args.seed)
        model_folder = find_model(args.model)
        model = from_pretrained(args.model)
    except ValueError as error:
        return fail(args, error, WRONG_USAGE)
    if model.warning and not args.quiet:
        print(f"note: {model.warning}", file=sys.stderr)
    short_run = ShortRun(seed=args.seed) if args.train else None
    try:
        demo = run_demo(folder, model, model_folder, config, short_run, is_quiet=args.quiet)
    except (ValueError, OSError, TrainingError) as error:
        return fail(args, error, SOME_FAILED)
    if args.json:
        for row in demo.rows:
            print(row.to_json())
    else:
        print_table(demo)
    if not args.quiet:
        print(f"{folder.path / 'demo.html'}: the same to look at", file=sys.stderr)
    return SOME_FAILED if any(row.is_failed for row in demo.rows) else OK


def print_table(demo: Demo) -> None:
    """A table on a terminal, tab-separated lines elsewhere; then what was measured."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vqathinker_jax.demo.outcome import NOT_OPINIONS, agreement_text, change_text, reason
    from vqathinker_jax.terminal import shown_score

    heads = ["clip", "what was done", "pseudo", "model"]
    heads += ["reasons"] if demo.training is None else ["trained", "reasons (trained)"]
    lines = []
    for row in demo.rows:
        results = [row.before] if row.after is None else [row.before, row.after]
        scores = [f"{row.clip.pseudo_score:.2f}", *map(shown_score, results)]
        lines.append([row.clip.title, row.clip.done, *scores, reason(results[-1])])
    if sys.stdout.isatty():
        table = Table(show_lines=True)
        for head in heads:
            table.add_column(head, overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        Console().print(table)
    else:
        for line in [heads, *lines]:
            print(*line, sep="\t")
    print(f"model {demo.model_name}: {agreement_text(demo.agreement)}")
    if demo.training is not None:
        print(change_text(demo))
    print(NOT_OPINIONS)
