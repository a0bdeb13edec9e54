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

    def dense(self) -> np.ndarray:
        """bool [L, L], True = the row's slot sees the column's."""
        return np.ones((self.length, self.length), bool)


@dataclasses.dataclass(frozen=True)
class Causal:
    """Every slot sees itself and those before it."""

    length: int
    is_causal: ClassVar[bool] = True

    def dense(self) -> np.ndarray:
        """bool [L, L], True = the row's slot sees the column's."""
        return np.tri(self.length, dtype=bool)


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

    def dense(self) -> np.ndarray:
        """bool [L, L], True = the row's slot sees the column's."""
        slot = np.arange(self.length)
        # 0 for the prompt, k + 1 for response k.
        part = np.maximum(slot - self.prompt_slots, -1) // self.response_slots + 1
        is_earlier = slot[:, None] >= slot[None]
        return is_earlier & ((part[None] == 0) | (part[:, None] == part[None]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
    """What each of L slots of each of N rows may see.

    A slot that is not real is seen by no real one. What it sees itself is left to the kernel (at
    least itself, so that nothing is divided by zero): its own result is meaningless.
    """

    pattern: Full | Causal | Group = dataclasses.field(metadata={"static": True})
    """The same for every row and every batch; everyone sees themselves. `is_causal`: nobody sees a
    later slot."""
    key_mask: Bool[Array, "N L"] | None = None
    """True at the slots that are real; None: all are."""

    @property
    def needs_mask(self) -> bool:
        """Whether it says more than kernels can be told in a word: all, or all before."""
        return self.key_mask is not None or isinstance(self.pattern, Group)

    def static_mask(self, slots: int) -> np.ndarray:
        """The pattern among `slots` >= L slots: bool [slots, slots]. Those beyond L see themselves
        alone and are seen by no other."""
        mask = np.eye(slots, dtype=bool)
        mask[: self.pattern.length, : self.pattern.length] = self.pattern.dense()
        return mask

    def mask(self, slots: int) -> Bool[Array, "#N 1 slots slots"]:
        """`static_mask` without the keys that are not real, a True diagonal apart."""
        static = self.static_mask(slots)
        if self.key_mask is None:
            return jnp.asarray(static)[None, None]
        is_real = jnp.pad(self.key_mask, ((0, 0), (0, slots - self.pattern.length)))
        return (static & is_real[:, None, None, :]) | np.eye(slots, dtype=bool)
