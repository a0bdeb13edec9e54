"""Who sees whom in attention: a pattern known beforehand, and which keys are real.

Kernels want it in different forms (a dense mask, blocks to skip, segment numbers), so it travels as
structure and each kernel builds its own from it.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool


@dataclasses.dataclass(frozen=True)
class Full:
    """Every slot sees every slot."""

    length: int
    is_causal: ClassVar[bool] = False

    def sees(self, slot: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether the one sees the other; int arrays that broadcast, below L."""
        return np.ones(np.broadcast_shapes(slot.shape, other.shape), bool)


@dataclasses.dataclass(frozen=True)
class Causal:
    """Every slot sees itself and those before it."""

    length: int
    is_causal: ClassVar[bool] = True

    def sees(self, slot: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether the one sees the other; int arrays that broadcast, below L."""
        return slot >= other


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt and its responses side by side, `[prompt P | r1 C | ... | rK C]`.

    Causal within the prompt and within each response; every response sees the whole prompt; no
    response sees another.
    """

    prompt_slots: int
    num_responses: int
    response_slots: int
    is_causal: ClassVar[bool] = True

    @property
    def length(self) -> int:
        """L = P + K * C."""
        return self.prompt_slots + self.num_responses * self.response_slots

    def sees(self, slot: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether the one sees the other; int arrays that broadcast, below L."""
        own, others = self._part(slot), self._part(other)
        return (slot >= other) & ((others == 0) | (own == others))

    def _part(self, slot: np.ndarray) -> np.ndarray:
        # 0 for the prompt, k + 1 for response k.
        return np.maximum(slot - self.prompt_slots, -1) // self.response_slots + 1


Pattern = Full | Causal | Group


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
    """What each of L slots of each of N rows may see.

    A slot that is not real is seen by no real one. What it sees itself is left to the kernel (at
    least itself, so that nothing is divided by zero): its own result is meaningless.
    """

    pattern: Pattern = dataclasses.field(metadata={"static": True})
    """The same for every row and every batch; everyone sees themselves. `is_causal`: nobody sees a
    later slot."""
    key_mask: Bool[Array, "N L"] | None = None
    """True at the slots that are real; None: all are."""

    @property
    def needs_mask(self) -> bool:
        """Whether it says more than kernels can be told in a word: all, or all before."""
        return self.key_mask is not None or isinstance(self.pattern, Group)

    def mask(self, slots: int) -> Bool[Array, "#N 1 slots slots"]:
        """The dense mask in `slots` >= L slots, True = the row's slot sees the column's; the
        diagonal is True. Slots beyond L are not real."""
        slot = np.arange(slots)
        static = padded_sees(self.pattern, slot[:, None], slot[None])
        if self.key_mask is None:
            return jnp.asarray(static)[None, None]
        is_real = jnp.pad(self.key_mask, ((0, 0), (0, slots - self.pattern.length)))
        return (static & is_real[:, None, None, :]) | np.eye(slots, dtype=bool)


def padded_sees(pattern: Pattern, slot: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`pattern.sees`, continued: slots beyond L see themselves and are seen by no other."""
    is_inside = (slot < pattern.length) & (other < pattern.length)
    return (slot == other) | (is_inside & pattern.sees(slot, other))
