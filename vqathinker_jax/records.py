"""What the stages hand to each other: frozen pytrees, every field with its shape and dtype.

Axes: N videos, K responses per video, P prompt slots, C response slots, G key/value heads, E head
size, D width, and the decoder's `layers`.
"""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (rotated) and values of the decoder, compute dtype.

    Rows are `[N, G]` for a prefix, one per video, and `[N, G, K]` for a suffix, one per response;
    stacked over the decoder's layers, `layers` comes first. Slots come last in the keys, so that
    scores are a plain matrix product with nothing to transpose at every token.
    """

    keys: Float[Array, "*rows E slots"]
    values: Float[Array, "*rows slots E"]

    @property
    def num_slots(self) -> int:
        """How many positions each row can hold."""
        return self.values.shape[-2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """The prompts of N videos after one pass of the decoder, read by every response."""

    cache: KVCache
    """Rows `[layers, N, G]` of P slots; those at and after `lengths` hold garbage."""
    lengths: Int[Array, "N"]
    """int32 real prompt lengths p_i, 1 <= p_i <= P; a response starts at position p_i."""
    last_hidden: Float[Array, "N D"]
    """Final-norm output at slot p_i - 1, from which the first token is read; compute dtype."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Generation:
    """K responses to each of N videos."""

    tokens: Int[Array, "N K C"]
    """int32 ids; the end token is included, `pad_id` follows it."""
    lengths: Int[Array, "N K"]
    """int32 tokens per response, the end token counted; C where none was produced."""
    logprobs: Float[Array, "N K C"]
    """float32 natural-log probability of each token under the untouched softmax of the logits
    (no temperature, truncation or suppression); 0 in pad slots."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClipFeatures:
    """What the two encoders make of clips, before the projectors; compute dtype.

    The leading axes are those of the clips: one, or two where micro-batches come first. Encoders
    that do not train give the same all through a step: rollout, reference and update share a pass.
    """

    images: Float[Array, "*N J T V"]
    """Of the tower, for every image, the patches of a token side by side."""
    motion: Float[Array, "*N m M"]
    """Of SlowFast; m is 0 where the geometry has no motion."""
