"""Texts to learn the form of an answer from: given with the label, or composed from it."""

from __future__ import annotations

import dataclasses

from vqathinker_jax.data.labels import Distortion, LabelledVideo
from vqathinker_jax.rl.answers import parse_response

SEVERITIES = (
    (0.2, "slight"),
    (0.4, "mild"),
    (0.6, "moderate"),
    (0.8, "strong"),
    (1.0, "severe"),
)
"""Severity up to a bound -> word."""
LEAST_NAMED = 0.08
"""Severities under it can hardly be seen, and are not named."""
NO_REASONS = "I look at sharpness, noise, compression, colour and motion."
"""Where the label says nothing about the video but its score."""

NOTHING_WRONG = "The video shows no distortion."


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """The texts of supervised fine-tuning, and of the anchor in GRPO."""

    random_scores: bool = False
    """The score in the text is drawn evenly from 1 to 5 instead of being the label's: the text then
    teaches form and words, and scores are left to GRPO. A label with a response of its own is then
    used for its reasons only."""
    digit_share: float = 1.0
    """Share of the texts of a step whose digits count. Digits drawn at random are the same lesson
    each time, and their gradients noise beside those of the words: a few texts are enough. The
    anchor's never count."""

    def __post_init__(self) -> None:
        """Raises ValueError for a share that is none, or that leaves true scores out."""
        if not 0 <= self.digit_share <= 1:
            raise ValueError(f"digit_share must lie in [0, 1], got {self.digit_share}")
        if self.digit_share < 1 and not self.random_scores:
            raise ValueError("digit_share under 1 needs random_scores; true scores all count")


def response_text(
    video: LabelledVideo, score: float, is_drawn: bool = False, reasoning: bool = True
) -> str:
    """`<think> reasons </think><answer> 3.42 </answer>`.

    Args:
      video: a response of its own is taken as it is; else its distortions are the reasons.
      score: to be written with two decimals.
      is_drawn: whether `score` is not the label's, so that it replaces that of a given response.
      reasoning: False: the answer alone, whatever response the video has.

    >>> video = LabelledVideo("a", "a.mp4", 3.0, "d", 1, distortions=(Distortion("blur", 0.9),))
    >>> response_text(video, 3.0)
    '<think> The video shows severe blur. </think><answer> 3.00 </answer>'
    """
    answer = f"<answer> {score:.2f} </answer>"
    if not reasoning:
        return answer
    if video.response is None:
        return f"<think> {reasons(video.distortions)} </think>{answer}"
    if is_drawn and parse_response(video.response).score is not None:
        return video.response[: video.response.rindex("<answer>")] + answer
    return video.response


def reasons(distortions: tuple[Distortion, ...] | None) -> str:
    """What is wrong with a video, in the label's order.

    Synthetic labels have one order for all, that of `DISTORTIONS`: each name is then one decision,
    where the worst first would spread what speaks for a name over several places.

    >>> reasons((Distortion("blur", 0.5), Distortion("noise", 0.2)))
    'The video shows moderate blur and slight noise.'
    """
    if distortions is None:
        return NO_REASONS
    named = [one for one in distortions if one.severity >= LEAST_NAMED]
    if not named:
        return NOTHING_WRONG
    words = [f"{severity_word(one.severity)} {one.name}" for one in named]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"The video shows {listed}."


def severity_word(severity: float) -> str:
    """The word of `SEVERITIES` for a severity from 0 to 1."""
    return next(word for bound, word in SEVERITIES if severity <= bound)
