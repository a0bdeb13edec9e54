"""`vqathinker train`: GRPO or SFT from a configuration file."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    at_least_one,
    fail,
)


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "train",
        run,
        "train a model with GRPO or SFT from a configuration file",
        "Trains a model as CONFIG says. Any setting can be changed on this line, for instance\n"
        "--run.steps 100 --optimizer.learning_rate 1e-5. The same line again goes on where the\n"
        "run stopped; Ctrl-C and SIGTERM save first. RUN gets the settings, logs, checkpoints\n"
        "and the finished model. Where CONFIG has a section `before`, what it says is trained\n"
        "first, in RUN/before (--before.run.steps 100 changes that stage alone).",
    )
    command.set_defaults(takes_settings=True)
    command.add_argument("config", metavar="CONFIG.yaml", help="settings; see configs/")
    command.add_argument(
        "--output-dir",
        metavar="RUN",
        help="folder of the run (default: runs/ and the name of CONFIG)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    command.add_argument(
        "--profile",
        type=at_least_one,
        metavar="N",
        help="write a trace of step N to RUN/profile, for XProf or TensorBoard's profile plugin; "
        "a first step compiles, so 3 says more than 1",
    )


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.config import ConfigError, load_stages

    folder = Path(args.output_dir or Path("runs", Path(args.config).stem))
    try:
        stages = load_stages(args.config, folder, args.settings)
    except ConfigError as error:
        return fail(args, error, WRONG_USAGE)

    from vqathinker_jax.data.dataset import UnreadableVideosError
    from vqathinker_jax.data.labels import LabelError
    from vqathinker_jax.rl.run_state import TrainingError
    from vqathinker_jax.rl.train import train_stages
    from vqathinker_jax.weights.errors import WeightsError

    try:
        train_stages(stages, is_quiet=args.quiet, profile_step=args.profile)
    except ConfigError as error:
        return fail(args, error, WRONG_USAGE)
    except (TrainingError, WeightsError, LabelError, UnreadableVideosError) as error:
        return fail(args, error, SOME_FAILED)
    except OSError as error:
        is_bare = error.filename is not None and error.strerror is not None
        said = f"{error.filename}: {error.strerror}" if is_bare else error
        return fail(args, said, SOME_FAILED)
    return OK
