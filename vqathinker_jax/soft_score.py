"""The expected score: what the digits' probabilities say at the place of the number.

A sampled number is one draw; the probabilities of all numbers at its place are the whole
distribution it was drawn from. For each answer the text up to its number is kept, and the
expectation is taken over the 401 scores 1.00 to 5.00, renormalised. With K sampled answers the
result is the mean over the K texts, so only the reasoning is still left to chance.

Exact: the probabilities, at temperature 1, of all scores with two decimals after that text. Not
counted: other ways to write a number (`4`, `4.5`, `3.125` beyond its second decimal); `mass` tells
how much probability the counted ones have. Answers sampled at another temperature, or with top-k
or top-p, follow a different distribution.
Cost: one pass over each text and 51 tokens, which reads the prompt's cache.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from vqathinker_jax.inference import LoadedModel
from vqathinker_jax.models.digits import SCORES, DigitTokens, score_logprobs
from vqathinker_jax.records import Prefix
from vqathinker_jax.rl.answers import number_start

ANSWER_OPENING = "<answer> "
"""What the number follows where no text is generated, as the published model writes it."""
LOW_MASS = 0.5
"""Below this probability of all scores together a soft score is warned of."""
TEXT_SLOTS = 32
"""Texts are padded to 32 tokens, or to 4, 16, ... times as many: one program for each."""


@dataclasses.dataclass(frozen=True)
class SoftScore:
    """The distribution of the score under the model's own probabilities."""

    score: float
    """Its expectation."""
    std: float
    """Its standard deviation."""
    mass: float
    """Probability of all numbers 1.00 to 5.00 before they were renormalised."""


def expected_score(logprobs: Float[np.ndarray, "401"]) -> SoftScore | None:
    """Expectation and spread of `SCORES` with these log-probabilities, renormalised, in float64.

    None where no score has a probability that a float can hold.
    """
    logprobs = np.asarray(logprobs, np.float64)
    highest = logprobs.max()
    if not math.isfinite(highest):
        return None
    weights = np.exp(logprobs - highest)
    share = weights / weights.sum()
    mean = float(share @ SCORES)
    variance = float(share @ (SCORES - mean) ** 2)
    return SoftScore(mean, math.sqrt(variance), float(np.exp(highest) * weights.sum()))


def mixture(parts: Sequence[SoftScore]) -> SoftScore | None:
    """The even mixture of several distributions; None of none."""
    if not parts:
        return None
    mean = math.fsum(part.score for part in parts) / len(parts)
    second = math.fsum(part.std**2 + (part.score - mean) ** 2 for part in parts) / len(parts)
    mass = math.fsum(part.mass for part in parts) / len(parts)
    return SoftScore(mean, math.sqrt(second), mass)


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> DigitTokens:
    """The tokens that this tokenizer writes numbers with.

    Raises:
      ValueError: it does not write every score as digit, point, digit, digit.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    digits, point = [ids(str(digit)) for digit in range(10)], ids(".")
    if all(len(one) == 1 for one in (*digits, point)):
        tokens = DigitTokens(tuple(one[0] for one in digits), point[0])
        opening = ids(ANSWER_OPENING)
        if all(ids(f"{ANSWER_OPENING}{s:.2f}") == opening + _number(s, tokens) for s in SCORES):
            return tokens
    raise ValueError(
        "the model's tokenizer does not write numbers digit by digit, so a soft score cannot be "
        "read from it"
    )


def _number(score: float, tokens: DigitTokens) -> list[int]:
    return [tokens.point if c == "." else tokens.digits[int(c)] for c in f"{score:.2f}"]


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """int32 ids of `ANSWER_OPENING`, for a score read at once after the prompt."""
    return np.asarray(tokenizer.encode(ANSWER_OPENING, add_special_tokens=False), np.int32)


def tokens_before_number(
    tokenizer: PreTrainedTokenizerBase, response: np.ndarray, fallback: str
) -> np.ndarray | None:
    """The tokens of a response before the number that is its score.

    Args:
      tokenizer: the model's.
      response: int32 ids, the end token included or not.
      fallback: as for `parse_response`.

    Returns:
      None where the response has no score, or begins with it.
    """

    def text(count: int) -> str:
        return tokenizer.decode(response[:count].tolist(), skip_special_tokens=True)

    start = number_start(text(len(response)), fallback)
    if start is None:
        return None
    # The longest beginning that ends before the number; texts grow with their tokens.
    low, high = 0, len(response)
    while low < high:
        middle = (low + high + 1) // 2
        if len(text(middle)) <= start:
            low = middle
        else:
            high = middle - 1
    return response[:low] if low else None


def read_soft_scores(
    model: LoadedModel,
    prefix: Prefix,
    texts: Sequence[Sequence[np.ndarray | None]],
    tokens: DigitTokens,
) -> list[SoftScore | None]:
    """The soft score of each of N videos: the mixture over its K texts.

    Args:
      model: the model.
      prefix: of the N prompts.
      texts: `[N][K]` ids before the number; None where there is none, and it is left out.
      tokens: of `digit_tokens`.
    """
    decoder = nnx.merge(model.graphdef, model.state).decoder
    parts: list[list[SoftScore]] = [[] for _ in texts]
    for column in zip(*texts, strict=True):
        if all(text is None for text in column):
            continue
        lengths = np.array([1 if text is None else len(text) for text in column], np.int32)
        padded = np.full((len(column), _slots(lengths.max())), model.pad_id, np.int32)
        for row, text in enumerate(column):
            if text is not None:
                padded[row, : len(text)] = text
        logprobs = np.asarray(score_logprobs(decoder, prefix, padded, lengths, tokens))
        for row, text in enumerate(column):
            soft = None if text is None else expected_score(logprobs[row])
            if soft is not None:
                parts[row].append(soft)
    return [mixture(part) for part in parts]


def _slots(length: int) -> int:
    slots = TEXT_SLOTS
    while slots < length:
        slots *= 4
    return slots
