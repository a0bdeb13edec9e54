"""Reading numbers out of responses: the only place that looks at generated text.

Every function takes time linear in the length of the text, whatever the text, so that a runaway
response cannot stall a training step. Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
import re

FALLBACKS = ("none", "whole_text")
MULTI_VARIANTS = ("default", "official_code")
QINSIGHT_TASKS = ("score", "degradation", "comparison")

# ASCII digits only: `\d` would also accept digits of other scripts.
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_UNSIGNED = re.compile(r"[0-9]+\.?[0-9]*")
_SEAM = re.compile(r"</think>\s*<answer>")
_RATING = re.compile(r'"rating"\s*:\s*([0-9.]+)')
_DISTORTION = re.compile(r'"distortion_class"\s*:\s*"([^"]+)"')
_SEVERITY = re.compile(r'"severity"\s*:\s*"([^"]+)"')


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one response says."""

    format_ok: bool
    """The whole text is a think block followed by an answer block, or the latter alone."""
    score: float | None
    """The score; None when the response is unparseable."""
    decimals: int
    """Fraction digits as written (0 without a score)."""
    decimals_trimmed: int
    """Fraction digits of the parsed float, trailing zeros removed (0 without a score)."""


@dataclasses.dataclass(frozen=True)
class MultiAnswer:
    """What one response with several scores says."""

    format_ok: bool
    scores: list[float] | None
    """The last `num_scores` numbers of the answer; None when there are fewer."""


@dataclasses.dataclass(frozen=True)
class Degradation:
    """A distortion and its level, as Q-Insight's answers name them."""

    distortion: str
    severity: str


def parse_response(text: str, fallback: str = "none", reasoning: bool = True) -> Answer:
    """Reads the format flag and the score of a response.

    The score is the first number of the last `<answer>...</answer>` pair: an optional minus sign,
    ASCII digits, optionally a point and more digits. It is not clipped to 1-5.

    Args:
      text: the response, without chat-template end tokens.
      fallback: "none": without an answer pair the response is unparseable; "whole_text": the first
        number of the whole text is read instead, as the published code does.
      reasoning: False: the format is an answer block and no think block before it.

    Raises:
      ValueError: unknown `fallback`.

    Source: REWARDS.md section 2 (paper Eq. 4; `format_reward` and `extract_first_number` of the
    published `grpo_jsonl.py`).

    >>> parse_response("<think>Sharp.</think><answer>4.10</answer>")
    Answer(format_ok=True, score=4.1, decimals=2, decimals_trimmed=1)
    """
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback must be one of {FALLBACKS}, got {fallback!r}")
    format_ok = _format_ok(text, reasoning)
    match = _score_match(text, fallback)
    if match is None or not math.isfinite(score := float(match.group())):
        return Answer(format_ok, None, 0, 0)
    written = len(match.group().partition(".")[2])
    return Answer(format_ok, score, written, _decimals_trimmed(score))


def number_start(text: str, fallback: str = "none") -> int | None:
    """Where in a response the score begins that `parse_response` reads; None without one.

    >>> number_start("<answer> 4.10 </answer>")
    9
    """
    match = _score_match(text, fallback)
    return None if match is None else match.start()


def reasoning_text(text: str) -> str | None:
    """The text between the first `<think>` and the next `</think>`, stripped; None without both.

    >>> reasoning_text("<think> Sharp. </think><answer>4.10</answer>")
    'Sharp.'
    """
    _, opening, rest = text.partition("<think>")
    content, closing, _ = rest.partition("</think>")
    return content.strip() if opening and closing else None


def parse_multi(text: str, num_scores: int, variant: str = "default") -> MultiAnswer:
    """Reads the format flag and the scores of a PreResQ-R1 response.

    The scores are the last `num_scores` numbers of the last answer pair. The format is a think
    block, optional whitespace and an answer block with exactly `num_scores` unsigned numbers
    separated by line breaks.

    Args:
      text: the response, without chat-template end tokens.
      num_scores: D, 5 for images and 2 for videos.
      variant: "default": the line break after the last number is optional; "official_code": it is
        required of video answers (D = 2).

    Raises:
      ValueError: unknown `variant`, or `num_scores` below 1.

    Source: REWARDS.md section 2; `format_reward` of the published `grpo_preres_{IQA,VQA}_r1.py`.
    """
    if variant not in MULTI_VARIANTS:
        raise ValueError(f"variant must be one of {MULTI_VARIANTS}, got {variant!r}")
    if num_scores < 1:
        raise ValueError(f"num_scores must be at least 1, got {num_scores}")
    # Reference quirk: grpo_preres_VQA_r1.py demands a line break after the second number, while
    # the image script does not after the fifth. Kept under "official_code".
    needs_break = variant == "official_code" and num_scores == 2
    format_ok = _multi_format_ok(text, num_scores, needs_break)

    content = _last_answer(text)
    numbers = [] if content is None else _NUMBER.findall(content)
    if len(numbers) < num_scores:
        return MultiAnswer(format_ok, None)
    scores = [float(number) for number in numbers[-num_scores:]]
    return MultiAnswer(format_ok, scores if all(map(math.isfinite, scores)) else None)


def parse_rating(text: str) -> float | None:
    """The value of `"rating"` in the first answer pair (digits and points, unsigned), or None.

    Source: REWARDS.md section 10; `score_reward` of the published `qinsight_multi_task.py`.
    """
    match = _RATING.search(_first_answer(text) or "")
    # A malformed rating such as 3.4.1 is no rating.
    if match is None or not any(map(str.isdigit, match.group(1))) or match.group(1).count(".") > 1:
        return None
    rating = float(match.group(1))
    return rating if math.isfinite(rating) else None


def parse_degradation(text: str) -> Degradation | None:
    """`"distortion_class"` and, after it, `"severity"` in the first answer pair, or None.

    Source: REWARDS.md section 10; `score_reward` of the published `qinsight_multi_task.py`.
    """
    content = _first_answer(text) or ""
    distortion = _DISTORTION.search(content)
    # Two searches in place of one pattern with `.*?` between them, which would be quadratic. If
    # no severity follows the first class, none follows a later one.
    severity = distortion and _SEVERITY.search(content, distortion.end())
    if not severity:
        return None
    return Degradation(distortion.group(1).strip(), severity.group(1).strip())


def parse_choice(text: str) -> str | None:
    """The trimmed content of the first answer pair, or None without one (comparison tasks)."""
    content = _first_answer(text)
    return None if content is None else content.strip()


def qinsight_format_ok(text: str, task: str = "score") -> bool:
    """Whether a response has Q-Insight's format, in which the tags stand on their own lines.

    Args:
      text: the response, without chat-template end tokens.
      task: "score" or "degradation": the answer is one brace pair without inner braces that starts
        its line; "comparison": any text.

    Raises:
      ValueError: unknown `task`.

    Source: REWARDS.md section 10; `format_reward` of `qinsight_multi_task.py` and
    `qinsight_comparison.py`.
    """
    if task not in QINSIGHT_TASKS:
        raise ValueError(f"task must be one of {QINSIGHT_TASKS}, got {task!r}")
    text = text.rstrip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    body = text[len("<think>") : -len("</answer>")]
    # Inside each block the first and the last line are blank, and they are two different lines.
    first, last = body.find("\n"), body.rfind("\n")
    if first < 0 or not _is_blank(body, 0, first):
        return False
    if task == "comparison":
        return _is_blank(body, last, len(body)) and _has_seam_between(body, first, last)
    return _is_braced_answer(body, first)


def _is_braced_answer(body: str, first: int) -> bool:
    """Whether `body` (between `<think>` and the last `</answer>`) ends in one brace pair.

    `first` is the position of the first line break of the think block.
    """
    end = len(body.rstrip())
    start = body.rfind("{")
    if start < 0 or not body.endswith("}", 0, end) or "\n" not in body[end:]:
        return False
    if "}" in body[start : end - 1]:
        return False
    head = body[:start]
    for tag in ("<answer>", "</think>"):
        if not (head.endswith("\n") and head.rstrip().endswith(tag)):
            return False
        head = head.rstrip()[: -len(tag)]
    closing = head.rfind("\n")
    return first < closing and _is_blank(head, closing, len(head))


def _has_seam_between(body: str, first: int, last: int) -> bool:
    """Whether `</think>`, a line break and `<answer>` part the lines `first` and `last`.

    The walks over blanks around different seams do not overlap, so the search is linear.
    """
    for seam in _SEAM.finditer(body):
        if not seam.group()[: -len("<answer>")].endswith("\n"):
            continue
        closing = body.rfind("\n", 0, seam.start())
        opening = body.find("\n", seam.end())
        if (
            first < closing
            and opening < last
            and _is_blank(body, closing, seam.start())
            and _is_blank(body, seam.end(), opening)
        ):
            return True
    return False


def _is_blank(text: str, start: int, end: int) -> bool:
    return all(text[position].isspace() for position in range(start, end))


def _format_ok(text: str, reasoning: bool) -> bool:
    opening = "<think>" if reasoning else "<answer>"
    start, end = len(opening), len(text) - len("</answer>")
    if not (text.startswith(opening) and text.endswith("</answer>") and end >= start):
        return False
    return not reasoning or _SEAM.search(text, start, end) is not None


def _multi_format_ok(text: str, num_scores: int, needs_break: bool) -> bool:
    # Numbers and blanks hold no tags, so the answer block is what follows the last opening tag.
    head, tag, tail = text.rpartition("<answer>")
    if not (tag and text.startswith("<think>") and tail.endswith("</answer>")):
        return False
    head = head.rstrip()
    if not head.endswith("</think>") or len(head) < len("<think></think>"):
        return False
    tail = tail[: -len("</answer>")]
    lines = [line.strip() for line in tail.split("\n")]
    if needs_break and lines[-1]:
        return False
    numbers = [line for line in lines if line]
    return len(numbers) == num_scores and all(map(_UNSIGNED.fullmatch, numbers))


def _score_match(text: str, fallback: str) -> re.Match[str] | None:
    """The first number of the last answer pair, or of the whole text where that may be read."""
    position, span = 0, None
    while (pair := _next_answer(text, position)) is not None:
        content, position = pair
        end = position - len("</answer>")
        span = (end - len(content), end)
    if span is not None:
        return _NUMBER.search(text, *span)
    return _NUMBER.search(text) if fallback == "whole_text" else None


def _last_answer(text: str) -> str | None:
    content, position = None, 0
    while (pair := _next_answer(text, position)) is not None:
        content, position = pair
    return content


def _first_answer(text: str) -> str | None:
    pair = _next_answer(text, 0)
    return None if pair is None else pair[0]


def _next_answer(text: str, position: int) -> tuple[str, int] | None:
    """The content of the next answer pair, and where the search goes on."""
    start = text.find("<answer>", position)
    end = -1 if start < 0 else text.find("</answer>", start)
    if end < 0:
        return None
    return text[start + len("<answer>") : end], end + len("</answer>")


def _decimals_trimmed(score: float) -> int:
    exponent = decimal.Decimal(repr(score)).normalize().as_tuple().exponent
    return max(0, -exponent)
