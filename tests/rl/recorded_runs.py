"""Run folders as a run leaves them, written without training."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

REWARDS = ("format", "regression", "ranking", "temporal", "total")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def grpo_row(step: int) -> dict[str, Any]:
    """What GRPO logs of a step."""
    return {
        "step": step,
        "epoch": step / 7,
        **{f"reward_{name}": step / 100 + i for i, name in enumerate(REWARDS)},
        **{f"spread_{name}": 0.25 for name in REWARDS},
        "zero_spread_share": 0.5,
        "parse_rate": 0.75,
        "perturbed_parse_rate": None,
        "score_mean": 3.0,
        "score_std": 0.5,
        "length_mean": 31.0,
        "length_max": 47,
        "at_limit_share": 0.0,
        "loss": math.cos(step),
        "kl_token_mean": step * 1e-4,
        "clip_fraction": 0.0,
        "entropy": 1.5,
        "anchor_loss": 0.0,
        "grad_norm": 2.0,
        "unparseable_batches": 0,
        "learning_rate": 1e-3,
        "unreadable": 0,
        "recompiles": 0,
        "shapes": 1,
        "seconds": {"data": 0.1, "rollout": 3.0, "update": 1.0, "step": 40.0 if step == 1 else 4.5},
        "tokens_per_second": 17.0,
    }


def sft_row(step: int) -> dict[str, Any]:
    """What SFT logs of a step."""
    return {
        "step": step, "epoch": step / 7, "loss": 5 / step, "likelihood": 0.5, "entropy": 1.0,
        "grad_norm": 1.0, "length_mean": 41.5, "learning_rate": 1e-3, "unreadable": 0,
        "recompiles": 0, "shapes": 1, "tokens_per_second": 170.0,
        "seconds": {"data": 0.1, "texts": 0.2, "update": 1.0, "step": 1.4},
    }  # fmt: skip


def validation_row(step: int, srcc: float | None) -> dict[str, Any]:
    return {
        "step": step, "srcc": srcc, "plcc": srcc, "mae": 0.75, "parse_rate": 1.0, "videos": 5,
        "unreadable": 0, "seconds": 2.5,
    }  # fmt: skip


def rollout_row(step: int, text: str) -> dict[str, Any]:
    values = {name: 0.5 for name in REWARDS} | {"advantage": -0.5}
    responses = [{"text": text, "score": 3.25, **values}, {"text": "?", "score": None, **values}]
    return {"step": step, "id": f"clip{step}", "gt": 4.125, "responses": responses}


def write_run(folder: Path, mode: str = "grpo", steps: int = 7, planned: int = 7) -> Path:
    """The folder of a run without validation; gives it back."""
    folder.mkdir(parents=True)
    settings = {
        "model": {"path": "models/start", "preset": None},
        "data": {"train": {"labels": "train.jsonl"}, "validation": None},
        "run": {"mode": mode, "steps": planned, "videos_per_step": 2},
        "rollout": {"num_generations": 3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    row = grpo_row if mode == "grpo" else sft_row
    write_lines(folder / "metrics.jsonl", [row(step) for step in range(1, steps + 1)])
    texts = range(1, steps + 1) if mode == "grpo" else ()
    write_lines(folder / "rollouts.jsonl", [rollout_row(i, f"text of step {i}") for i in texts])
    write_lines(folder / "validation.jsonl", [])
    return folder
