"""What a demonstration found, and how that is said."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np

from vqathinker_jax.demo.handful import DemoClip
from vqathinker_jax.demo.training import ShortRun, TrainingReport
from vqathinker_jax.metrics import srcc
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.terminal import shown_reason

LONGEST_REASON = 280
"""Characters of an answer that are shown; `scores.jsonl` has all of it."""
NOT_OPINIONS = (
    "Pseudo scores are computed from what was done to a clip; no person gave them, and agreeing "
    "with them says nothing about agreeing with people."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One clip and what the model said of it."""

    clip: DemoClip
    before: ScoreResult
    after: ScoreResult | None = None
    """Of the trained model; None where nothing was trained."""

    @property
    def is_failed(self) -> bool:
        """Whether a model could not be asked."""
        results = (self.before, self.after)
        return any(result is not None and result.status != "ok" for result in results)

    def to_json(self) -> str:
        """One line of JSON."""
        row = {
            "title": self.clip.title,
            "scene": self.clip.scene,
            "distortions": [dataclasses.asdict(applied) for applied in self.clip.distortions],
            "pseudo_score": self.clip.pseudo_score,
            "result": dataclasses.asdict(self.before),
            "result_trained": None if self.after is None else dataclasses.asdict(self.after),
        }
        return json.dumps(row)


@dataclasses.dataclass(frozen=True)
class HandfulAgreement:
    """Model scores against pseudo scores over the clips with a score."""

    num_clips: int
    num_scored: int
    srcc: float
    """NaN where it is undefined."""
    distance: float
    """Mean absolute difference; NaN without a score."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Everything a demonstration found."""

    rows: tuple[Row, ...]
    model_name: str
    model_kind: str
    warning: str | None
    """What must be known before a score of the model is trusted; None for published weights."""
    seed: int
    seconds: float
    short_run: ShortRun | None = None
    training: TrainingReport | None = None

    @property
    def agreement(self) -> HandfulAgreement:
        """Of the model that was asked first."""
        return agree(self.rows, [row.before for row in self.rows])

    @property
    def agreement_after(self) -> HandfulAgreement | None:
        """Of the trained model."""
        if self.training is None:
            return None
        return agree(self.rows, [row.after for row in self.rows])


def agree(rows: tuple[Row, ...], results: list[ScoreResult]) -> HandfulAgreement:
    """Agreement of results with the pseudo scores of their clips."""
    pairs = [
        (result.score, row.clip.pseudo_score)
        for row, result in zip(rows, results, strict=True)
        if result.score is not None
    ]
    scores, targets = np.array(pairs).reshape(-1, 2).T
    distance = float(np.abs(scores - targets).mean()) if pairs else math.nan
    return HandfulAgreement(len(rows), len(pairs), srcc(scores, targets), distance)


def shown(value: float) -> str:
    """Two decimals, or a dash for what is undefined."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def reason(result: ScoreResult) -> str:
    """What the model, or the reader of the file, gives as reason, cut where it rambles."""
    text = shown_reason(result)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1].rstrip() + "…"


def agreement_text(agreement: HandfulAgreement) -> str:
    """The agreement in one sentence, with the number of clips it stands on.

    >>> agreement_text(HandfulAgreement(12, 11, 0.9, 0.5))
    'SRCC 0.90 with the pseudo scores, mean distance 0.50, over 11 of 12 clips (n = 11: tiny).'
    """
    n, scored = agreement.num_clips, agreement.num_scored
    over = f"{n} clips" if scored == n else f"{scored} of {n} clips"
    if math.isnan(agreement.srcc):
        return f"no rank correlation can be computed over {over} with a score (n = {scored})."
    return (
        f"SRCC {agreement.srcc:.2f} with the pseudo scores, mean distance "
        f"{agreement.distance:.2f}, over {over} (n = {scored}: tiny)."
    )


def change_text(demo: Demo) -> str:
    """What the short training changed, as measured.

    Raises:
      ValueError: nothing was trained.
    """
    before, after, report = demo.agreement, demo.agreement_after, demo.training
    if after is None or report is None:
        raise ValueError("nothing was trained, so nothing changed")
    return (
        f"After {report.num_steps} steps of GRPO on {report.num_clips} other clips: SRCC "
        f"{shown(before.srcc)} → {shown(after.srcc)}, mean distance {shown(before.distance)} → "
        f"{shown(after.distance)}, clips with a score {before.num_scored} → {after.num_scored} "
        f"of {before.num_clips}; mean reward in training {report.rewards[0]:.2f} in the first "
        f"step, {report.rewards[-1]:.2f} in the last. So short a run shows that training runs, "
        "not that it helps."
    )
