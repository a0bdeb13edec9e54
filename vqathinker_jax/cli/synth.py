"""`vqathinker synth`: distorted clips with pseudo opinion scores."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys

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
        "synth",
        run,
        "make distorted clips with pseudo opinion scores",
        "Writes real video files of procedural and photographic content with known distortions,\n"
        "labels from 1 to 5 computed from their severity, and a split by content. The labels are\n"
        "not opinions of people. The same line again goes on where it stopped.",
    )
    command.add_argument("dir", metavar="OUT", help="folder to make or to go on with")
    command.add_argument("--clips", type=at_least_one, required=True, metavar="N", help="how many")
    command.add_argument("--seed", type=int, default=0, help="root of everything (default 0)")
    command.add_argument(
        "--workers", type=at_least_one, metavar="N", help="processes (default: as many as cores)"
    )
    command.add_argument(
        "--pictures",
        metavar="DIR",
        help="photographs to show as well: sharp, clean ones, split by content like all scenes",
    )
    command.add_argument(
        "--licence", metavar="TEXT", help="of --pictures, for the records (default: not stated)"
    )
    command.add_argument(
        "--photograph-share",
        type=float,
        metavar="S",
        help="of the clips, those that show a photograph (default 0.15)",
    )
    command.add_argument(
        "--worn-share",
        type=float,
        metavar="S",
        help="of the clips, those that are compressed before they are distorted, as what people "
        "upload has been; compression comes last in all others (default 0)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.synthetic.clips import Recipe, SynthesisError
    from vqathinker_jax.synthetic.collection import synthesize
    from vqathinker_jax.synthetic.pictures import NOT_STATED, find_pictures
    from vqathinker_jax.synthetic.scenes import SPLITS
    from vqathinker_jax.terminal import Counter

    if args.licence is not None and args.pictures is None:
        return fail(args, "--licence goes with --pictures", WRONG_USAGE)
    options, pictures, left_out = "", (), []
    try:
        if args.pictures is not None:
            licence = NOT_STATED if args.licence is None else args.licence
            pictures, left_out = find_pictures(args.pictures, licence)
            options += f" --pictures DIR --licence {shlex.quote(licence)}"
        recipe = Recipe(pictures=pictures)
        for name in ("photograph_share", "worn_share"):
            share = getattr(args, name)
            if share is not None:
                recipe = dataclasses.replace(recipe, **{name: share})
                options += f" --{name.replace('_', '-')} {share}"
        if pictures and not args.quiet:
            counts = ", ".join(
                f"{sum(scene.split == split for scene in pictures)} {split}" for split in SPLITS
            )
            print(f"{len(pictures)} pictures of {args.pictures} ({counts})", file=sys.stderr)
            for line in left_out:
                print(f"left out: {line}", file=sys.stderr)
        with Counter("clips", args.clips, is_quiet=args.quiet) as counter:
            made = synthesize(
                args.dir,
                args.clips,
                args.seed,
                args.workers,
                recipe=recipe,
                command=f"vqathinker synth OUT --clips {args.clips} --seed {args.seed}{options}",
                progress=counter.show,
            )
    except SynthesisError as error:
        return fail(args, error, SOME_FAILED)
    if not made.has_photographs:
        print(
            "note: without scikit-image (extra `synth`) all content is procedural", file=sys.stderr
        )
    counts = ", ".join(f"{count} {split}" for split, count in made.counts.items())
    print(f"{args.dir}: {made.num_written} clips written, {made.num_kept} kept ({counts})")
    return OK
