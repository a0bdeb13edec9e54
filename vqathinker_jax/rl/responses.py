"""Texts to learn the form of an answer from: given with the label, or composed from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

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
SUREST_FIRST = (
    "noise", "frame drop", "compression", "freeze", "banding", "jitter", "downscaling", "blur",
    "shuffle", "color", "exposure",
)  # fmt: skip
"""The order in which distortions are named. What shows surely comes first: what is doubtful then
competes with the end of the text, not with something sure that it would be named before."""

SAID = {"color": "wrong color", "exposure": "bad exposure"}
"""What is said of a distortion whose name alone is no defect; its first word is its own, so that
naming it is one decision."""


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
    name_weight: float = 1.0
    """Weight in the cross-entropy of the sentences that name distortions; all other tokens weigh 1,
    and so does the end. A greedy answer then names a distortion from a probability of about
    1 / (1 + name_weight) on."""
    name_weights: tuple[tuple[str, float], ...] = ()
    """Weights of single names, in place of `name_weight`. The F1 of a name is highest where it is
    named from half of that F1 on (Lipton et al., arXiv 1402.1892): a weight of 2 / F1 - 1."""

    def weight_of(self, name: str) -> float:
        """Of the sentence that names a distortion."""
        return dict(self.name_weights).get(name, self.name_weight)

    def __post_init__(self) -> None:
        """Raises ValueError for a share that is none or leaves true scores out, a weight that is
        not positive, or a name given twice.
        """
        if not 0 <= self.digit_share <= 1:
            raise ValueError(f"digit_share must lie in [0, 1], got {self.digit_share}")
        if self.digit_share < 1 and not self.random_scores:
            raise ValueError("digit_share under 1 needs random_scores; true scores all count")
        if not 0 < self.name_weight < math.inf:
            raise ValueError(f"name_weight must be positive and finite, got {self.name_weight}")
        names = [name for name, _ in self.name_weights]
        for name, weight in self.name_weights:
            if not 0 < weight < math.inf:
                raise ValueError(f"name_weights must be positive and finite, {name} has {weight}")
            if names.count(name) > 1:
                raise ValueError(f"name_weights must give each name once, {name} is given twice")


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
    '<think> Blur is severe. </think><answer> 3.00 </answer>'
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
    """What is wrong with a video.

    >>> reasons((Distortion("blur", 0.5), Distortion("noise", 0.2)))
    'Noise is slight. Blur is moderate.'
    """
    if distortions is None:
        return NO_REASONS
    return " ".join(said for _, said in naming_sentences(distortions)) or NOTHING_WRONG


def naming_sentences(distortions: Sequence[Distortion]) -> tuple[tuple[str, str], ...]:
    """Name and sentence of each distortion to be named: by `SUREST_FIRST`, others behind them.

    At the end of each sentence the next name stands against the end of the text and against the
    other names, each with its own probability. In a list, a comma or an "and" would come first,
    which stands for any name, and a severity before its name would share the name's probability
    out among five words.
    """
    places = {name: place for place, name in enumerate(SUREST_FIRST)}
    named = sorted(
        (one for one in distortions if one.severity >= LEAST_NAMED),
        key=lambda one: places.get(one.name, len(places)),
    )
    said = ((one, SAID.get(one.name, one.name).capitalize()) for one in named)
    return tuple((one.name, f"{name} is {severity_word(one.severity)}.") for one, name in said)


def severity_word(severity: float) -> str:
    """The word of `SEVERITIES` for a severity from 0 to 1."""
    return next(word for bound, word in SEVERITIES if severity <= bound)
