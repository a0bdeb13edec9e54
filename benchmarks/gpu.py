"""G1 to G6: the phases of a training step, and scoring, on one graphics card, beside torch.

Random weights in the shapes of InternVL3: 1B is trained in full, 8B with LoRA, both in bfloat16.
Every side of every preset runs in a process of its own, so that one that runs out of memory is a
row that says so. Operations are counted in the traced programs (`vqathinker_jax.plan.flops`), peaks
are those of the data sheets (`vqathinker_jax.plan.chips`).

G1 encode        frames to visual tokens, tower and projector       share of peak
G2 prefill       prompts to caches                                  share of peak
G3 update        packed groups forwards, backwards and AdamW        share of peak
G4 decode        one token of every response                        times of streaming the weights
G5 step          rollout (clean and perturbed), reference, update   seconds
G6 score         12 frames of 560 px, greedy answers of 128 tokens  videos per second

torch's side: the same shapes with transformers in bfloat16 (`sdpa`), K whole rows per video as
published where we pack, its own cache where it generates.

Run from the repository root: `python -m benchmarks.gpu --json gpu.json`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRESETS = ("internvl3-1b", "internvl3-8b")
SIDES = {"ours": "benchmarks.gpu_ours", "torch": "benchmarks.gpu_torch"}
TITLES = {
    "G1": "encode",
    "G2": "prefill",
    "G3": "update",
    "G4": "decode, one token",
    "G5": "whole step",
    "G6": "score, per video",
}


def run_side(side: str, preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """What one process measured, and why it ended if it did not end well."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", SIDES[side], preset, str(out)]
        for name in ("videos", "samples", "completion", "repeats"):
            command += [f"--{name}", str(getattr(args, name))]
        if args.only:
            command += ["--only", *args.only]
        if args.tiny:
            command.append("--tiny")
        began = time.perf_counter()
        try:
            done = subprocess.run(
                command, timeout=args.minutes * 60, stderr=subprocess.PIPE, text=True, check=False
            )
            failure = "" if done.returncode == 0 else last_line(done.stderr, done.returncode)
        except subprocess.TimeoutExpired:
            failure = f"not done after {args.minutes:g} minutes"
        record = json.loads(out.read_text()) if out.exists() else {"rows": {}}
        return {**record, "failure": failure, "seconds": round(time.perf_counter() - began, 1)}


def last_line(text: str, code: int) -> str:
    """The last thing that a process said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code}"


def show(preset: str, sides: dict[str, dict[str, Any]]) -> None:
    """A table for people: a line a row, our time, what it amounts to, and torch's time."""
    print(f"\n{preset}")
    print(f"{'':24}{'ours':>12}{'TFLOP/s':>10}{'of peak':>9}{'torch':>12}{'ratio':>8}")
    ours, theirs = (sides.get(side, {"rows": {}})["rows"] for side in ("ours", "torch"))
    for row, title in TITLES.items():
        mine, other = ours.get(row), theirs.get(row)
        if mine is None and other is None:
            continue
        cells = [f"{row} {title:21}"]
        cells.append(f"{1000 * mine['seconds']:>9.2f} ms" if mine else f"{'-':>12}")
        rate = mine.get("tflops") if mine else None
        share = mine.get("of_peak") if mine else None
        cells.append(f"{rate:>10.1f}" if rate else f"{'-':>10}")
        cells.append(f"{share:>9.0%}" if share else f"{'-':>9}")
        cells.append(f"{1000 * other['seconds']:>9.2f} ms" if other else f"{'-':>12}")
        both = mine and other
        cells.append(f"{other['seconds'] / mine['seconds']:>8.2f}" if both else f"{'-':>8}")
        print("".join(cells))
    if "G4" in ours and ours["G4"].get("times_streaming"):
        print(f"G4: {ours['G4']['times_streaming']:.2f} times the time of reading the weights once")
    for side, record in sides.items():
        if record["failure"]:
            print(f"{side} ended early: {record['failure']}")


def main() -> None:
    """Runs all sides; prints tables and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--videos", type=int, default=8, help="N of a step")
    parser.add_argument("--samples", type=int, default=4, help="K")
    parser.add_argument("--completion", type=int, default=256, help="C, tokens of a response")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--only", nargs="+", choices=tuple(TITLES), help="these rows alone")
    parser.add_argument("--sides", nargs="+", default=tuple(SIDES), choices=tuple(SIDES))
    parser.add_argument("--minutes", type=float, default=4.0, help="limit of one process")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--json", type=Path, help="where to write the record")
    args = parser.parse_args()
    record: dict[str, Any] = {"when": time.strftime("%Y-%m-%d"), "presets": {}}
    for preset in args.presets:
        sides = {side: run_side(side, preset, args) for side in args.sides}
        record["presets"][preset] = sides
        show(preset, sides)
    if args.json is not None:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
