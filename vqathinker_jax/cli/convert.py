"""`vqathinker convert`: model folders from one layout to another."""

from __future__ import annotations

import argparse

from vqathinker_jax.cli.parsing import OK, SOME_FAILED, Commands, add_command, fail


def add(commands: Commands) -> None:
    """Declares the command."""
    command = add_command(
        commands,
        "convert",
        run,
        "convert model folders: HuggingFace layouts to ours and back",
        "Converts a model folder without changing a bit of any tensor. SRC may be the published\n"
        "folder, a plain InternVL3 folder, a transformers-native (-hf) folder, or a checkpoint\n"
        "made by this command. With --merge-lora, DST is SRC with a LoRA adapter merged into it.",
    )
    command.add_argument("src", metavar="SRC", help="model folder or hub id")
    command.add_argument("dst", metavar="DST", help="folder to make; must not hold anything yet")
    command.add_argument("--to", choices=("jax", "hf"), required=True, help="what DST becomes")
    command.add_argument(
        "--layout",
        choices=("official", "hf"),
        help="names for --to hf: the published layout or the transformers-native one "
        "(default: that of SRC)",
    )
    command.add_argument(
        "--slowfast",
        metavar="FILE.pyth",
        help="SLOWFAST_8x8_R50.pyth for a folder without a motion encoder",
    )
    command.add_argument(
        "--merge-lora",
        metavar="ADAPTER",
        help="folder of a LoRA adapter of the decoder to merge, with --to hf: RUN/adapter of a "
        "training run, or one that PEFT saved",
    )
    command.add_argument(
        "--verify", action="store_true", help="read DST again and compare every tensor bit for bit"
    )


def run(args: argparse.Namespace) -> int:
    """Runs it; returns the exit code."""
    from vqathinker_jax.weights.convert import convert
    from vqathinker_jax.weights.errors import WeightsError

    try:
        report = convert(
            args.src,
            args.dst,
            to=args.to,
            verify=args.verify,
            layout=args.layout,
            slowfast_pyth=args.slowfast,
            adapter=args.merge_lora,
        )
    except WeightsError as error:
        return fail(args, error, SOME_FAILED)
    print(report)
    return OK
