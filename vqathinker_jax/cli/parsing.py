"""What the commands share: their parser, the types of their options and their exit codes."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2

Commands = argparse._SubParsersAction
"""What commands are added to; argparse has no public name for it."""


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


def whole_number(text: str) -> int:
    """An option's value that is 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}")
    return int(text)


def at_least_one(text: str) -> int:
    """An option's value that is 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    description: str,
) -> Parser:
    """Adds a command.

    Args:
      commands: of the whole command line.
      name: what the user types.
      run: from its parsed options to the exit code.
      help: its line in `vqathinker --help`.
      description: the head of its own help.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(parser=command, run=run)
    return command


def fail(args: argparse.Namespace, error: Exception | str, code: int) -> int:
    """Says in one line why a command ends; gives back the exit code."""
    print(f"{args.parser.prog}: {error}", file=sys.stderr)
    return code
