"""A few steps of GRPO on synthetic clips, by the same code as any other run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path

from vqathinker_jax.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from vqathinker_jax.data.dataset import LabelSource
from vqathinker_jax.demo.folder import DemoError, DemoFolder
from vqathinker_jax.rl.optimizer import OptimizerConfig
from vqathinker_jax.rl.rewards import RewardWeights
from vqathinker_jax.rl.train import train
from vqathinker_jax.rl.update import ObjectiveConfig
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.synthetic.clips import Recipe
from vqathinker_jax.synthetic.collection import synthesize
from vqathinker_jax.terminal import Counter

TRAINED_FOLDER = "trained"
"""In the demonstration's folder: the finished model and the log of its training."""
CARD = "MODEL_CARD.md"
KEPT = ("config.yaml", "metrics.jsonl", "rollouts.jsonl")
CLIPS_SEED = 1_000_000
"""Added to the seed, so that the clips are not those of `vqathinker synth` with small seeds."""


@dataclasses.dataclass(frozen=True)
class ShortRun:
    """How long a training of the decoder is shown.

    Raises:
      ValueError: no training clip, or settings that a run refuses.
    """

    seed: int = 0
    num_clips: int = 40
    """Synthetic clips, of which eight in ten are for training."""
    steps: int = 8
    videos_per_step: int = 4
    num_generations: int = 8
    max_completion_length: int = 96
    learning_rate: float = 3e-5
    seconds: tuple[float, float] = (1.0, 1.5)
    """Shortest and longest clip."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {self.num_clips}")

    def train_config(
        self, model_folder: Path, data: Path, video: VideoSpec, prompt_style: str, reasoning: bool
    ) -> TrainConfig:
        """The configuration of the run.

        Args:
          model_folder: what it starts from.
          data: folder of the clips and their labels.
          video: the geometry the model sees clips in.
          prompt_style: the wording the model knows.
          reasoning: whether it thinks before it answers.
        """
        return TrainConfig(
            # The decoder alone, held to its start by the few steps and not by a reference: half of
            # the time would go into compiling what the rest needs.
            model=ModelConfig(
                path=str(model_folder), dtype="float32", vision="frozen", remat="none"
            ),
            data=DataConfig(
                train=LabelSource(str(data / "train.jsonl"), str(data), "1-5"),
                prompt_style=prompt_style,
                reasoning=reasoning,
                num_workers=1,
            ),
            run=RunConfig(
                steps=self.steps,
                videos_per_step=self.videos_per_step,
                micro_batch=self.videos_per_step,
                seed=self.seed % 2**32,
                checkpoint_every=self.steps,
                keep=1,
            ),
            video=video,
            rollout=RolloutConfig(
                num_generations=self.num_generations,
                max_completion_length=self.max_completion_length,
                temperature=1.0,
                top_k=0,
                temporal=False,
            ),
            reward=RewardConfig(weights=RewardWeights(temporal=0.0)),
            objective=ObjectiveConfig(beta=0.0),
            optimizer=OptimizerConfig(learning_rate=self.learning_rate),
        )


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """What a short run did."""

    num_clips: int
    """Clips that it could draw from."""
    num_steps: int
    rewards: tuple[float, ...]
    """Mean total reward of the responses of each step."""
    parse_rates: tuple[float, ...]
    """Share of each step's responses that held a score."""
    seconds: float


def train_briefly(
    run: ShortRun,
    model_folder: Path,
    video: VideoSpec,
    prompt_style: str,
    reasoning: bool,
    folder: DemoFolder,
    is_quiet: bool,
) -> TrainingReport:
    """Makes clips of training scenes, trains on them, and keeps the model in the demo's folder.

    Args:
      run: how long.
      model_folder: what it starts from.
      video: the geometry the model sees clips in.
      prompt_style: the wording the model knows.
      reasoning: whether it thinks before it answers.
      folder: gets `trained/`.
      is_quiet: nothing on stderr.

    Raises:
      DemoError: it was stopped before its last step.
      SynthesisError, TrainingError, WeightsError, LabelError, OSError: as `synthesize`, `train`.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="vqathinker-demo-") as temporary:
        work = Path(temporary)
        with Counter("training clips", run.num_clips, is_quiet) as counter:
            made = synthesize(
                work / "clips",
                run.num_clips,
                CLIPS_SEED + run.seed,
                recipe=Recipe(seconds=run.seconds, largest_side=480, photograph_share=0.0),
                with_photographs=False,
                progress=counter.show,
            )
        config = run.train_config(model_folder, work / "clips", video, prompt_style, reasoning)
        train(config, work / "run", is_quiet=is_quiet)
        if not (work / "run" / "model").is_dir():
            raise DemoError("the training was stopped before its last step; the page is without it")
        _keep(work / "run", folder)
        lines = (work / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return TrainingReport(
        num_clips=made.counts["train"],
        num_steps=len(rows),
        rewards=tuple(row["reward_total"] for row in rows),
        parse_rates=tuple(row["parse_rate"] for row in rows),
        seconds=time.perf_counter() - start,
    )


def _keep(run_folder: Path, folder: DemoFolder) -> None:
    """Copies the model and the logs of a run into the demonstration's folder."""
    # A card describes the model it came with, not what was made of that.
    kept = [
        path
        for path in sorted((run_folder / "model").rglob("*"))
        if path.is_file() and path.name != CARD
    ]
    kept += [run_folder / name for name in KEPT]
    targets = [f"{TRAINED_FOLDER}/{path.relative_to(run_folder).as_posix()}" for path in kept]
    folder.claim(targets)
    for path, target in zip(kept, targets, strict=True):
        (folder.path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder.path / target)
