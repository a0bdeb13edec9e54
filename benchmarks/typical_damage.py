"""The table `TYPICAL` of `synthetic/opinions.py`: damage done to typical content.

For each distortion and strength, the median of `damage` over training scenes, photographs among
them, at sizes from 240x320 to 270x480.

Run from the repository root: `python -m benchmarks.typical_damage`
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from vqathinker_jax.synthetic import opinions
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.synthetic.scenes import catalogue, fits, generator, of_split, render

SIZES = ((240, 320), (288, 384), (270, 480))
FPS = 25.0
SCENES_OF_TABLE = 20
"""A family, in the catalogue when the table in `opinions.py` was made."""


def damages(scene_id: str, size: tuple[int, int], num_frames: int) -> np.ndarray:
    """Damage by distortion and strength to one scene, float64 [distortions, knots]."""
    (scene,) = (scene for scene in catalogue(SCENES_OF_TABLE) if scene.id == scene_id)
    found = np.empty((len(DISTORTIONS), len(opinions.KNOTS)))
    for row, (name, distortion) in enumerate(DISTORTIONS.items()):
        rng = generator("typical", scene_id, name)
        is_moving = distortion.category == "temporal"
        before = render(scene, num_frames, *size, FPS, rng, is_moving)
        for column, strength in enumerate(opinions.KNOTS):
            after, _ = distortion.apply(before, strength, rng)
            found[row, column] = opinions.damage(before, after, opinions.frames_to_compare(name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--frames", type=int, default=36)
    args = parser.parse_args()
    scenes = [
        scene for scene in of_split(catalogue(SCENES_OF_TABLE), "train") if fits(scene, *SIZES[-1])
    ]
    order = generator("typical scenes").permutation(len(scenes))[: args.scenes]
    chosen = [scenes[int(place)].id for place in order]
    sizes = [SIZES[number % len(SIZES)] for number in range(len(chosen))]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as pool:
        every = list(pool.map(damages, chosen, sizes, [args.frames] * len(chosen)))
    for name, row in zip(DISTORTIONS, np.median(every, axis=0), strict=True):
        print(f'    "{name}": ({", ".join(f"{value:.3g}" for value in row)}),')


if __name__ == "__main__":
    main()
