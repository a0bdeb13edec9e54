"""What a reasoning text names, and how well it agrees with what is known to be wrong."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Sequence

from vqathinker_jax.data.labels import Distortion
from vqathinker_jax.rl.responses import LEAST_NAMED, SEVERITIES, severity_word

_WORDS = tuple(word for _, word in SEVERITIES)


@dataclasses.dataclass(frozen=True)
class NameCounts:
    """How often one distortion was there, and how often it was named."""

    hits: int
    """Videos that have it and whose text names it."""
    false_alarms: int
    """Videos whose text names it without their having it."""
    misses: int
    """Videos that have it and whose text does not name it."""

    @property
    def f1(self) -> float:
        """2 hits / (2 hits + false alarms + misses); NaN if never there and never named."""
        total = 2 * self.hits + self.false_alarms + self.misses
        return 2 * self.hits / total if total else math.nan


@dataclasses.dataclass(frozen=True)
class WordsAgreement:
    """How well reasoning texts agree with the distortions of their videos."""

    counts: dict[str, NameCounts]
    """By name, for all names asked about."""
    num_texts: int
    """Videos that were compared."""
    num_distinct: int
    """Different texts among them: 1 says that the model always says the same."""
    num_hits: int
    """Distortions named where they are."""
    severity_exact: float
    """Share of the hits whose word of severity is the right one; NaN without hits."""
    severity_within_one: float
    """The same, the next milder and the next stronger word counted as right."""

    @property
    def macro_f1(self) -> float:
        """The mean of the F1 of all names that were there or named; NaN if none was."""
        found = [f1 for one in self.counts.values() if not math.isnan(f1 := one.f1)]
        return math.fsum(found) / len(found) if found else math.nan


def named_distortions(text: str, names: Sequence[str]) -> dict[str, str | None]:
    """The distortions that a text names, each with its word of severity.

    A name is a whole word, in any case; of two names that begin at one place, the longer one is
    meant. The first mention of a name counts, and a severity stands right before it or, behind an
    "is", after it. A text that denies a distortion names it too.

    Args:
      text: reasoning.
      names: to look for.

    Returns:
      From name, in order of mention, to a word of `SEVERITIES` or None.

    >>> named_distortions("Freeze is severe. Mild blur, noise.", ("noise", "freeze", "blur"))
    {'freeze': 'severe', 'blur': 'mild', 'noise': None}
    """
    if not names:
        return {}
    by_lower = {name.lower(): name for name in names}
    found: dict[str, str | None] = {}
    for match in _pattern(tuple(by_lower)).finditer(text.lower()):
        found.setdefault(by_lower[match["name"]], match["before"] or match["after"])
    return found


@functools.lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    choices = "|".join(map(re.escape, longest_first))
    words = "|".join(_WORDS)
    return re.compile(
        rf"(?:\b(?P<before>{words}) )?\b(?P<name>{choices})\b(?: is (?P<after>{words})\b)?"
    )


def present_distortions(distortions: Sequence[Distortion]) -> dict[str, float]:
    """From name to severity, of those that a text should name: severity `LEAST_NAMED` or more."""
    return {one.name: one.severity for one in distortions if one.severity >= LEAST_NAMED}


def words_agreement(
    texts: Sequence[str | None],
    truths: Sequence[Sequence[Distortion]],
    names: Sequence[str],
) -> WordsAgreement:
    """Compares what texts name with what is wrong.

    Args:
      texts: the reasoning about each video; None, where there is none, names nothing.
      truths: the distortions of each video.
      names: all that count; others, in texts or in labels, are not looked at.

    Raises:
      ValueError: not one text for each video.
    """
    if len(texts) != len(truths):
        raise ValueError(f"{len(texts)} texts for {len(truths)} videos")
    outcomes: collections.Counter[tuple[str, bool, bool]] = collections.Counter()
    steps = []
    for text, truth in zip(texts, truths, strict=True):
        named = named_distortions(text or "", names)
        present = present_distortions(truth)
        for name in names:
            outcomes[name, name in present, name in named] += 1
            if name in present and name in named:
                steps.append(_severity_steps(named[name], present[name]))
    counts = {
        name: NameCounts(
            hits=outcomes[name, True, True],
            false_alarms=outcomes[name, False, True],
            misses=outcomes[name, True, False],
        )
        for name in names
    }
    return WordsAgreement(
        counts=counts,
        num_texts=len(texts),
        num_distinct=len(set(texts) - {None}),
        num_hits=len(steps),
        severity_exact=_share_up_to(0, steps),
        severity_within_one=_share_up_to(1, steps),
    )


def _severity_steps(said: str | None, severity: float) -> float:
    """How many words apart; infinity where nothing was said."""
    if said is None:
        return math.inf
    return abs(_WORDS.index(said) - _WORDS.index(severity_word(severity)))


def _share_up_to(most: int, steps: Sequence[float]) -> float:
    return sum(step <= most for step in steps) / len(steps) if steps else math.nan
