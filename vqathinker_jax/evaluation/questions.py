"""Multiple-choice questions about videos: reading them, and reading the letter of an answer.

A question file is JSON: a list of objects with `video`, `question`, `options` (a list in the order
of the letters), `answer` (a letter, or the text of the right option) and optionally `group`.

Objects with `video_name` instead are read as Q-Bench-Video's: `question`, `answers` (the options),
`correct_ans`, `question_type` (a text or texts; those with `open_ended` are left out) and `context`
(a text or texts that say `global` or `referring`, the groups; those with `compare` or `joint` are
about a pair of videos and are left out). Source: GPT_test.py of Q-Future/Q-Bench-Video, which reads
such a file, and its README.md for `correct_ans`; the file itself was not at hand.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqathinker_jax.data.labels import inside_path
from vqathinker_jax.data.prompt import PLACEHOLDERS
from vqathinker_jax.evaluation.benchmarks import BenchmarkError

ASKING = "Answer with the letter of the right option."
MOST_SHOWN = 20
GROUPS = ("global", "referring")
"""Of the questions about one video in Q-Bench-Video."""

_ALONE = re.compile(r"[\s*_(\[{\"'`]*([A-Za-z])[\s*_)\]}\"'`]*([.:)].*)?", re.DOTALL)
_MARKED = re.compile(r"(?<![A-Za-z])([A-Z])(?:[.:)\]]|\s*$|\s+(?:or|and)\b)")
"""A letter written as one of several: `B.`, `B)`, `B or`, or at the end."""
_ANOTHER = re.compile(r"[\s*_)\]\"'`]*(?:,|/|\bor\b|\band\b)[\s*_(\[\"'`]*([A-Z])(?![A-Za-z])")
"""Behind a letter: another one."""
_SAID = re.compile(r"\b(?:answer|option|choice)\s*(?:is|:)?\s*:?\s*[*_(\[\"'`]*([A-Z])(?![A-Za-z])")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about one video."""

    number: int
    """1-based place in the file."""
    video: str
    """Relative to the video root."""
    path: str
    text: str
    options: tuple[str, ...]
    answer: int
    """Index of the right option."""
    group: str
    """Empty where the file names none."""

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(self.options)]
        return "\n".join([self.text, *lines, ASKING])


LETTERS = string.ascii_uppercase


@dataclasses.dataclass(frozen=True)
class Answered:
    """What became of one question."""

    number: int
    video: str
    group: str
    status: str
    """`ok`, `missing`, `error`, or `no letter` (never counted as right)."""
    right: str
    """The right letter."""
    chosen: str | None
    response: str | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class QuestionsOutcome:
    """All questions of a file."""

    name: str
    answers: tuple[Answered, ...]
    notes: tuple[str, ...] = ()
    """What was left out of the file."""

    def accuracy(self, group: str | None = None) -> float:
        """Share of right letters among the questions asked, of a group or of all; NaN without
        any. An answer without a letter is wrong."""
        asked = [
            one
            for one in self.answers
            if one.status in ("ok", "no letter") and group in (None, one.group)
        ]
        right = sum(one.chosen == one.right for one in asked)
        return right / len(asked) if asked else math.nan

    @property
    def groups(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(dict.fromkeys(one.group for one in self.answers if one.group))

    def count(self, status: str) -> int:
        """Questions that ended so."""
        return collections.Counter(one.status for one in self.answers)[status]


@dataclasses.dataclass(frozen=True)
class QuestionFile:
    """Questions that were read."""

    questions: tuple[Question, ...]
    notes: tuple[str, ...]
    """What was left out, and why."""


def read_questions(file: Path, root: Path) -> QuestionFile:
    """Reads a question file.

    Raises:
      BenchmarkError: it cannot be read or has bad entries, each named with its number and reason.
    """
    try:
        entries = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise BenchmarkError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{file}: not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise BenchmarkError(f"{file}: is not a list of questions")
    made, bad, left_out = [], [], collections.Counter()
    for number, entry in enumerate(entries, start=1):
        try:
            if isinstance(entry, dict) and "video_name" in entry:
                reason = _why_left_out(entry)
                if reason:
                    left_out[reason] += 1
                    continue
                entry = _of_q_bench_video(entry)
            made.append(_question(number, entry, root))
        except ValueError as error:
            bad.append(f"  question {number}: {error}")
    if bad:
        more = [f"  and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        raise BenchmarkError(
            "\n".join([f"{file}: {len(bad)} bad questions", *bad[:MOST_SHOWN], *more])
        )
    if not made:
        raise BenchmarkError(f"{file}: holds no multiple-choice question about one video")
    notes = tuple(
        f"{count} question{'s' * (count > 1)} left out: {why}" for why, count in left_out.items()
    )
    return QuestionFile(tuple(made), notes)


def _why_left_out(entry: dict[str, Any]) -> str | None:
    """Why a question of Q-Bench-Video has no place here; None where it has."""
    if "open_ended" in _text(entry, "question_type"):
        return "open-ended, so without a letter to choose"
    context = _text(entry, "context")
    if "compare" in context or "joint" in context:
        return "about a pair of videos"
    return None


def _of_q_bench_video(entry: dict[str, Any]) -> dict[str, Any]:
    """A question of Q-Bench-Video under our names; what lacks stays out."""
    names = {"video_name": "video", "answers": "options", "correct_ans": "answer"}
    missing = [name for name in ("question", *names) if name not in entry]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    context = _text(entry, "context")
    made = {ours: entry[theirs] for theirs, ours in names.items()}
    group = next((group for group in GROUPS if group in context), context)
    return made | {"question": entry["question"], "group": group}


def _text(entry: dict[str, Any], key: str) -> str:
    """A field that is a text or several, as one in small letters; empty where there is none."""
    value = entry.get(key, "")
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"its {key} is no text")
    return " ".join(parts).lower()


def _question(number: int, entry: Any, root: Path) -> Question:
    if not isinstance(entry, dict):
        raise ValueError("is not an object")
    missing = [key for key in ("video", "question", "options", "answer") if key not in entry]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    text, options, answer = entry["question"], entry["options"], entry["answer"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError("its question is no text")
    if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise ValueError("its options are no list of texts")
    options = [one.strip() for one in options]
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options) or "" in options:
        raise ValueError("its options must be 2 to 26 different texts")
    for placeholder in PLACEHOLDERS:
        if any(placeholder in part for part in (text, *options)):
            raise ValueError(f"holds {placeholder!r}, which means something to the model")
    if not isinstance(answer, str):
        raise ValueError("its answer is no text")
    index = _right_option(answer.strip(), options)
    group = entry.get("group", "")
    if not isinstance(group, str):
        raise ValueError("its group is no text")
    video = inside_path(entry["video"])
    return Question(
        number, video, str(root / video), text.strip(), tuple(options), index, group.strip()
    )


def _right_option(answer: str, options: Sequence[str]) -> int:
    """The index of an answer that is an option, its letter, or both as in `B. Dark`."""
    if answer in options:
        return options.index(answer)
    letter, _, text = answer.partition(".")
    index = LETTERS.find(letter.upper()) if len(letter) == 1 else -1
    if not 0 <= index < len(options) or text.strip() not in ("", options[index]):
        raise ValueError(f"its answer {answer[:40]!r} is neither a letter nor an option")
    return index


def read_letter(response: str, options: Sequence[str]) -> str | None:
    """The letter that a response chooses, or None where it chooses none or several.

    The last `<answer>` pair is read, else what follows `</think>`, else the whole text: a letter
    alone (with a bracket, a full stop or the option behind it), the text of one option, or "the
    answer is B". A text that says two letters so chooses none.

    >>> read_letter("<think>Dark.</think><answer> (b) </answer>", ["Bright", "Dark"])
    'B'
    """
    _, opening, rest = response.rpartition("<answer>")
    content, closing, _ = rest.partition("</answer>")
    if not (opening and closing):
        content = response.rpartition("</think>")[2]
    content = content.strip()
    letters = LETTERS[: len(options)]
    for letter, option in zip(letters, options, strict=True):
        if content.rstrip(".").lower() == option.rstrip(".").lower():
            return letter
    alone = _ALONE.fullmatch(content)
    if alone and alone.group(1).upper() in letters:
        chosen = alone.group(1).upper()
        others = {letter for letter in _MARKED.findall(alone.group(2) or "") if letter in letters}
        return None if others - {chosen} else chosen
    said = set()
    for found in _SAID.finditer(content):
        while found:
            said.add(found[1])
            found = _ANOTHER.match(content, found.end())
    said &= set(letters)
    return said.pop() if len(said) == 1 else None
