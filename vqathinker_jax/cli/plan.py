"""`vqathinker plan`: whether a training step fits a machine, by compiling it."""

from __future__ import annotations

import argparse
import json
import os
import sys
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

DOES_NOT_FIT = 3
PHASES = ("encode", "project", "perturb", "prefill", "decode", "reference", "update")
"""Those of `plan.job.PHASES`, which the help must not import jax for."""
OVERRIDES = {
    "rollout_tensor": "mesh.rollout_tensor",
    "micro_batch": "run.micro_batch",
    "remat": "model.remat",
}
"""Options that are short for a setting."""


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "plan",
        run,
        "say whether a training step fits a machine, by compiling it for that machine",
        "Compiles every program of a training step at full size for a machine that need not be\n"
        "there, without weights, and says what each takes of a chip's memory. Any setting can be\n"
        "changed on this line as in `train`, for instance --mesh.fsdp 4. One compilation takes\n"
        "about a minute or two. Exit code 0: fits, 3: does not fit, 1: could not be compiled.\n"
        "\n"
        "TPUs (v5p, v5e, v6e) need pip install 'vqathinker_jax[tpu]', graphics cards (h100, h200,\n"
        "a100) pip install 'vqathinker_jax[plan-cuda]'; the chips themselves are not needed.",
    )
    command.set_defaults(takes_settings=True)
    command.add_argument("config", metavar="CONFIG.yaml", help="settings; see configs/")
    command.add_argument(
        "--topology",
        action="append",
        required=True,
        metavar="CHIP:SHAPE",
        help="v5p:2x2x2, v6e:4x4, v5e:8x8, h100:8, h200:8, a100:8, cpu:8, ...; may be repeated",
    )
    command.add_argument(
        "--mesh",
        metavar="D,F,T",
        help="devices along data, fsdp and tensor; `auto`: all of the topology, over fsdp as far "
        "as the videos of a step allow, the rest over tensor",
    )
    command.add_argument(
        "--rollout-tensor", type=at_least_one, metavar="N", help="short for --mesh.rollout_tensor"
    )
    command.add_argument(
        "--micro-batch", type=at_least_one, metavar="N", help="short for --run.micro_batch"
    )
    command.add_argument(
        "--remat", choices=("none", "names", "full"), help="short for --model.remat"
    )
    command.add_argument(
        "--preset",
        metavar="NAME",
        help="architecture where model.path is not here and its name does not say it",
    )
    command.add_argument(
        "--prompt-length",
        type=at_least_one,
        metavar="P",
        help="tokens of the prompt (default: counted, or estimated where there is no tokenizer)",
    )
    command.add_argument(
        "--completion",
        type=at_least_one,
        metavar="C",
        help="tokens of the longest response (default: rollout.max_completion_length)",
    )
    command.add_argument(
        "--only", action="append", default=[], choices=PHASES, help="this phase; may be repeated"
    )
    command.add_argument("--json", action="store_true", help="one JSON line for each topology")
    command.add_argument(
        "--no-suggestions",
        action="store_true",
        help="do not look for changes with which it would fit",
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    # Nothing is computed here: devices of this machine are left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from vqathinker_jax.config import ConfigError
    from vqathinker_jax.plan.topologies import PlanError
    from vqathinker_jax.weights.errors import WeightsError

    try:
        plans = [_prepared(args, name) for name in args.topology]
    except (ConfigError, PlanError) as error:
        return fail(args, error, WRONG_USAGE)
    except WeightsError as error:
        return fail(args, error, SOME_FAILED)

    from vqathinker_jax.plan.apart import compile_apart
    from vqathinker_jax.plan.run import make_plan
    from vqathinker_jax.plan.table import LEGEND, plan_text

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    code = OK
    for prepared in plans:
        plan = make_plan(*prepared, compile_apart, say, not args.no_suggestions)
        print(json.dumps(plan.to_json()) if args.json else plan_text(plan) + "\n", flush=True)
        if not plan.is_compiled:
            code = SOME_FAILED
        elif not plan.fits and code == OK:
            code = DOES_NOT_FIT
    if not args.json:
        print(LEGEND)
    return code


def _prepared(args: argparse.Namespace, name: str) -> tuple:
    """What `make_plan` needs of one topology."""
    from vqathinker_jax.config import load_stages
    from vqathinker_jax.models.presets import PRESETS
    from vqathinker_jax.plan import request
    from vqathinker_jax.plan.run import chosen_phases
    from vqathinker_jax.plan.topologies import PlanError, parse_topology, require_compiler

    topology = parse_topology(name)
    if args.preset is not None and args.preset not in PRESETS:
        raise PlanError(f"--preset {args.preset}: expected one of {', '.join(PRESETS)}")
    stages = load_stages(args.config, Path("runs", "plan"), [*args.settings, *_overrides(args)])
    config = request.started_as(stages[-1].config, stages[0].config)
    completion = request.require_completion(config, args.completion)
    phases = chosen_phases(config, args.only)
    subject = request.find_subject(config, args.preset, args.prompt_length)
    if args.mesh == "auto":
        config = request.fitted_mesh(config, topology, subject)
    request.require_mesh(config, topology)
    request.kernels_for(config, topology, subject)
    require_compiler(topology)
    return config, topology, subject, completion, phases


def _overrides(args: argparse.Namespace) -> list[str]:
    """Settings out of the options that are short for them."""
    from vqathinker_jax.plan.topologies import PlanError

    found = []
    if args.mesh not in (None, "auto"):
        sizes = args.mesh.split(",")
        if len(sizes) != 3 or not all(size.isascii() and size.isdigit() for size in sizes):
            raise PlanError(f"--mesh {args.mesh}: expected auto, or three numbers as in 1,8,1")
        for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True):
            found += [f"--mesh.{axis}", size]
    for option, key in OVERRIDES.items():
        value = vars(args)[option]
        if value is not None:
            found += [f"--{key}", str(value)]
    return found
