"""Splash attention, the Pallas kernel for TPUs that skips what a static mask hides.

Source: `jax.experimental.pallas.ops.tpu.splash_attention`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    Mask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jaxtyping import Array, Float, Int

from vqathinker_jax.models.layers import round_up
from vqathinker_jax.models.visibility import Pattern, Visibility, padded_sees
from vqathinker_jax.parallel import per_shard

LANES = 128
"""Slots of the smallest block: the width of a TPU's vector registers."""
LARGEST_BLOCK = 512

ROWS = ("batch", "tokens", "heads", "head_dim")
KV_ROWS = ("batch", "tokens", "kv_heads", "head_dim")


def splash_slots(length: int) -> int:
    """The slots that L tokens are padded to, a multiple of the smallest block."""
    return round_up(length, LANES)


def splash_block(slots: int) -> int:
    """The largest block up to 512 slots that divides them; all passes use it.

    >>> [splash_block(splash_slots(length)) for length in (300, 1025, 2816, 3072)]
    [384, 384, 256, 512]
    """
    return max(b for b in range(LANES, LARGEST_BLOCK + 1, LANES) if slots % b == 0)


@dataclasses.dataclass(frozen=True)
class PaddedMask(Mask):
    """A pattern as the kernel's preparation asks for it: block by block, never whole."""

    pattern: Pattern
    slots: int

    @property
    def shape(self) -> tuple[int, int]:
        """(slots, slots)."""
        return self.slots, self.slots

    def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(self.slots)[part] for part in block)
        return padded_sees(self.pattern, rows[:, None], columns[None])


class SplashAttention:
    """Attention of one visibility, for the layers that share it.

    Built once before the layers are scanned: finding the blocks that hold nothing takes time, and
    what it finds is the same for every layer and head.
    """

    def __init__(self, visibility: Visibility, saved_as: str):
        """Finds the blocks.

        Args:
          visibility: of L slots.
          saved_as: checkpoint name of the output and of the softmax's normaliser, which together
            spare the backward pass another forward pass.
        """
        self.length = visibility.pattern.length
        self.slots = splash_slots(self.length)
        block = splash_block(self.slots)
        # One mask stands for every head.
        kernel = make_splash_mha(
            MultiHeadMask([PaddedMask(visibility.pattern, self.slots)]),
            block_sizes=BlockSizes(*[block] * 8),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=saved_as,
        )
        self.blocks, self.structure = jax.tree.flatten(kernel)
        self.segments = None
        if visibility.key_mask is not None:
            # Slots see slots of their own number alone: pads stand for themselves.
            pad = ((0, 0), (0, self.slots - self.length))
            self.segments = jnp.pad(visibility.key_mask.astype(jnp.int32), pad)

    def __call__(
        self,
        q: Float[Array, "N L H E"],
        k: Float[Array, "N L G E"],
        v: Float[Array, "N L G E"],
    ) -> Float[Array, "N L H E"]:
        """`softmax(q k^T / sqrt(E)) v` over what each slot sees; the dtype of `q`."""
        scale = np.float32(q.shape[-1] ** -0.5)
        q = (q.astype(jnp.float32) * scale).astype(q.dtype)
        segment_axes = None if self.segments is None else ("batch", "tokens")
        attend = per_shard(self._attend_rows, (None, segment_axes, ROWS, KV_ROWS, KV_ROWS), ROWS)
        return attend(self.blocks, self.segments, q, k, v)

    def _attend_rows(
        self,
        blocks: list[Array],
        segments: Int[Array, "N slots"] | None,
        q: Array,
        k: Array,
        v: Array,
    ) -> Array:
        kernel = jax.tree.unflatten(self.structure, blocks)
        pad = ((0, 0), (0, 0), (0, self.slots - self.length), (0, 0))

        def one_row(segment: Array | None, q: Array, k: Array, v: Array) -> Array:
            ids = None if segment is None else SegmentIds(q=segment, kv=segment)
            return kernel(q, k, v, segment_ids=ids)

        # The kernel mixes dtypes, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            rows = [jnp.pad(x.swapaxes(1, 2), pad) for x in (q, k, v)]
            out = jax.vmap(one_row)(segments, *rows)
        return out[:, :, : self.length].swapaxes(1, 2)
