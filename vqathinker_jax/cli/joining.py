"""The options of commands that several processes run together, and how these join."""

from __future__ import annotations

import argparse
import os
import sys

from vqathinker_jax.cli.parsing import at_least_one, whole_number
from vqathinker_jax.launchers import started_together

JOIN_TIMEOUT_S = 300


def add_joining(group: argparse._ArgumentGroup, shared: str) -> None:
    """Declares them.

    Args:
      group: of the command's options.
      shared: what the processes do together.
    """
    group.add_argument(
        "--distributed",
        action="store_true",
        help=f"several processes, one a host or a device, {shared}: run the same line in all of "
        "them",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of process 0, with --processes and --process (default: found by JAX on TPU pods and "
        "under Slurm, Open MPI and Kubernetes)",
    )
    group.add_argument("--processes", type=at_least_one, metavar="N", help="how many there are")
    group.add_argument("--process", type=whole_number, metavar="I", help="this one, from 0")
    group.add_argument(
        "--join-timeout",
        type=at_least_one,
        default=JOIN_TIMEOUT_S,
        metavar="SECONDS",
        help=f"to wait for the last process to come (default {JOIN_TIMEOUT_S})",
    )


def check_joining(args: argparse.Namespace) -> None:
    """Ends the program where these options do not go together."""
    placed = (args.coordinator, args.processes, args.process)
    if any(one is not None for one in placed):
        if not args.distributed or any(one is None for one in placed):
            args.parser.error(
                "--coordinator, --processes and --process go together, with --distributed"
            )
        if args.process >= args.processes:
            args.parser.error(
                f"--process must be below --processes {args.processes}, got {args.process}"
            )


def refuse_several(args: argparse.Namespace) -> None:
    """Ends the program where several processes were started that would not know each other."""
    if not args.distributed and (sign := started_together(os.environ)):
        args.parser.error(
            f"several processes of this command were started ({sign}), and --distributed is missing"
        )


def join_others(args: argparse.Namespace) -> None:
    """Joins the other processes.

    Raises:
      ProcessesError: they cannot be found, or some did not come.
    """
    from vqathinker_jax.processes import join

    join(args.coordinator, args.processes, args.process, args.join_timeout)


def keep_stdout_for_results() -> None:
    """Sends to stderr what libraries print past Python, as those do that connect processes."""
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(results, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
