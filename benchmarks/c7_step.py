"""C7: one whole GRPO step against the published trainer's semantics in torch.

Both sides take the same clips, weights, prompt, K, length of responses and sampling, clean and
perturbed rollouts, reference, loss and AdamW, and train the same parameters in float32.

Ours (`our_step.py`, the stages of `rl/train.py`): each clip decoded and encoded once in a rollout,
prefilled once for its K responses, both rollouts in one loop; log-probs of packed groups.
Published (`published_step.py`): K rows of each clip decoded for both rollouts and encoded and
prefilled in every pass, logits at every position. Neither side recomputes activations.

Before it is timed, the published side trains on our first responses: its loss and gradient norm
must be ours. The tokenizer's vocabulary is small, so the logits that the published trainer throws
away cost it little here.

Run from the repository root: `python -m benchmarks.c7_step [CLIP ...]`; without clips it writes
two of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.timing import THREADS, alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import numpy as np
import torch

from benchmarks.decoder import versions
from benchmarks.our_step import StepOutcome, Trainer, score, training_config
from benchmarks.published_step import PublishedTrainer
from tests.data.clips import pictures, write_clip
from tests.parity.torch_official import TorchVQAThinker, write_official_folder
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.rl.rollout import RolloutConfig
from vqathinker_jax.spec import VideoSpec

FRAMES_OF_CLIP, WIDTH_OF_CLIP, HEIGHT_OF_CLIP = 120, 960, 540


def model_config(width: int, layers: int, stem_width: int) -> VQAThinkerConfig:
    """Tower and decoder of the same width and depth."""
    size = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    return VQAThinkerConfig(
        vision=InternViTConfig(**size),
        decoder=Qwen2Config(**size, num_key_value_heads=2),
        slowfast=SlowFastConfig(stem_width=stem_width),
    )


def relative_differences(outcome: StepOutcome, published: PublishedTrainer) -> dict[str, float]:
    """How far the published side's loss and gradient norm are from those of our first step."""
    batch = outcome.batch
    k, c = batch.responses.shape[1:]

    def tensor(array: jax.Array) -> torch.Tensor:
        return torch.tensor(np.asarray(array))

    loss, grad_norm = published.gradients(
        tensor(batch.pixels).repeat_interleave(k, 0),
        tensor(batch.responses).reshape(-1, c).long(),
        tensor(batch.response_mask).reshape(-1, c),
        tensor(batch.advantages),
        tensor(batch.reference_logprobs).reshape(-1, c),
    )
    published.optimizer.zero_grad(set_to_none=True)
    return {
        "loss": abs(outcome.loss / loss - 1),
        "grad_norm": abs(outcome.grad_norm / grad_norm - 1),
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds of each phase."""
    names = [name for name in rounds[0] if name != "data"]
    return {name: round(statistics.median(row[name] for row in rounds), 3) for name in names}


def main() -> None:
    """Runs C7 at the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", help="at least two clips that decord can open")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--stem-width", type=int, default=32, help="of SlowFast")
    parser.add_argument("--size", type=int, default=224, help="side of a frame, at least 196")
    parser.add_argument("--samples", type=int, default=4, help="K")
    parser.add_argument("--tokens", type=int, default=64, help="C, tokens of every response")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--seed", type=int, default=0, help="of weights, draws and advantages")
    arguments = parser.parse_args()
    if len(arguments.clips) == 1:
        parser.error("a step ranks videos against each other: give at least two clips")
    pin_cores(arguments.threads)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    # The published geometry of training, at another size.
    video = VideoSpec(6, arguments.size, slow_divisor=3, motion_repeat=6)
    cfg = model_config(arguments.width, arguments.layers, arguments.stem_width)
    with tempfile.TemporaryDirectory() as temporary:
        paths = arguments.clips or [
            str(
                write_clip(
                    Path(temporary) / f"clip{seed}.mp4",
                    pictures(FRAMES_OF_CLIP, WIDTH_OF_CLIP, HEIGHT_OF_CLIP, seed),
                )
            )
            for seed in (0, 1)
        ]
        folder = Path(temporary) / "model"
        model, folder_config = write_official_folder(folder, cfg, video, arguments.seed)
        rollout = RolloutConfig(
            num_generations=arguments.samples, max_completion_length=arguments.tokens
        )
        config = training_config(folder, video, rollout, videos=len(paths), seed=arguments.seed)
        ours = Trainer(config)
        prompt = np.asarray(ours.prompts.ids)[0, : int(ours.prompts.lengths[0])]
        reference = TorchVQAThinker(folder_config.model, arguments.seed)
        published = PublishedTrainer(model, reference, config, prompt, ours.model.context_id)
        gt = np.linspace(1.5, 4.5, len(paths), dtype=np.float32)
        differences = relative_differences(ours.step(paths, gt, 0), published)

        number, seconds = 0, {"ours": [], "published": []}

        def our_step() -> None:
            nonlocal number
            number += 1
            outcome = ours.step(paths, gt, number)
            if outcome.lengths.max() < arguments.tokens:
                raise SystemExit("every response ended early: give another --seed")
            seconds["ours"].append(outcome.seconds)

        def published_step() -> None:
            seconds["published"].append(
                published.step(paths, lambda *each: score(ours.model, *each[:2], gt, each[2]), 1)
            )

        timing = alternate(our_step, published_step, arguments.repeats)
    phases = {name: medians(rounds[1:]) for name, rounds in seconds.items()}
    whole = {name: sum(phase.values()) - phase["decode"] for name, phase in phases.items()}
    report(
        "C7",
        f"one GRPO step, {len(paths)} videos, K={arguments.samples}, float32",
        "the published step's semantics in torch",
        timing.ratio,
        3.0,
        seconds=timing.ours,
        published_seconds=timing.theirs,
        spread=timing.spread,
        phases=phases,
        ratio_without_decoding=round(whole["published"] / whole["ours"], 3),
        relative_differences=differences,
        rounds=arguments.repeats,
        shape={
            "width": arguments.width,
            "layers": arguments.layers,
            "stem_width": arguments.stem_width,
            "vocabulary": folder_config.model.decoder.vocab_size,
            "frames": video.num_frames,
            "size": video.image_size,
            "prompt": len(prompt),
            "prompt_slots": ours.prompts.ids.shape[1],
            "tokens": arguments.tokens,
            "samples": arguments.samples,
            "videos": len(paths),
        },
        seed=arguments.seed,
        threads=arguments.threads,
        versions={**versions(), "torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
