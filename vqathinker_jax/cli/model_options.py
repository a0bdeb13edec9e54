"""The options of every command that asks a model about videos, and what they name."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from vqathinker_jax.cli.parsing import at_least_one, whole_number
from vqathinker_jax.data.prompt import STYLES
from vqathinker_jax.results import AGGREGATES
from vqathinker_jax.rl.answers import FALLBACKS
from vqathinker_jax.spec import VIEWS, VideoSpec

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vqathinker_jax.api import VideoQualityModel
    from vqathinker_jax.score_settings import ScoreSettings

GEOMETRY = tuple(field.name for field in dataclasses.fields(VideoSpec))
COUNTS = tuple(name for name in GEOMETRY if name not in ("view", "has_motion"))
"""Each has an option of its own that changes it."""


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model is asked."""
    command.add_argument(
        "--model",
        metavar="DIR|OWNER/NAME",
        help="model folder (published, InternVL3, -hf or converted layout), or a hub id "
        "(default: the nano model, where one is bundled)",
    )


def add_asking(asking: argparse._ArgumentGroup) -> None:
    """How the model is asked."""
    asking.add_argument(
        "--samples",
        type=at_least_one,
        default=1,
        metavar="K",
        help="answers per video; above 1 they are sampled, and their standard deviation and the "
        "interval that one more answer falls into nine times in ten are reported",
    )
    asking.add_argument(
        "--aggregate",
        choices=AGGREGATES,
        help="what the score is: the mean, median or trimmed mean of the answers, or soft: the "
        "score expected from the probabilities of the digits (default: the folder's, or mean)",
    )
    asking.add_argument(
        "--soft", action="store_true", help="report the soft score too, whatever the score is"
    )
    asking.add_argument(
        "--at-once",
        action="store_true",
        help="no reasons: read the soft score right after the prompt, without generating text",
    )
    asking.add_argument(
        "--temperature", type=float, metavar="X", help="sample at X (default: greedy; 0.9 with K)"
    )
    asking.add_argument("--top-k", type=int, default=50, metavar="N", help="default 50; 0 is off")
    asking.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1.0")
    asking.add_argument("--seed", type=int, default=0, help="root of all sampling (default 0)")
    asking.add_argument(
        "--max-new-tokens", type=at_least_one, default=1024, metavar="N", help="default 1024"
    )
    asking.add_argument("--question", metavar="TEXT", help="ask this instead of the published one")
    asking.add_argument(
        "--prompt-style",
        choices=STYLES,
        help="published wording for inference or for training, or the brief one of small models "
        "(default: the folder's, or test)",
    )
    asking.add_argument(
        "--fallback",
        choices=FALLBACKS,
        default="none",
        help="what to read of an answer without tags (default none: it has no score)",
    )


def add_seeing(seeing: argparse._ArgumentGroup) -> None:
    """How videos are shown to it."""
    seeing.add_argument(
        "--geometry",
        choices=("inference", "training"),
        help="published geometry: 12 frames of 560 px, or 6 of 448 (default: the folder's, or "
        "inference)",
    )
    for name in COUNTS:
        seeing.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_number,
            metavar="N",
            help="instead of the geometry's",
        )
    seeing.add_argument(
        "--view", choices=VIEWS, help="how frames are shown, instead of the geometry's"
    )
    seeing.add_argument(
        "--motion",
        dest="has_motion",
        action=argparse.BooleanOptionalAction,
        help="with or without the motion token, instead of the geometry's",
    )
    seeing.add_argument("--decoder", choices=("pyav", "decord"), default="pyav")


def add_running(running: argparse._ArgumentGroup) -> None:
    """With what means."""
    running.add_argument(
        "--batch-size",
        type=at_least_one,
        default=1,
        metavar="N",
        help="videos at once on a device (default 1)",
    )
    running.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="compute dtype; auto is bfloat16 on accelerators and float32 on a CPU",
    )
    running.add_argument(
        "--workers", type=at_least_one, metavar="N", help="decoding processes (default: by cores)"
    )
    running.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="give up on decoding a file after this long (default 120)",
    )
    running.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="address space a decoding process may use (default 4)",
    )


def read_settings(args: argparse.Namespace, segment_s: float | None = None) -> ScoreSettings:
    """How to ask, from the options; ends the program where they cannot be."""
    from vqathinker_jax.score_settings import ScoreSettings

    try:
        return ScoreSettings(
            samples=args.samples,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
            max_new_tokens=args.max_new_tokens,
            question=args.question,
            prompt_style=args.prompt_style,
            fallback=args.fallback,
            aggregate=args.aggregate,
            soft=args.soft,
            at_once=args.at_once,
            segment_s=segment_s,
            decoder=args.decoder,
            batch_size=args.batch_size,
            workers=args.workers,
            timeout_s=args.timeout,
            memory_bytes=int(args.memory * 2**30),
        )
    except (ValueError, OverflowError) as error:
        args.parser.error(str(error))


def load_model(
    args: argparse.Namespace, calibration: str = "auto", mesh: Mesh | None = None
) -> VideoQualityModel:
    """The model that the options name, which sees videos as they say.

    Args:
      args: of a command with all of these options.
      calibration, mesh: as for `from_pretrained`.

    Raises:
      ValueError: a folder that cannot be read, or a geometry that the model cannot see.
    """
    from vqathinker_jax.api import from_pretrained, video_spec

    changes = {name: vars(args)[name] for name in GEOMETRY if vars(args)[name] is not None}
    video = video_spec(args.model, args.geometry, changes)
    return from_pretrained(
        args.model, dtype=args.dtype, video=video, mesh=mesh, calibration=calibration
    )
