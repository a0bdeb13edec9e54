"""Puts a trained small model into the package, with a card that says what it is.

The card's figures come from the record that `nano_quality` prints, its commands from the run.

Run from the repository root:
`python -m benchmarks.bundle_nano RUN/model QUALITY.json --parameters N --command "..."`
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.nano_quality import EXPECTED
from vqathinker_jax.bundled import BUNDLED_NAME
from vqathinker_jax.weights.config_fields import OWN_KEY

TARGET = Path("vqathinker_jax") / "assets" / BUNDLED_NAME
LARGEST_BYTES = 20_000_000


def card(record: dict[str, Any], commands: list[str], notes: list[str], num_parameters: int) -> str:
    """MODEL_CARD.md: what the model is, how it was made, what was measured."""
    synthetic = record["synthetic"]
    scores, words = synthetic["scores"], synthetic["words"]
    lines = [
        "# The nano model of vqathinker_jax",
        "",
        f"{num_parameters:,} parameters, the same code as the published model, trained by this",
        "package on two CPU cores with synthetic clips alone. Its labels are computed from the",
        "distortions: **it is not calibrated to people**, and nothing here says that it agrees",
        "with them. Use it to try the commands, and for the order of versions of one clip.",
        "Its score is the expected one (`--aggregate soft`) where nothing else is asked for.",
        *([] if record["video"]["has_motion"] else ["Its prompts have no motion token."]),
        "",
        "## Made by",
        "",
        "```bash",
        *commands,
        "```",
        "",
        *notes,
        "None of the real clips below was used to train, tune or choose it.",
        "",
        f"## Held-out synthetic clips ({synthetic['num_clips']}, other scenes than in training)",
        "",
        "| scores | SRCC | PLCC | MAE | parsed |",
        "|---|---|---|---|---|",
    ]
    for name, row in scores.items():
        cells = [row["srcc"], row["plcc"], row["mae"], row["parse_rate"]]
        lines.append(f"| {name} | " + " | ".join(map(_number, cells)) + " |")
    lines += ["", "| distortion named | F1 |", "|---|---|"]
    lines += [f"| {name} | {_number(value)} |" for name, value in words["f1"].items()]
    lines += [
        f"| mean | {_number(words['macro_f1'])} |",
        "",
        f"{words['num_distinct']} different texts for {words['num_texts']} clips.",
    ]
    if "real" in record:
        real = record["real"]
        lines += [
            "",
            f"## Real clips made worse in {real['levels']} steps ({real['num_clips']} clips)",
            "",
            "Mean within-clip rank correlation of step and falling score; nobody's opinion enters.",
            "",
            "| distortion | SRCC, greedy scores | SRCC, expected scores |",
            "|---|---|---|",
            *(
                f"| {greedy['distortion']} | {_number(greedy['within_clip_srcc'])} "
                f"| {_number(expected['within_clip_srcc'])} |"
                for greedy, expected in zip(
                    real["orders"]["model"], real["orders"][EXPECTED], strict=True
                )
            ),
        ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="RUN/model")
    parser.add_argument("quality", type=Path, help="last line of what nano_quality prints")
    parser.add_argument("--command", action="append", default=[], help="how it was made")
    parser.add_argument("--note", action="append", default=[], help="a line about its content")
    parser.add_argument("--parameters", type=int, required=True, help="as `train` counts them")
    args = parser.parse_args()
    record = json.loads(args.quality.read_text())
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(args.model, TARGET)
    config_file = TARGET / "config.json"
    config = json.loads(config_file.read_text())
    # What the digits expect orders natural clips better than the greedy number does.
    config[OWN_KEY] |= {"kind": "nano", "aggregate": "soft"}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    (TARGET / "MODEL_CARD.md").write_text(card(record, args.command, args.note, args.parameters))
    size = sum(path.stat().st_size for path in TARGET.rglob("*.safetensors"))
    if size > LARGEST_BYTES:
        raise SystemExit(f"{TARGET}: {size / 1e6:.1f} MB of weights, more than 20")
    print(f"{TARGET}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
