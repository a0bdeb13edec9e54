"""C8: scoring a folder of clips against the published batch script's steps in torch.

Both sides read the same files with the same weights, geometry, prompt and number of new tokens. The
torch side does what the published script does: decode every clip with decord in the main process,
squash with Pillow, run one batch through the encoders, decode greedily with left padding. Run from
the repository root: `python -m benchmarks.c8_scoring CLIPS`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.timing import THREADS, alternate, pin_cores, report

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from decord import VideoReader, cpu
from PIL import Image

import vqathinker_jax as vqt
from tests.parity.torch_official import TorchVQAThinker, write_official_folder
from vqathinker_jax.data.frames import frame_indices
from vqathinker_jax.data.sources import expand_sources
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.spec import VideoSpec

VIDEO = VideoSpec(num_frames=12, image_size=224, slow_divisor=4, motion_repeat=4)
CONFIG = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8
    ),
    decoder=Qwen2Config(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
    ),
    slowfast=SlowFastConfig(stem_width=32),
)
END_THAT_NEVER_COMES = -1
"""Both sides decode the full number of tokens, so that random weights do not decide the time."""


def torch_pixels(path: str) -> torch.Tensor:
    """[F, S, S, 3] of one clip, the way of the published script."""
    reader = VideoReader(path, ctx=cpu(0), num_threads=1)
    indices = frame_indices(len(reader), float(reader.get_avg_fps()), VIDEO.num_frames)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    frames = []
    for index in indices:
        image = Image.fromarray(reader[int(index)].asnumpy()).convert("RGB")
        image = image.resize((VIDEO.image_size, VIDEO.image_size), Image.Resampling.BICUBIC)
        frames.append((torch.from_numpy(np.array(image)).float() / 255 - mean) / std)
    return torch.stack(frames)


def score_with_torch(
    model: TorchVQAThinker, paths: list[str], ids: np.ndarray, context_id: int, tokens: int
) -> np.ndarray:
    """New ids of every clip, one batch."""
    pixels = torch.stack([torch_pixels(path) for path in paths]).numpy()
    rows = np.broadcast_to(ids, (len(paths), len(ids)))
    embeds = model.embeds(rows, pixels, VIDEO, context_id)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    return model.greedy(embeds, mask, tokens, END_THAT_NEVER_COMES, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sources", nargs="+", help="clips, or folders of clips, that decord can open"
    )
    parser.add_argument("--tokens", type=int, default=250, help="length of every answer")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    pin_cores()
    torch.set_num_threads(THREADS)
    paths = expand_sources(arguments.sources)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        reference, _ = write_official_folder(folder, CONFIG, VIDEO, seed=0)
        ours = vqt.from_pretrained(folder, dtype="float32", video=VIDEO)
        settings = ScoreSettings(max_new_tokens=arguments.tokens, batch_size=min(4, len(paths)))
        ids, context_id = ours.build_prompt(), ours.loaded.context_id

        def score_ours() -> None:
            results = list(ours.score_many(paths, settings))
            failed = [result.error for result in results if result.status != "ok"]
            if failed:
                raise RuntimeError(f"not every clip was scored: {failed}")

        timing = alternate(
            score_ours,
            lambda: score_with_torch(reference, paths, ids, context_id, arguments.tokens),
            arguments.repeats,
        )
    report(
        "C8",
        f"scoring {len(paths)} clips, files per second",
        "the published batch script's steps in torch",
        timing.ratio,
        2.0,
        spread=timing.spread,
        ours_files_per_s=len(paths) / timing.ours,
        torch_files_per_s=len(paths) / timing.theirs,
        prompt_tokens=len(ids),
        new_tokens=arguments.tokens,
    )


if __name__ == "__main__":
    main()
