"""The tokenizer of a model that starts from nothing: the words of prompts and of composed answers.

With it a prompt takes about as many tokens as it has words, and so does an answer.
"""

from __future__ import annotations

from pathlib import Path

import jax

from vqathinker_jax.data.labels import Distortion, LabelledVideo
from vqathinker_jax.processes import first_says
from vqathinker_jax.rl.responses import SEVERITIES, response_text
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.weights.folder_writer import new_folder
from vqathinker_jax.weights.small_tokenizer import prompt_texts, write_tokenizer


def answer_texts() -> tuple[str, ...]:
    """Composed answers that together hold every word of any."""
    found = [None, (), *(_all_distortions(bound) for bound, _ in SEVERITIES)]
    return tuple(_answer(distortions) for distortions in found)


def small_tokenizer(run_dir: Path) -> Path:
    """The folder of a run's own tokenizer, RUN/tokenizer, which is written once.

    Raises:
      WeightsError: it cannot be written.
    """
    folder = run_dir / "tokenizer"
    if not first_says(folder.exists, f"looking for {folder}"):
        with new_folder(folder) as unfinished:
            if jax.process_index() == 0:
                write_tokenizer(unfinished, (*prompt_texts(), *answer_texts()))
    return folder


def _all_distortions(severity: float) -> tuple[Distortion, ...]:
    return tuple(Distortion(name, severity) for name in DISTORTIONS)


def _answer(distortions: tuple[Distortion, ...] | None) -> str:
    score = 3.0
    video = LabelledVideo("any", "any.mp4", score, "any", 1, distortions=distortions)
    return response_text(video, score)
