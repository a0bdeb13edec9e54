"""`vqathinker report`: the curves of a training run as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqathinker_jax.cli.parsing import OK, SOME_FAILED, Commands, add_command, fail


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "report",
        run,
        "draw the curves of a training run into one HTML file",
        "Draws what a run has logged so far: validation, rewards, loss, lengths and speed, with\n"
        "its settings and some of the responses it sampled. The file needs no network and no\n"
        "other file. It can be made while the run is going on, and again later.",
    )
    command.add_argument("run_dir", metavar="RUN", help="folder of the run (train --output-dir)")
    command.add_argument("--output", metavar="FILE.html", help="default: RUN/report.html")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.reports.page import ReportError
    from vqathinker_jax.rl.recorded_run import NoRunError
    from vqathinker_jax.rl.report import write_report

    folder = Path(args.run_dir)
    output = Path(args.output) if args.output else folder / "report.html"
    try:
        write_report(folder, output)
    except (NoRunError, ReportError, OSError) as error:
        return fail(args, error, SOME_FAILED)
    print(output)
    return OK
