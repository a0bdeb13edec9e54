"""`vqathinker train`: GRPO or SFT from a configuration file."""

from __future__ import annotations

import argparse
import dataclasses
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.cli.joining import (
    add_joining,
    check_joining,
    join_others,
    keep_stdout_for_results,
    refuse_several,
)
from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    at_least_one,
    fail,
)

if TYPE_CHECKING:
    from vqathinker_jax.config import Stage

INTERRUPTED = 130


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
    several = command.add_argument_group("several hosts (configs/launch/ has recipes)")
    add_joining(several, "train one model into one shared folder")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    check_joining(args)
    refuse_several(args)
    from vqathinker_jax.config import ConfigError, load_stages

    folder = Path(args.output_dir or Path("runs", Path(args.config).stem))
    try:
        stages = load_stages(args.config, folder, args.settings)
    except ConfigError as error:
        return fail(args, error, WRONG_USAGE)
    if args.distributed:
        return train_with_others(args, stages)
    failure = train_stages(args, stages)
    return OK if failure is None else fail(args, failure.line, failure.code)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run ended."""

    line: str
    """For the user."""
    code: int
    """The exit code."""


def train_stages(args: argparse.Namespace, stages: Sequence[Stage]) -> Failure | None:
    """Trains; gives what a user can be told of, where it did not end well."""
    from vqathinker_jax.config import ConfigError
    from vqathinker_jax.data.dataset import UnreadableVideosError
    from vqathinker_jax.data.labels import LabelError
    from vqathinker_jax.processes import ProcessesError
    from vqathinker_jax.rl import train
    from vqathinker_jax.rl.run_state import TrainingError
    from vqathinker_jax.weights.errors import WeightsError

    try:
        train.train_stages(stages, is_quiet=args.quiet, profile_step=args.profile)
    except (ConfigError, ProcessesError) as error:
        return Failure(str(error), WRONG_USAGE)
    except (TrainingError, WeightsError, LabelError, UnreadableVideosError) as error:
        return Failure(str(error), SOME_FAILED)
    except OSError as error:
        is_bare = error.filename is not None and error.strerror is not None
        return Failure(
            f"{error.filename}: {error.strerror}" if is_bare else str(error), SOME_FAILED
        )
    return None


def train_with_others(args: argparse.Namespace, stages: Sequence[Stage]) -> int:
    """Joins the other processes and trains with them; they all end where one of them fails."""
    from vqathinker_jax.processes import ProcessesError

    keep_stdout_for_results()
    try:
        join_others(args)
    except ProcessesError as error:
        return fail(args, error, WRONG_USAGE)

    import jax

    from vqathinker_jax.lifeline import Lifeline

    lifeline = Lifeline(lambda line: fail(args, line, SOME_FAILED))
    try:
        failure = train_stages(args, stages)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        lifeline.fail_with_others(f"computing with the others failed ({reason})", SOME_FAILED)
    except KeyboardInterrupt:
        lifeline.fail("interrupted", INTERRUPTED)
    except Exception as error:
        traceback.print_exc()
        lifeline.fail(f"{type(error).__name__}: {error}", SOME_FAILED)
    if failure is not None:
        fail(args, failure.line, failure.code)
        lifeline.fail(failure.line, failure.code)
    lifeline.close()
    return OK
