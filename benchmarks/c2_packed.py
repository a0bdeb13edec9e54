"""C2: K responses to one prompt, forwards and backwards: packed against K whole rows.

The packed layout of training is timed against K rows of P + C with the same decoder under the same
compiler, and against the same K rows in torch eager mode with the same weights. All three give the
same loss and gradients. The default vocabulary gives the head the share of the work that it has in
the 8B model, a twelfth of that of the layers per token; a larger one hides the layout behind a head
that both layouts share.

Run from the repository root: `python -m benchmarks.c2_packed`.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.timing import alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

from benchmarks.decoder import (
    add_decoder_options,
    decoder_config,
    random_decoder,
    sizes,
    versions,
)
from benchmarks.groups import Gradients, packed, random_group, rows
from benchmarks.torch_rows import TorchGradients
from tests.parity.torch_qwen2 import build_torch_qwen2, copy_qwen2


def difference(value: np.ndarray | float, other: np.ndarray | float) -> float:
    """Largest difference as a share of the largest value."""
    return float(np.abs(value - other).max() / np.abs(other).max())


def main() -> None:
    """Runs C2 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_decoder_options(parser, vocabulary=4864)
    parser.add_argument("--videos", type=int, default=1, help="N, prompts in one pass")
    parser.add_argument("--prompt", type=int, default=425, help="P, tokens")
    parser.add_argument("--tokens", type=int, default=64, help="C, tokens of a response")
    parser.add_argument("--samples", type=int, default=4, help="K")
    parser.add_argument("--chunk", type=int, default=256, help="rows of logits at a time")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="torch's")
    parser.add_argument(
        "--all-logits", action="store_true", help="torch computes the logits of prompts too"
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)
    torch.set_num_threads(arguments.threads)

    cfg = decoder_config(arguments)
    model = build_torch_qwen2(cfg, arguments.seed, attention=arguments.attention, std=0.05)
    decoder = random_decoder(cfg, arguments.seed)
    copy_qwen2(model, decoder)
    group = random_group(
        cfg,
        arguments.videos,
        arguments.prompt,
        arguments.samples,
        arguments.tokens,
        arguments.seed,
    )
    ours = Gradients(decoder, group, packed, arguments.chunk)
    naive = Gradients(decoder, group, rows, arguments.chunk)
    theirs = TorchGradients(model, group, arguments.all_logits)
    loss, gradient = ours()
    shape = sizes(
        cfg,
        videos=arguments.videos,
        prompt=arguments.prompt,
        tokens=arguments.tokens,
        samples=arguments.samples,
        chunk=arguments.chunk,
    )
    for other, against, aim, details in (
        (
            naive,
            "our naive layout",
            1.9,
            {"naive_temporary_bytes": naive.temporary_bytes},
        ),
        (
            theirs,
            "torch naive rows",
            2.5,
            {
                "torch_attention": arguments.attention,
                "torch_logits": "every position" if arguments.all_logits else "responses only",
            },
        ),
    ):
        other_loss, other_gradient = other()
        timing = alternate(ours, other, arguments.repeats)
        report(
            "C2",
            f"packed forward and backward, K={arguments.samples}, float32",
            against,
            timing.ratio,
            aim,
            seconds=timing.ours,
            other_seconds=timing.theirs,
            spread=timing.spread,
            temporary_bytes=ours.temporary_bytes,
            **details,
            loss_difference=difference(loss, other_loss),
            gradient_difference=difference(gradient, other_gradient),
            rounds=arguments.repeats,
            shape=shape,
            seed=arguments.seed,
            threads=arguments.threads,
            versions={**versions(), "torch": torch.__version__},
        )


if __name__ == "__main__":
    main()
