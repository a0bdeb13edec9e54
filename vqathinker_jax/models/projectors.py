"""From features to decoder width: the pixel shuffle and the two projection MLPs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vqathinker_jax.models.layers import LayerNorm, Linear, exact_gelu


def pixel_shuffle(x: Float[Array, "*B g g C"], factor: int, version: str) -> Float[Array, "*B T D"]:
    """Merges each `factor x factor` square of patches into one token: `T = (g / factor)^2`.

    The channels of a token are those of its patches, row by row: (row, column, channel) within the
    square, row slowest.

    Args:
      x: patch features on their grid (rows, columns).
      factor: patches merged a side.
      version: `v2` gives the tokens row by row, `v1` column by column.

    Raises:
      ValueError: an unknown version, or a grid that `factor` does not divide.

    Source: `InternVLChatModel.pixel_shuffle`.
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"pixel shuffle version must be v1 or v2, got {version!r}")
    *batch, rows, columns, channels = x.shape
    if rows % factor or columns % factor:
        raise ValueError(f"a grid of {rows} x {columns} patches cannot be merged by {factor}")
    x = x.reshape(-1, rows // factor, factor, columns // factor, factor, channels)
    # Reference quirk: v1 never swaps rows and columns back, so its tokens are transposed.
    x = x.transpose(0, 1, 3, 2, 4, 5) if version == "v2" else x.transpose(0, 3, 1, 2, 4, 5)
    tokens = (rows // factor) * (columns // factor)
    x = x.reshape(*batch, tokens, factor * factor * channels)
    # libtpu 0.0.51 aborts when it fuses this shuffle into the norm that follows ("split of a padded
    # window dim is not supported"); the barrier keeps them apart and costs nothing elsewhere.
    return jax.lax.optimization_barrier(x)


class MLPProjector(nnx.Module):
    """`fc2(gelu(fc1(norm(x))))`: LayerNorm, then two linear layers around an exact GELU.

    Source: `mlp1` and `motion_mlp` of `InternVLChatModel`; 1e-5 is torch's default LayerNorm
    epsilon.
    """

    def __init__(self, in_dim: int, out_dim: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = LayerNorm(in_dim, eps=1e-5, param_dtype=param_dtype)
        self.fc1 = Linear(
            (in_dim,),
            (out_dim,),
            in_axes=("vision_embed",),
            out_axes=("mlp",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.fc2 = Linear(
            (out_dim,),
            (out_dim,),
            in_axes=("mlp",),
            out_axes=("embed",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        return self.fc2(exact_gelu(self.fc1(self.norm(x))))


def motion_init(
    in_dim: int, out_dim: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs
) -> MLPProjector:
    """A projector with the published start of the motion branch: kernels uniform in [0, 0.01).

    Biases are zero and the norm is the identity.

    Source: `InternVLChatModel.__init__`.
    """
    projector = MLPProjector(in_dim, out_dim, param_dtype=param_dtype, rngs=rngs)
    for layer in (projector.fc1, projector.fc2):
        shape = layer.kernel[...].shape
        kernel = jax.random.uniform(rngs.params(), shape, jnp.float32, maxval=0.01)
        layer.kernel[...] = kernel.astype(param_dtype)
    return projector
