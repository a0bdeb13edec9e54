"""`vqathinker app`: a local page where videos are dropped and judged."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from typing import NoReturn

from vqathinker_jax.cli.model_options import add_model
from vqathinker_jax.cli.parsing import (
    OK,
    SOME_FAILED,
    WRONG_USAGE,
    Commands,
    add_command,
    at_least_one,
    fail,
    whole_number,
)

LOOPBACK = "127.0.0.1"
END_SIGNALS = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""Ask the program to end; not every system has all of them. Uploads are deleted first."""


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "app",
        run,
        "a local page: drop a video and watch it being judged",
        "Opens a page on this machine where videos are dropped: the score with its spread, the\n"
        "reasons as they are written, the frames the model saw, two videos side by side. Videos\n"
        "are judged one at a time and deleted afterwards. Only this machine can reach the page,\n"
        "unless --host says otherwise. Ctrl-C ends it.",
    )
    add_model(command)
    command.add_argument(
        "--samples",
        type=at_least_one,
        default=4,
        metavar="K",
        help="answers per video; several show how sure the score is (default 4)",
    )
    command.add_argument(
        "--segment",
        type=float,
        metavar="SECONDS",
        help="also judge every stretch of so many seconds, and show the scores over time",
    )
    command.add_argument(
        "--max-new-tokens",
        type=at_least_one,
        default=1024,
        metavar="N",
        help="longest answer (default 1024)",
    )
    command.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help="listen at another address of this machine, for instance 0.0.0.0 for all: whoever "
        "reaches it can upload videos, without password or encryption",
    )
    command.add_argument(
        "--port", type=whole_number, default=7860, metavar="N", help="default 7860; 0: any free one"
    )
    command.add_argument(
        "--max-size", type=at_least_one, default=512, metavar="MIB", help="of a video (default 512)"
    )
    command.add_argument(
        "--time-limit",
        type=at_least_one,
        default=600,
        metavar="SECONDS",
        help="for judging one video (default 600)",
    )
    command.add_argument("--seed", type=whole_number, default=0, help="of sampling (default 0)")
    command.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="compute dtype; auto is bfloat16 on accelerators and float32 on a CPU",
    )


def run(args: argparse.Namespace) -> int:
    """Runs it until it is interrupted; returns the exit code."""
    if args.port > 65535:
        args.parser.error(f"--port must be at most 65535, got {args.port}")
    from vqathinker_jax.api import from_pretrained
    from vqathinker_jax.app.jobs import Desk
    from vqathinker_jax.app.limits import Limits
    from vqathinker_jax.app.server import AppServer
    from vqathinker_jax.app.uploads import Uploads
    from vqathinker_jax.score_settings import ScoreSettings

    limits = Limits(upload_bytes=args.max_size * 2**20, job_s=float(args.time_limit))
    try:
        settings = ScoreSettings(
            samples=args.samples,
            seed=args.seed,
            max_new_tokens=args.max_new_tokens,
            segment_s=args.segment,
            timeout_s=min(120.0, limits.job_s),
        )
    except ValueError as error:
        args.parser.error(str(error))
    try:
        model = from_pretrained(args.model, dtype=args.dtype)
    except ValueError as error:
        return fail(args, error, WRONG_USAGE)
    try:
        uploads = Uploads(limits)
    except OSError as error:
        return fail(args, f"no folder for uploads can be made ({error.strerror})", SOME_FAILED)
    for name in END_SIGNALS:
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], _interrupt)
    try:
        desk = Desk(functools.partial(model.stream, settings=settings), uploads, limits)
        try:
            server = AppServer(
                args.host,
                args.port,
                desk=desk,
                uploads=uploads,
                limits=limits,
                model_name=model.name,
                model_kind=model.loaded.kind,
                warning=model.warning,
                samples=args.samples,
            )
        except OSError as error:
            where = f"{args.host} port {args.port}"
            return fail(args, f"cannot listen at {where} ({error.strerror})", WRONG_USAGE)
        if model.warning:
            print(f"note: {model.warning}", file=sys.stderr)
        if not server.is_loopback:
            print(
                "warning: other machines can reach this page and upload videos; there is no "
                "password and no encryption",
                file=sys.stderr,
            )
        print(server.address, flush=True)
        print("open it in a browser; Ctrl-C ends it", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"{os.linesep}closing; uploads are deleted", file=sys.stderr)
        finally:
            server.server_close()
            desk.close()
    finally:
        uploads.close()
    return OK


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
