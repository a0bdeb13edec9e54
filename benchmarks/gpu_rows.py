"""What both sides of `gpu.py` share: shapes, timing and the record they leave."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.plan.request import estimated_prompt
from vqathinker_jax.spec import INFERENCE, TRAINING, VideoSpec

SCORED_VIDEOS, SCORED_TOKENS = 8, 128
"""G6: videos of a batch, and tokens of each answer."""
ROWS = ("G1", "G2", "G3", "G4", "G5", "G6")


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is run."""

    preset: str
    model: VQAThinkerConfig
    has_lora: bool
    training: VideoSpec
    inference: VideoSpec
    videos: int
    samples: int
    completion: int

    def prompt_tokens(self, video: VideoSpec) -> int:
        """P of a geometry, without padding."""
        return estimated_prompt(video, "train", self.model.tokens_per_frame(video.image_size))


class Record:
    """The rows measured so far, in a file after each: a crash loses one row."""

    def __init__(self, path: Path, facts: dict[str, Any], repeats: int, only: list[str] | None):
        self._path, self._repeats, self._only = path, repeats, only
        self._record = {**facts, "rows": {}}

    def wants(self, row: str) -> bool:
        """Whether a row is to be measured."""
        return self._only is None or row in self._only

    def measure(self, row: str, call: Callable[[], object], **details: Any) -> float:
        """Median seconds of a call, which must itself wait for its result; once to warm up."""
        call()
        times = []
        for _ in range(self._repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        seconds = statistics.median(times)
        self.write(row, seconds, spread=[min(times), max(times)], **details)
        return seconds

    def write(self, row: str, seconds: float, **details: Any) -> None:
        """Adds a row."""
        self._record["rows"][row] = {"seconds": seconds, **details}
        self._path.write_text(json.dumps(self._record), encoding="utf-8")


def parse(description: str) -> tuple[Shapes, argparse.Namespace]:
    """The command line of a side."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("preset", choices=tuple(PRESETS))
    parser.add_argument("out", type=Path)
    for name in ("videos", "samples", "completion", "repeats"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--only", nargs="+", choices=ROWS)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    model, training, inference = PRESETS[args.preset], TRAINING, INFERENCE
    if args.tiny:
        model = tiny(model)
        training = dataclasses.replace(TRAINING, image_size=224)
        inference = dataclasses.replace(INFERENCE, image_size=224)
    shapes = Shapes(
        preset=args.preset,
        model=model,
        has_lora=args.preset != "internvl3-1b",
        training=training,
        inference=inference,
        videos=args.videos,
        samples=args.samples,
        completion=args.completion,
    )
    return shapes, args


def tiny(model: VQAThinkerConfig) -> VQAThinkerConfig:
    """An architecture of the same kind, small enough for any machine."""
    heads = {"num_attention_heads": 4}
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return dataclasses.replace(
        model,
        vision=InternViTConfig(**size, **heads, image_size=224),
        decoder=Qwen2Config(vocab_size=503, **size, **heads, num_key_value_heads=2),
        slowfast=SlowFastConfig(stem_width=8),
    )
