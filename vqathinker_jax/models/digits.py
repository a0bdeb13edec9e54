"""The probabilities of all scores 1.00 to 5.00 at one place of an answer, from one pass.

A score is four tokens: a digit 1-5, a point, two digits; after a 5 only zeros. The 401 scores have
51 different beginnings that something follows: 5 (`d`), 5 (`d.`), 41 (`d.d`). They are laid out as
a tree behind the answer's text, each seeing its ancestors alone, so that one pass over the text and
51 tokens gives what 401 passes would.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.qwen2 import Qwen2
from vqathinker_jax.records import Prefix

HIGHEST_DIGIT = 5
NUMBER_TOKENS = 4
"""Of `4.25`."""


@dataclasses.dataclass(frozen=True)
class DigitTokens:
    """Which tokens numbers are written with."""

    digits: tuple[int, ...]
    """Ids of `0` to `9`."""
    point: int


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The beginning of a number, as a node of the tree."""

    first: int
    """The digit before the point."""
    has_point: bool = False
    tenth: int | None = None

    def token(self, tokens: DigitTokens) -> int:
        """The last token of it."""
        if self.tenth is not None:
            return tokens.digits[self.tenth]
        return tokens.point if self.has_point else tokens.digits[self.first]

    @property
    def depth(self) -> int:
        """Tokens before its last one."""
        return self.has_point + (self.tenth is not None)

    def starts(self, other: Beginning) -> bool:
        """Whether the other one begins with this one, or is it."""
        return (
            self.first == other.first
            and self.has_point <= other.has_point
            and self.tenth in (None, other.tenth)
        )


FIRSTS = tuple(Beginning(d) for d in range(1, HIGHEST_DIGIT + 1))
POINTS = tuple(Beginning(d, True) for d in range(1, HIGHEST_DIGIT + 1))
TENTHS = tuple(
    Beginning(d, True, t)
    for d in range(1, HIGHEST_DIGIT + 1)
    for t in range(10 if d < HIGHEST_DIGIT else 1)
)
TREE = (*FIRSTS, *POINTS, *TENTHS)
SCORES = np.arange(100, 100 * HIGHEST_DIGIT + 1) / 100
"""float64 [401]: 1.00, 1.01, ..., 5.00."""


def score_logprobs(
    decoder: Qwen2,
    prefix: Prefix,
    text: Int[Array, "N C"],
    lengths: Int[np.ndarray, "N"],
    tokens: DigitTokens,
) -> Float[Array, "N 401"]:
    """Natural-log probability of each of `SCORES` as the text's next four tokens.

    The model's own probabilities: temperature 1, no truncation, no suppression, and no claim on
    what follows the number. They sum to less than 1, as the model may write something else.

    Args:
      decoder: the decoder that made `prefix`.
      prefix: of N prompts.
      text: int32 tokens of each answer up to its number, real ones first.
      lengths: int32 c_i, how many of them are real, 1 <= c_i <= C.
      tokens: what numbers are written with.

    Raises:
      ValueError: P and the longest text with its number exceed `max_position_embeddings`.
    """
    decoder.check_length(prefix.cache.num_slots + int(lengths.max()) + NUMBER_TOKENS)
    graphdef, params = nnx.split(decoder)
    return _score_logprobs(graphdef, params, prefix, text, lengths, tokens)


@functools.partial(jax.jit, static_argnames=("graphdef", "tokens"))
def _score_logprobs(graphdef, params, prefix, text, lengths, tokens) -> Array:
    decoder = nnx.merge(graphdef, params)
    num, slots = text.shape
    nodes = jnp.asarray([node.token(tokens) for node in TREE], jnp.int32)
    ids = jnp.concatenate([text, jnp.broadcast_to(nodes, (num, len(TREE)))], axis=1)
    depths = jnp.asarray([node.depth for node in TREE], jnp.int32)
    inside = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (num, slots))
    places = jnp.concatenate([inside, lengths[:, None] + depths], axis=1)
    hidden = decoder.extend(
        decoder.embed_tokens(ids, prefix.last_hidden.dtype),
        prefix.lengths[:, None] + places,
        prefix.cache,
        _mask(prefix, lengths, slots),
    )
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    rows = jnp.concatenate([last, hidden[:, slots:]], axis=1)
    return _leaves(jax.nn.log_softmax(decoder.logits(rows), axis=-1), tokens)


def _mask(prefix: Prefix, lengths: Array, slots: int) -> Array:
    """What the text and the tree see, bool [N, 1, C + 51, P + C + 51]."""
    num, total = lengths.shape[0], slots + len(TREE)
    ancestors = np.array([[other.starts(node) for other in TREE] for node in TREE])
    static = np.tri(total, dtype=bool)
    static[slots:, slots:] = ancestors
    real = jnp.arange(total) < lengths[:, None]
    real = real | (np.arange(total) >= slots)
    inner = (static & real[:, None]) | np.eye(total, dtype=bool)
    before = jnp.arange(prefix.cache.num_slots) < prefix.lengths[:, None]
    before = jnp.broadcast_to(before[:, None], (num, total, prefix.cache.num_slots))
    return jnp.concatenate([before, inner], axis=-1)[:, None]


def _leaves(logprobs: Array, tokens: DigitTokens) -> Array:
    """Sums along the branches; `logprobs` [N, 1 + 51, V] follow the text and each node."""
    root, nodes = logprobs[:, 0], logprobs[:, 1:]
    place = {node: slot for slot, node in enumerate(TREE)}
    leaves = []
    for node in TENTHS:
        first, point = Beginning(node.first), Beginning(node.first, True)
        head = (
            root[:, tokens.digits[node.first]]
            + nodes[:, place[first], tokens.point]
            + nodes[:, place[point], tokens.digits[node.tenth]]
        )
        hundredths = range(10 if node.first < HIGHEST_DIGIT else 1)
        ids = jnp.asarray([tokens.digits[h] for h in hundredths])
        leaves.append(head[:, None] + nodes[:, place[node]][:, ids])
    return jnp.concatenate(leaves, axis=1)
