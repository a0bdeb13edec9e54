"""Small training runs: a data set of clips that fit the small model, and its configuration."""

import json
from pathlib import Path

from tests.data.clips import pictures, write_clip
from tests.small import VIDEO
from vqathinker_jax.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from vqathinker_jax.data.dataset import LabelSource
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.update import ObjectiveConfig

NUM_CLIPS = 5
OF_A_PROCESS = frozenset({"seconds", "tokens_per_second", "recompiles"})
"""What the row of a step says of the process that wrote it, not of the run."""


def write_data(folder: Path) -> Path:
    """Five clips of 64 x 48 pixels and their labels; gives the label file."""
    lines = []
    for i in range(NUM_CLIPS):
        write_clip(folder / f"clip{i}.mp4", pictures(5, 64, 48, seed=i))
        lines.append(
            {
                "id": f"clip{i}",
                "image": [f"clip{i}.mp4"],
                "conversations": [{"from": "gpt", "value": 1.0 + i * 0.9}],
                "distortions": [{"name": "blur", "severity": i / 5}] if i else [],
            }
        )
    labels = folder / "labels.jsonl"
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return labels


def make_config(model: Path, labels: Path, **changes) -> TrainConfig:
    """Two videos a step, three responses each; `changes` by section."""
    source = LabelSource(str(labels), str(labels.parent), "1-5")
    sections = {
        "model": {"path": str(model), "dtype": "float32", "remat": "none", "vision": "frozen"},
        "data": {"train": source, "num_workers": 0},
        "run": {"steps": 4, "videos_per_step": 2, "micro_batch": 1, "checkpoint_every": 2},
        "rollout": {"num_generations": 3, "max_completion_length": 7},
        "reward": {},
        "objective": {},
        "optimizer": {"learning_rate": 1e-3, "total_steps": 4},
    }
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return TrainConfig(
        model=ModelConfig(**sections["model"]),
        data=DataConfig(**sections["data"]),
        run=RunConfig(**sections["run"]),
        video=VIDEO,
        rollout=RolloutConfig(**sections["rollout"]),
        reward=RewardConfig(**sections["reward"]),
        objective=ObjectiveConfig(**sections["objective"]),
        optimizer=OptimizerConfig(**sections["optimizer"]),
    )


def rows(path: Path) -> list[dict]:
    """The rows of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]
