"""Grouped-query attention over whole sequences; the one place where a kernel is chosen."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

KERNEL = "xla"
"""Implementation handed to `jax.nn.dot_product_attention`; it never picks cuDNN by itself."""


def attend(
    q: Float[Array, "N L H E"],
    k: Float[Array, "N S G E"],
    v: Float[Array, "N S G E"],
    mask: Bool[Array, "#N #H #L #S"] | None,
    *,
    is_causal: bool = False,
) -> Float[Array, "N L H E"]:
    """Softmax attention in which query head h reads key/value head h // (H / G).

    `softmax(q k^T / sqrt(E)) v`, softmax in float32. A row that may see nothing gets a finite
    meaningless average instead of NaN.

    Args:
      q, k, v: one floating dtype.
      mask: True where a query may see a key; None for everywhere.
      is_causal: also hide slot s from slot l where s > l.

    Returns:
      The dtype of `q`.
    """
    # jax's own function promotes bfloat16 scores to float32, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=is_causal, implementation=KERNEL
        )
