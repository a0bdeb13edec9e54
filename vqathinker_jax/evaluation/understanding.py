"""What an evaluation of understanding found, as text, Markdown and JSON."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

from vqathinker_jax.evaluation.distortions import DIMENSIONS
from vqathinker_jax.evaluation.finevd import KEYWORDS, AttributionOutcome
from vqathinker_jax.evaluation.questions import QuestionsOutcome
from vqathinker_jax.evaluation.tables import markdown_table, text_table, without_nan

ATTRIBUTION_HEADER = ("attribution", "videos", *DIMENSIONS, "overall")
ACCURACY = "share of right decisions in percent: named if there, not named if not"


@dataclasses.dataclass(frozen=True)
class Understanding:
    """Attributions and questions, each judged."""

    attributions: tuple[AttributionOutcome, ...] = ()
    questions: tuple[QuestionsOutcome, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.attributions and not self.questions

    @property
    def num_lost(self) -> int:
        """Videos and questions that could not be asked, and texts without a verdict."""
        lost = sum(row.status != "ok" for one in self.attributions for row in one.rows)
        return lost + sum(one.count("missing") + one.count("error") for one in self.questions)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def attribution_rows(understanding: Understanding) -> list[tuple[str, ...]]:
    """The cells of the table of attributions."""
    return [
        (
            one.name,
            str(sum(row.status in ("ok", "no verdict") for row in one.rows)),
            *(_percent(one.counts[name].accuracy) for name in DIMENSIONS),
            _percent(one.overall),
        )
        for one in understanding.attributions
    ]


def question_rows(outcome: QuestionsOutcome) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Header and cells of one set of questions."""
    header = ("questions", "asked", *outcome.groups, "overall")
    asked = outcome.count("ok") + outcome.count("no letter")
    cells = [_percent(outcome.accuracy(group)) for group in (*outcome.groups, None)]
    return header, (outcome.name, f"{asked} of {len(outcome.answers)}", *cells)


def remarks(understanding: Understanding) -> list[str]:
    """What must be known about the numbers: one line each."""
    said = []
    for one in understanding.attributions:
        said.append(f"{one.name}: judged by {one.judge}; {ACCURACY}")
        count = collections.Counter(row.status for row in one.rows)
        told = (
            ("missing", "missing"),
            ("error", "failed, left out"),
            ("no verdict", "without a verdict, counted as wrong"),
        )
        counts = [f"{count[status]} {what}" for status, what in told if count[status]]
        if count["no verdict"] and one.judge != KEYWORDS:
            counts[-1] += f" ({one.name}.judge.jsonl says why)"
        if counts:
            said.append(f"{one.name}: of {len(one.rows)} videos " + "; ".join(counts))
    for one in understanding.questions:
        told = (
            ("missing", "whose video is missing"),
            ("error", "failed, left out"),
            ("no letter", "answered without a letter, counted as wrong"),
        )
        counts = [f"{one.count(status)} {what}" for status, what in told if one.count(status)]
        if counts:
            said.append(f"{one.name}: of {len(one.answers)} questions " + "; ".join(counts))
        said += [f"{one.name}: {note}" for note in one.notes]
    return said


def text_understanding(understanding: Understanding) -> str:
    """What stands on a terminal."""
    return "\n\n".join(_parts(understanding, text_table, ""))


def markdown_understanding(understanding: Understanding) -> str:
    """A section of summary.md."""
    parts = ["## Understanding", *_parts(understanding, markdown_table, "- ")]
    return "\n\n".join(parts) + "\n"


def _parts(understanding: Understanding, table: Any, bullet: str) -> list[str]:
    parts = []
    if understanding.attributions:
        parts.append(table(ATTRIBUTION_HEADER, attribution_rows(understanding)))
    for one in understanding.questions:
        header, cells = question_rows(one)
        parts.append(table(header, [cells]))
    parts.append("\n".join(bullet + line for line in remarks(understanding)))
    return [part for part in parts if part]


def json_understanding(understanding: Understanding) -> dict[str, Any]:
    """understanding.json; null where undefined."""
    return without_nan(
        {
            "attributions": [
                {
                    "name": one.name,
                    "judge": one.judge,
                    "overall": one.overall,
                    "dimensions": {
                        name: {
                            **dataclasses.asdict(counts),
                            "accuracy": counts.accuracy,
                            "f1": counts.f1,
                        }
                        for name, counts in one.counts.items()
                    },
                    "rows": [dataclasses.asdict(row) for row in one.rows],
                }
                for one in understanding.attributions
            ],
            "questions": [
                {
                    "name": one.name,
                    "overall": one.accuracy(),
                    "notes": list(one.notes),
                    "groups": {group: one.accuracy(group) for group in one.groups},
                    "answers": [dataclasses.asdict(answer) for answer in one.answers],
                }
                for one in understanding.questions
            ],
        }
    )
