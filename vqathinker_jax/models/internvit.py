"""InternViT: the vision tower, from normalised pixels to patch features."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vqathinker_jax.models.attention import KERNELS, Attend, choose_attention, make_attend
from vqathinker_jax.models.layers import (
    LayerNorm,
    Linear,
    RMSNorm,
    exact_gelu,
    parameter,
    scan_layers,
    stack_layers,
)
from vqathinker_jax.models.visibility import Full, Visibility
from vqathinker_jax.parallel import constrain

IMAGE_KERNELS = (*KERNELS, "head_by_head")
"""`head_by_head`: one head of one image at a time, which suits the caches of a CPU."""


def choose_image_attention(platform: str, dtype: str, wanted: str, head_size: int) -> str:
    """`choose_attention` for the tower: the same, but `auto` is `head_by_head` on CPUs.

    Returns:
      One of `IMAGE_KERNELS`.
    """
    if wanted == "auto" and platform == "cpu":
        return "head_by_head"
    return choose_attention(platform, dtype, wanted, head_size)


@dataclasses.dataclass(frozen=True)
class InternViTConfig:
    """`vision_config` of the folder. Defaults: InternViT-300M, the tower of every InternVL3 size.

    Raises:
      ValueError: a width that the heads do not divide, or an unknown norm type.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 14
    image_size: int = 448
    """Side in pixels of the grid the stored position table was made for."""
    layer_norm_eps: float = 1e-6
    norm_type: str = "layer_norm"
    """`layer_norm` or `rms_norm`."""
    qk_normalization: bool = False
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    """Accepted because published configs carry it; inactive in inference and in RL."""
    remat: str = "none"
    """What the backward pass recomputes per layer: `none`, `names` (all but the attention output
    and the hidden layer of the MLP) or `full`."""
    attention: str = "head_by_head"
    """One of `IMAGE_KERNELS`: what computes attention. Set for the devices that run the program by
    `with_attention`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"vision_config: hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(
                f"vision_config: norm_type must be layer_norm or rms_norm, got {self.norm_type!r}"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"vision_config: image_size {self.image_size} is not divisible by "
                f"patch_size {self.patch_size}"
            )
        if self.remat not in ("none", "names", "full"):
            raise ValueError(
                f"vision_config: remat must be none, names or full, got {self.remat!r}"
            )
        if self.attention not in IMAGE_KERNELS:
            raise ValueError(
                f"vision_config: attention must be one of {IMAGE_KERNELS}, got {self.attention!r}"
            )

    @property
    def head_dim(self) -> int:
        """E: width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def grid_size(self) -> int:
        """Patches a side of the stored position table."""
        return self.image_size // self.patch_size


def bicubic_weights(size_in: int, size_out: int) -> np.ndarray:
    """The matrix of a one-dimensional bicubic resampling, [size_out, size_in] float32.

    Cubic coefficient -0.75, half-pixel centres, four taps whether enlarging or reducing (no
    antialiasing), taps beyond the border moved onto it. `jax.image.resize` differs in the first,
    third and fourth of these. Equal sizes give the identity.

    Source: `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
    """
    a = -0.75
    # torch rounds the centres to float32, which moves a result by up to 1e-5; so do we.
    scale = np.float32(size_in) / np.float32(size_out)
    centre = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((size_out, size_in))
    for tap in range(4):
        index = first + tap
        d = np.abs(centre - index)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        rows = np.arange(size_out)
        np.add.at(weights, (rows, np.clip(index, 0, size_in - 1)), np.where(d <= 1, near, far))
    return weights.astype(np.float32)


def interpolate_positions(
    table: Float[Array, "stored D"], grid: int
) -> Float[Array, "resampled D"]:
    """Resamples the position table to another grid; the class token's row is left alone.

    Computed in float32 and rounded to the dtype of the table.

    Source: `InternVisionEmbeddings._get_pos_embed`.
    """
    stored = math.isqrt(table.shape[0] - 1)
    weights = bicubic_weights(stored, grid)
    patches = table[1:].astype(jnp.float32).reshape(stored, stored, -1)
    # The highest precision, because TPUs and GPUs otherwise round float32 factors.
    precision = jax.lax.Precision.HIGHEST
    patches = jnp.einsum("ri,ijd->rjd", weights, patches, precision=precision)
    patches = jnp.einsum("cj,rjd->rcd", weights, patches, precision=precision)
    patches = patches.reshape(grid * grid, -1).astype(table.dtype)
    return jnp.concatenate([table[:1], patches])


def _head_by_head(
    q: Float[Array, "N T H E"], k: Float[Array, "N T H E"], v: Float[Array, "N T H E"]
) -> Float[Array, "N T H E"]:
    num, tokens, heads, size = q.shape

    def one_head(_, qkv):
        q, k, v = qkv
        q = q * jnp.asarray(size**-0.5, q.dtype)
        scores = jnp.einsum("te,se->ts", q, k, preferred_element_type=jnp.float32)
        # Dividing the [T, E] output is cheaper than dividing the [T, T] probabilities.
        probs = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        out = jnp.einsum("ts,se->te", probs.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return None, (out / probs.sum(-1, keepdims=True)).astype(v.dtype)

    split = tuple(x.swapaxes(1, 2).reshape(num * heads, tokens, size) for x in (q, k, v))
    _, out = jax.lax.scan(one_head, None, split)
    return out.reshape(num, heads, tokens, size).swapaxes(1, 2)


def attend_image(kernel: str, tokens: int) -> Attend:
    """`softmax(q k^T / sqrt(E)) v` over all tokens of each image, with a float32 softmax.

    `head_by_head` keeps the [T, T] scores of one head of one image in cache, which makes it two to
    four times as fast on CPUs at 1025 and 1601 tokens.

    Args:
      kernel: one of `IMAGE_KERNELS`.
      tokens: T.
    """
    if kernel == "head_by_head":
        return lambda q, k, v: checkpoint_name(_head_by_head(q, k, v), "vision_attention")
    return make_attend(kernel, Visibility(Full(tokens)), "vision_attention")


def _norm(cfg: InternViTConfig, param_dtype: DTypeLike) -> LayerNorm | RMSNorm:
    make = LayerNorm if cfg.norm_type == "layer_norm" else RMSNorm
    return make(cfg.hidden_size, eps=cfg.layer_norm_eps, param_dtype=param_dtype)


class Attention(nnx.Module):
    """Self-attention over the tokens of one image, unmasked.

    With `qk_normalization`, q and k pass an RMSNorm over the full width, all heads together,
    whatever the norm type of the tower.
    """

    def __init__(self, cfg: InternViTConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        heads = (cfg.num_attention_heads, cfg.head_dim)
        width = cfg.hidden_size
        self.qkv = Linear(
            (width,),
            (3, *heads),
            in_axes=("vision_embed",),
            out_axes=("qkv", "vision_heads", "head_dim"),
            use_bias=cfg.qkv_bias,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.q_norm = nnx.data(None)
        self.k_norm = nnx.data(None)
        if cfg.qk_normalization:
            self.q_norm = RMSNorm(width, eps=cfg.layer_norm_eps, param_dtype=param_dtype)
            self.k_norm = RMSNorm(width, eps=cfg.layer_norm_eps, param_dtype=param_dtype)
        self.proj = Linear(
            heads,
            (width,),
            in_axes=("vision_heads", "head_dim"),
            out_axes=("vision_embed",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "N T D"], attend: Attend) -> Float[Array, "N T D"]:
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.q_norm is not None:
            q = self.q_norm(q.reshape(x.shape)).reshape(q.shape)
            k = self.k_norm(k.reshape(x.shape)).reshape(k.shape)
        return self.proj(attend(q, k, v))


class MLP(nnx.Module):
    """`fc2(gelu(fc1(x)))` with the exact GELU."""

    def __init__(self, cfg: InternViTConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = Linear(
            (cfg.hidden_size,),
            (cfg.intermediate_size,),
            in_axes=("vision_embed",),
            out_axes=("vision_mlp",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.fc2 = Linear(
            (cfg.intermediate_size,),
            (cfg.hidden_size,),
            in_axes=("vision_mlp",),
            out_axes=("vision_embed",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "N T D"]) -> Float[Array, "N T D"]:
        return self.fc2(exact_gelu(checkpoint_name(self.fc1(x), "vision_mlp")))


class Layer(nnx.Module):
    """`x += ls1 * attn(norm1(x)); x += ls2 * mlp(norm2(x))`."""

    def __init__(self, cfg: InternViTConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm1 = _norm(cfg, param_dtype)
        self.norm2 = _norm(cfg, param_dtype)
        self.attn = Attention(cfg, param_dtype=param_dtype, rngs=rngs)
        self.mlp = MLP(cfg, param_dtype=param_dtype, rngs=rngs)
        self.ls1 = parameter(jnp.ones((cfg.hidden_size,), param_dtype), ("norm",))
        self.ls2 = parameter(jnp.ones((cfg.hidden_size,), param_dtype), ("norm",))

    def __call__(self, x: Float[Array, "N T D"], attend: Attend) -> Float[Array, "N T D"]:
        x = x + self.attn(self.norm1(x), attend) * self.ls1[...].astype(x.dtype)
        return x + self.mlp(self.norm2(x)) * self.ls2[...].astype(x.dtype)


class InternViT(nnx.Module):
    """The vision tower: patches plus class token, positions, and pre-norm transformer layers.

    There is no norm before the first or after the last layer, and no drop path.

    Source: `InternVisionModel` of the published training code.
    """

    def __init__(self, cfg: InternViTConfig, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        width, patch = cfg.hidden_size, cfg.patch_size

        def table(rows: int) -> Array:
            value = 0.02 * jax.random.normal(rngs.params(), (rows, width), jnp.float32)
            return value.astype(param_dtype)

        self.class_embedding = parameter(table(1)[0], ("vision_embed",))
        self.position_embedding = parameter(
            table(1 + cfg.grid_size**2), ("position", "vision_embed")
        )
        self.patch_embedding = Linear(
            (patch, patch, 3),
            (width,),
            in_axes=("patch", "patch", "patch"),
            out_axes=("vision_embed",),
            use_bias=True,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.layers = stack_layers(
            lambda rngs: Layer(cfg, param_dtype=param_dtype, rngs=rngs),
            cfg.num_hidden_layers,
            rngs,
        )

    def __call__(
        self, pixels: Float[Array, "N S S 3"], select_layer: int = -1
    ) -> Float[Array, "N T D"]:
        """Features of the class token and of every patch, row by row.

        Args:
          pixels: normalised pixels, any side that is a multiple of the patch size; their dtype is
            the dtype of the computation and of the result.
          select_layer: which of [embeddings, layer 1, ..., layer L] to return; negative counts from
            the end. Layers above it are not computed and get zero gradients.

        Raises:
          ValueError: pixels that are not square images of whole patches in a floating dtype, or a
            `select_layer` out of range.
        """
        num_layers = self.cfg.num_hidden_layers
        if not -num_layers - 1 <= select_layer <= num_layers:
            raise ValueError(
                f"select_layer must be between {-num_layers - 1} and {num_layers} "
                f"for {num_layers} layers, got {select_layer}"
            )
        x = self.embed(pixels)
        depth = select_layer % (num_layers + 1)
        if depth == 0:
            return x
        graphdef, state = nnx.split(self.layers)
        layers = nnx.merge(graphdef, jax.tree.map(lambda stacked: stacked[:depth], state))

        attend = attend_image(self.cfg.attention, x.shape[1])

        def body(layer: Layer, x: Array, _) -> tuple[Array, None]:
            return constrain(layer(x, attend), "batch", "tokens", None), None

        x, _ = scan_layers(layers, body, x, wrap=self._remat)
        return x

    def embed(self, pixels: Float[Array, "N S S 3"]) -> Float[Array, "N T D"]:
        """Patch embeddings after the class token, with positions for this grid added."""
        num, side, width, channels = pixels.shape
        patch = self.cfg.patch_size
        if side != width or side % patch or channels != 3:
            raise ValueError(
                f"pixels must be [N, S, S, 3] with S a multiple of the patch size {patch}, "
                f"got {pixels.shape}"
            )
        if not jnp.issubdtype(pixels.dtype, jnp.floating):
            raise ValueError(f"pixels must be normalised and floating, got {pixels.dtype}")
        grid = side // patch
        patches = pixels.reshape(num, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(patches).reshape(num, grid * grid, -1)
        class_token = self.class_embedding[...].astype(x.dtype)
        class_token = jnp.broadcast_to(class_token, (num, 1, x.shape[-1]))
        positions = interpolate_positions(self.position_embedding[...], grid).astype(x.dtype)
        x = jnp.concatenate([class_token, x], axis=1) + positions
        return constrain(x, "batch", "tokens", None)

    def _remat(self, step):
        if self.cfg.remat == "none":
            return step
        policy = jax.checkpoint_policies.nothing_saveable
        if self.cfg.remat == "names":
            policy = jax.checkpoint_policies.save_only_these_names("vision_attention", "vision_mlp")
        return jax.checkpoint(step, policy=policy, prevent_cse=False)
