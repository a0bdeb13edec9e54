"""`vqathinker make-tiny`: a small random model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqathinker_jax.cli.parsing import OK, SOME_FAILED, Commands, add_command, fail


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "make-tiny",
        run,
        "make a small random model folder, for trying things out",
        "Makes a complete model folder in the published layout with random weights. Its answers\n"
        "mean nothing, and every output says so.",
    )
    command.add_argument("dir", metavar="DIR", help="folder to make; must not hold anything yet")
    command.add_argument("--seed", type=int, default=0, help="root of the random weights")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.weights.errors import WeightsError
    from vqathinker_jax.weights.tiny import make_tiny

    try:
        make_tiny(Path(args.dir), seed=args.seed)
    except WeightsError as error:
        return fail(args, error, SOME_FAILED)
    print(f"{args.dir}: a small random model in the published layout; its scores mean nothing")
    return OK
