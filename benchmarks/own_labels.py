"""Labels with a model's own scores, to teach it other words and keep its scores.

SFT with new texts moves scores too, and with random digits it takes them away. Where the texts have
the scores that the model gives itself, it learns them with the new words. Each clip's score is the
mean of the expected scores of two views, as it is and mirrored, behind two sampled answers to each.

    python -m benchmarks.own_labels configs/nano_distil.yaml data/synthetic/train.jsonl

The model, and how clips are read, are those of the configuration, and so is the file that is
written: its `data.train.labels`. Settings can be changed as for `vqathinker train`. Lines stay as
they are but for their scores; a clip that cannot be read is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import vqathinker_jax as vqt
from benchmarks.nano_quality import accuracy
from vqathinker_jax.asking import Asker
from vqathinker_jax.config import TrainConfig, load_config
from vqathinker_jax.data.labels import LabelledVideo
from vqathinker_jax.rl.validation import read_batches
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.terminal import Counter
from vqathinker_jax.whole_file import write_whole

BATCH = 32
SAMPLES = 2
"""Answers to each view; the expected score is read behind each."""
MIRRORED = 1000
"""Added to the numbers that the draws for mirrored clips depend on."""


def own_scores(
    model: vqt.VideoQualityModel, config: TrainConfig, videos: Sequence[LabelledVideo]
) -> dict[str, float]:
    """The model's score, 1 to 5, of every readable video, by id; `config` says how to read them."""
    settings = ScoreSettings(
        samples=SAMPLES,
        temperature=1.0,
        top_k=0,
        aggregate="soft",
        max_new_tokens=config.rollout.max_completion_length,
        prompt_style=config.data.prompt_style,
    )
    asker = Asker(model.loaded, settings, BATCH)
    found: dict[str, float] = {}
    done = 0
    with Counter("clips scored", len(videos), is_quiet=False) as counter:
        for batch in read_batches(model.loaded, videos, config, asker.batch_size):
            frames = batch.frames[batch.is_readable]
            if len(frames):
                ids = np.arange(len(frames), dtype=np.uint32)  # Draws are the same in each batch.
                views = [frames, np.ascontiguousarray(frames[:, :, :, ::-1])]
                draws = [ids, ids + MIRRORED]
                asked = map(asker.ask_in_full, views, draws)
                readable = (v for v, ok in zip(batch.videos, batch.is_readable, strict=True) if ok)
                for video, *both in zip(readable, *asked, strict=True):
                    if all(one.soft is not None for one in both):
                        found[video.id] = sum(one.soft.score for one in both) / len(both)
            done += len(batch.videos)
            counter.show(done, len(videos))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("labels", type=Path, help="JSON lines, as `synth` writes them")
    args, settings = parser.parse_known_args()
    config = load_config(args.config, settings)
    target = Path(config.data.train.labels)
    videos = dataclasses.replace(config.data.train, labels=str(args.labels)).read()
    model = vqt.from_pretrained(config.model.path, video=config.video)
    found = own_scores(model, config, videos)
    lines = []
    for text in args.labels.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["id"] in found:
            line["conversations"][-1]["value"] = round(found[line["id"]], 4)
            lines.append(json.dumps(line))
    write_whole(target, "".join(f"{line}\n" for line in lines))
    scored = accuracy([found.get(video.id) for video in videos], [video.score for video in videos])
    print(
        f"{target}: {len(lines)} of {len(videos)} clips; SRCC with their labels {scored.srcc:.3f}"
    )


if __name__ == "__main__":
    main()
