"""A configuration to plan for, and results as a compiler would give them."""

from __future__ import annotations

from pathlib import Path

from vqathinker_jax.plan.job import PhaseResult, judged

GIB = 2**30
CONFIG = """
model:
  preset: nano
  remat: names
data:
  train: {labels: none.jsonl, video_root: ., scale: 1-5}
  prompt_style: brief
video: {num_frames: 4, image_size: 70, slow_divisor: 4, motion_repeat: 8}
run: {videos_per_step: 8, micro_batch: 8}
rollout: {num_generations: 2, max_completion_length: 16}
mesh: {fsdp: 8}
"""


def write_config(folder: Path, text: str = CONFIG) -> str:
    """The file of a small configuration; no data, no weights."""
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def result(phase: str, gib: float, chip_gib: float | None = 80.0, **changes) -> PhaseResult:
    """A compiled phase that takes so many GiB, one of them while something else lies there."""
    values = {
        "attention": "xla xla",
        "argument_bytes": int((gib - 1) * GIB),
        "resident": {"reference": GIB},
        "chip_bytes": None if chip_gib is None else int(chip_gib * GIB),
        "flops": 1e13,
        "moved_bytes": 1e11,
    }
    return judged(PhaseResult(phase, "fits", **{**values, **changes}))
