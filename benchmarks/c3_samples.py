"""C3: packed against K whole rows over K: does the gain follow the tokens saved?

K rows hold K (P + C) tokens, the packed layout P + K C. For every K the measured gain is compared
with that quotient; the figure is how close the worst of them comes: 1 - |measured / expected - 1|.
The default vocabulary gives the head the share of the work that it has in the 8B model: both
layouts compute the same logits, so a larger head lowers every gain.

Run from the repository root: `python -m benchmarks.c3_samples`.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.timing import alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks.decoder import (
    add_decoder_options,
    decoder_config,
    random_decoder,
    sizes,
    versions,
)
from benchmarks.groups import Gradients, packed, random_group, rows


def main() -> None:
    """Runs C3 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_decoder_options(parser, vocabulary=4864)
    parser.add_argument("--prompt", type=int, default=425, help="P, tokens")
    parser.add_argument("--tokens", type=int, default=64, help="C, tokens of a response")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="each K")
    parser.add_argument("--chunk", type=int, default=256, help="rows of logits at a time")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    pin_cores(arguments.threads)

    cfg = decoder_config(arguments)
    decoder = random_decoder(cfg, arguments.seed)
    p, c = arguments.prompt, arguments.tokens
    measurements = []
    for k in arguments.samples:
        group = random_group(cfg, 1, p, k, c, arguments.seed)
        ours = Gradients(decoder, group, packed, arguments.chunk)
        naive = Gradients(decoder, group, rows, arguments.chunk)
        timing = alternate(ours, naive, arguments.repeats)
        expected = k * (p + c) / (p + k * c)
        measurements.append(
            {
                "samples": k,
                "ratio": round(timing.ratio, 3),
                "expected": round(expected, 3),
                "agreement": round(1 - abs(timing.ratio / expected - 1), 3),
                "seconds": timing.ours,
                "naive_seconds": timing.theirs,
                "spread": timing.spread,
                "temporary_bytes": ours.temporary_bytes,
                "naive_temporary_bytes": naive.temporary_bytes,
            }
        )
        print(f"  K={k}: {timing.ratio:.2f}x, tokens {expected:.2f}x", flush=True)
    report(
        "C3",
        f"gain of packing over K={arguments.samples}, worst agreement",
        "K(P+C)/(P+KC)",
        min(row["agreement"] for row in measurements),
        0.7,
        measurements=measurements,
        rounds=arguments.repeats,
        shape=sizes(cfg, prompt=p, tokens=c, chunk=arguments.chunk),
        seed=arguments.seed,
        threads=arguments.threads,
        versions=versions(),
    )


if __name__ == "__main__":
    main()
