"""Qwen2: the language decoder, whole-sequence, prefill and one-token steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vqathinker_jax.models import attention
from vqathinker_jax.models.attention import KERNELS, Attend, make_attend
from vqathinker_jax.models.layers import (
    Embedding,
    Linear,
    RMSNorm,
    round_up,
    scan_layers,
    stack_layers,
)
from vqathinker_jax.models.visibility import Causal, Visibility
from vqathinker_jax.parallel import constrain
from vqathinker_jax.records import KVCache


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
    """`llm_config` of the folder. Defaults are Qwen2.5-7B as InternVL3-8B uses it.

    Raises:
      ValueError: heads that do not divide, or a rope scaling we do not implement.
    """

    vocab_size: int = 151674
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_type: str = "dynamic"
    """`default` or `dynamic`; both are the plain rotation up to `max_position_embeddings`."""
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    """True only where the folder says so and holds no `lm_head.weight`."""
    vocab_multiple: int = 128
    """The embedding and head are padded to a multiple of this, so that they shard."""
    remat: str = "none"
    """What the backward pass recomputes per layer: `none`, `names` or `full`."""
    attention: str = "xla"
    """One of `attention.KERNELS`: what computes attention over whole sequences. Set for the
    devices that run the program by `with_attention`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"llm_config: hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"llm_config: num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.rope_type not in ("default", "dynamic"):
            raise ValueError(
                f"llm_config: rope_scaling type {self.rope_type!r} is not supported "
                "(default and dynamic are)"
            )
        if self.remat not in ("none", "names", "full"):
            raise ValueError(f"remat must be none, names or full, got {self.remat!r}")
        if self.attention not in KERNELS:
            raise ValueError(f"attention must be one of {KERNELS}, got {self.attention!r}")

    @property
    def head_dim(self) -> int:
        """E: width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """V rounded up to `vocab_multiple`; the extra logits are -inf."""
        return round_up(self.vocab_size, self.vocab_multiple)


Rotary = tuple[Float[Array, "N #L 1 half"], Float[Array, "N #L 1 half"]]
"""Cosine and sine of every position's angles, float32; `half` is E / 2."""

KeyValue = tuple[Float[Array, "N L G E"], Float[Array, "N L G E"]]
"""Rotated keys, and values, in the order they were computed."""

SAVED_NAMES = ("attn_qkv", "attn_out")
"""What `remat="names"` keeps: (2 + 2 G / H) D values per token and layer. The MLP's wide
activations are recomputed; keeping its output would save nothing, the next layer's input is it."""


def rotary_table(cfg: Qwen2Config, positions: Int[Array, "N L"]) -> Rotary:
    """Angles `position * theta^(-2 i / E)`, i = 0 .. E/2 - 1, computed in float32.

    `dynamic` scaling is the plain rotation up to `max_position_embeddings`, beyond which the
    decoder refuses to run (`Qwen2.check_length`).
    """
    exponents = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(cfg.head_dim)
    # Folded on the host as torch does: the compiler's power is off by one bit, which some thousand
    # positions turn into 5e-4 of a radian.
    powers = np.power(cfg.rope_theta, exponents.astype(np.float64)).astype(np.float32)
    angles = positions[..., None].astype(jnp.float32) * (np.float32(1) / powers)
    angles = angles[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "N L heads E"], rotary: Rotary) -> Float[Array, "N L heads E"]:
    """Turns the pair (i, i + E/2) of each head by its angle; float32 inside, dtype of x outside."""
    cos, sin = rotary
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions; biases on q, k, v only."""

    def __init__(self, cfg: Qwen2Config, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        d, h, g, e = (
            cfg.hidden_size,
            cfg.num_attention_heads,
            cfg.num_key_value_heads,
            cfg.head_dim,
        )

        def project(heads: int, axis: str) -> Linear:
            return Linear(
                (d,),
                (heads, e),
                in_axes=("embed",),
                out_axes=(axis, "head_dim"),
                use_bias=True,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.q = project(h, "heads")
        self.k = project(g, "kv_heads")
        self.v = project(g, "kv_heads")
        self.o = Linear(
            (h, e),
            (d,),
            in_axes=("heads", "head_dim"),
            out_axes=("embed",),
            use_bias=False,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def project(
        self, x: Float[Array, "N L D"], rotary: Rotary
    ) -> tuple[Float[Array, "N L H E"], KeyValue]:
        """Rotated queries, and rotated keys with their values."""
        q, k, v = rotate(self.q(x), rotary), rotate(self.k(x), rotary), self.v(x)
        q = constrain(q, "batch", "tokens", "heads", "head_dim")
        k = constrain(k, "batch", "tokens", "kv_heads", "head_dim")
        v = constrain(v, "batch", "tokens", "kv_heads", "head_dim")
        return q, (k, v)

    def __call__(
        self, x: Float[Array, "N L D"], rotary: Rotary, attend: Attend
    ) -> tuple[Float[Array, "N L D"], KeyValue]:
        """Attends within `x`; also its keys and values."""
        q, (k, v) = checkpoint_name(self.project(x, rotary), "attn_qkv")
        return self.o(attend(q, k, v)), (k, v)

    def extend(
        self,
        x: Float[Array, "N L D"],
        rotary: Rotary,
        prefix: KVCache,
        mask: Bool[Array, "N 1 L S"],
    ) -> Float[Array, "N L D"]:
        """Attends within `x` and to a prefix: S = P + L slots, those of the prefix first."""
        q, (k, v) = self.project(x, rotary)
        k = jnp.concatenate([prefix.keys.transpose(0, 3, 1, 2), k], axis=1)
        v = jnp.concatenate([prefix.values.swapaxes(1, 2), v], axis=1)
        return self.o(attention.attend(q, k, v, mask))

    def decode(
        self,
        x: Float[Array, "N K D"],
        rotary: Rotary,
        prefix: KVCache,
        prefix_mask: Bool[Array, "N P"],
        suffix: KVCache,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, "N K D"], KVCache]:
        """One token of each of K responses, which read one prefix and their own suffix.

        Scores against the prefix and the suffix share one float32 softmax. The new key and value
        are written into slot `step` of the suffix.
        """
        q, (new_key, new_value) = self.project(x, rotary)
        n, k, h, e = q.shape
        g = new_key.shape[2]
        new_key, new_value = new_key.swapaxes(1, 2), new_value.swapaxes(1, 2)
        q = q.reshape(n, k, g, h // g, e).swapaxes(1, 2) * jnp.asarray(e**-0.5, q.dtype)
        f32 = jnp.float32
        before = jnp.einsum("ngkre,ngep->ngkrp", q, prefix.keys, preferred_element_type=f32)
        after = jnp.einsum("ngkre,ngkec->ngkrc", q, suffix.keys, preferred_element_type=f32)
        own = jnp.einsum("ngkre,ngke->ngkr", q, new_key, preferred_element_type=f32)
        before = jnp.where(prefix_mask[:, None, None, None], before, -jnp.inf)
        after = jnp.where(jnp.arange(suffix.num_slots) < step, after, -jnp.inf)
        scores = jnp.concatenate([before, after, own[..., None]], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        before, after, own = jnp.split(
            weights, [prefix.num_slots, prefix.num_slots + suffix.num_slots], axis=-1
        )
        out = jnp.einsum("ngkrp,ngpe->ngkre", before, prefix.values, preferred_element_type=f32)
        out += jnp.einsum("ngkrc,ngkce->ngkre", after, suffix.values, preferred_element_type=f32)
        out += own.astype(f32) * new_value[:, :, :, None].astype(f32)
        out = out.astype(x.dtype)
        # A write in place must come after the read above, or the compiler copies the buffers at
        # every token. It honours no barrier on the CPU, so the new slots depend on the output,
        # row by row (a row that is not finite spoils only itself).
        tie = 0.0 * out[:, :, :, 0]
        update = jax.lax.dynamic_update_slice_in_dim
        suffix = KVCache(
            keys=update(suffix.keys, (new_key + tie)[..., None], step, axis=4),
            values=update(suffix.values, (new_value + tie)[..., None, :], step, axis=3),
        )
        out = out.swapaxes(1, 2).reshape(n, k, h, e)
        return self.o(out), suffix


class GatedMLP(nnx.Module):
    """`down(silu(gate(x)) * up(x))`, no biases."""

    def __init__(self, cfg: Qwen2Config, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        def linear(dims: tuple[int, int], axes: tuple[str, str]) -> Linear:
            return Linear(
                dims[:1],
                dims[1:],
                in_axes=axes[:1],
                out_axes=axes[1:],
                use_bias=False,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        wide = (cfg.hidden_size, cfg.intermediate_size)
        self.gate = linear(wide, ("embed", "mlp"))
        self.up = linear(wide, ("embed", "mlp"))
        self.down = linear(wide[::-1], ("mlp", "embed"))

    def __call__(self, x: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
        wide = jax.nn.silu(self.gate(x)) * self.up(x)
        return self.down(constrain(wide, "batch", "tokens", "mlp"))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, cfg: Qwen2Config, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.input_norm = RMSNorm(cfg.hidden_size, eps=cfg.rms_norm_eps, param_dtype=param_dtype)
        self.attn = Attention(cfg, param_dtype=param_dtype, rngs=rngs)
        self.post_attention_norm = RMSNorm(
            cfg.hidden_size, eps=cfg.rms_norm_eps, param_dtype=param_dtype
        )
        self.mlp = GatedMLP(cfg, param_dtype=param_dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N L D"], rotary: Rotary, attend: Attend
    ) -> tuple[Float[Array, "N L D"], KeyValue]:
        attended, kv = self.attn(self.input_norm(x), rotary, attend)
        return self._add(x, attended), kv

    def extend(
        self,
        x: Float[Array, "N L D"],
        rotary: Rotary,
        prefix: KVCache,
        mask: Bool[Array, "N 1 L S"],
    ) -> Float[Array, "N L D"]:
        """Tokens after a prefix; see `Attention.extend`."""
        return self._add(x, self.attn.extend(self.input_norm(x), rotary, prefix, mask))

    def decode(
        self,
        x: Float[Array, "N K D"],
        rotary: Rotary,
        prefix: KVCache,
        prefix_mask: Bool[Array, "N P"],
        suffix: KVCache,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, "N K D"], KVCache]:
        """One token of each response; see `Attention.decode`."""
        attended, suffix = self.attn.decode(
            self.input_norm(x), rotary, prefix, prefix_mask, suffix, step
        )
        return self._add(x, attended), suffix

    def _add(self, x: Float[Array, "N L D"], attended: Float[Array, "N L D"]) -> Array:
        x = constrain(x + attended, "batch", "tokens", None)
        return constrain(x + self.mlp(self.post_attention_norm(x)), "batch", "tokens", None)


class Qwen2(nnx.Module):
    """The decoder: token table, a stack of layers, final norm and head.

    Parameters: `embed`, `layers` (stacked), `norm`, `lm_head` (None where the head is the table).
    Computes in the dtype of the embeddings that come in.

    Source: transformers' Qwen2ForCausalLM, which parity tests compare against.
    """

    def __init__(self, cfg: Qwen2Config, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embed = Embedding(
            cfg.padded_vocab_size, cfg.hidden_size, param_dtype=param_dtype, rngs=rngs
        )
        self.layers = stack_layers(
            lambda rngs: DecoderLayer(cfg, param_dtype=param_dtype, rngs=rngs),
            cfg.num_hidden_layers,
            rngs,
        )
        self.norm = RMSNorm(cfg.hidden_size, eps=cfg.rms_norm_eps, param_dtype=param_dtype)
        self.lm_head = nnx.data(None)
        if not cfg.tie_word_embeddings:
            self.lm_head = Linear(
                (cfg.hidden_size,),
                (cfg.padded_vocab_size,),
                in_axes=("head_embed",),
                out_axes=("head_vocab",),
                use_bias=False,
                param_dtype=param_dtype,
                rngs=rngs,
            )

    def check_length(self, length: int) -> None:
        """Raises ValueError if positions up to `length - 1` are more than the model knows."""
        limit = self.cfg.max_position_embeddings
        if length > limit:
            raise ValueError(
                f"a sequence of {length} positions exceeds max_position_embeddings={limit}; "
                f"rope scaling beyond it is not implemented"
            )

    def embed_tokens(self, ids: Int[Array, "..."], dtype: DTypeLike) -> Float[Array, "... D"]:
        """Rows of the token table in the compute dtype."""
        # Every device along `fsdp` looks up its part of D for all of their rows, which are then
        # exchanged: less than gathering the table, and its gradient stays split.
        others = [None] * (ids.ndim - 1)
        rows = self.embed(constrain(ids, "data_batch", *others), dtype)
        rows = constrain(rows, "data_batch", *others, "embed")
        return constrain(rows, "batch", *others, None)

    def __call__(
        self,
        embeds: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        visibility: Visibility | None,
        *,
        longest: int | None = None,
    ) -> Float[Array, "N L D"]:
        """Hidden states after the final norm, in the dtype of `embeds`.

        Args:
          embeds: token and visual embeddings.
          positions: int32 rotary position of every slot; packed responses repeat them.
          visibility: what each of the L slots may see; None is plain causal.
          longest: static bound on positions + 1, L if None; packed groups give P + C.

        Raises:
          ValueError: `longest` exceeds `max_position_embeddings`.
        """
        self.check_length(embeds.shape[1] if longest is None else longest)
        return self._run(embeds, positions, visibility, keep_cache=False)[0]

    def prefill(
        self,
        embeds: Float[Array, "N P D"],
        positions: Int[Array, "N P"],
        visibility: Visibility | None,
    ) -> tuple[Float[Array, "N P D"], KVCache]:
        """As `__call__`, and the cache `[layers, N, ...]` of P slots for decoding.

        Raises:
          ValueError: P exceeds `max_position_embeddings`.
        """
        self.check_length(embeds.shape[1])
        return self._run(embeds, positions, visibility, keep_cache=True)

    def _run(self, embeds, positions, visibility, *, keep_cache: bool):
        rotary = rotary_table(self.cfg, positions)
        if visibility is None:
            visibility = Visibility(Causal(embeds.shape[1]))
        attend = make_attend(self.cfg.attention, visibility, "attn_out")
        x = constrain(embeds, "batch", "tokens", None)

        def body(layer: DecoderLayer, x: Array, _) -> tuple[Array, KVCache | None]:
            x, (k, v) = layer(x, rotary, attend)
            if not keep_cache:
                return x, None
            return x, KVCache(keys=k.transpose(0, 2, 3, 1), values=v.swapaxes(1, 2))

        x, cache = scan_layers(self.layers, body, x, wrap=_rematerialise(self.cfg.remat))
        return self.norm(x), cache

    def extend(
        self,
        embeds: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        prefix: KVCache,
        mask: Bool[Array, "N 1 L S"],
    ) -> Float[Array, "N L D"]:
        """Hidden states of L tokens after a prefix, all in one pass; nothing is cached.

        Args:
          embeds: of the new tokens, in the compute dtype.
          positions: int32 rotary position of each.
          prefix: as `prefill` gave it, rows `[layers, N, G]` of P slots.
          mask: True where a new token may see a slot: S = P + L, those of the prefix first, with a
            True diagonal in the rest.
        """
        rotary = rotary_table(self.cfg, positions)

        def body(layer: DecoderLayer, x: Array, cache: KVCache) -> tuple[Array, None]:
            return layer.extend(x, rotary, cache, mask), None

        x, _ = scan_layers(self.layers, body, constrain(embeds, "batch", "tokens", None), prefix)
        return self.norm(x)

    def decode_step(
        self,
        layers: Sequence[DecoderLayer],
        embeds: Float[Array, "N K D"],
        positions: Int[Array, "N"],
        prefix: Sequence[KVCache],
        prefix_mask: Bool[Array, "N P"],
        suffix: Sequence[KVCache],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, "N K D"], tuple[KVCache, ...]]:
        """Hidden states of one new token of each of N * K responses.

        Args:
          layers: `unstacked_layers()`, taken outside the loop over tokens.
          embeds: of the tokens chosen last.
          positions: int32 rotary position of that token, p_i + step.
          prefix: per layer, rows `[N]`, shared by the K responses of a video.
          prefix_mask: True at the real slots of each prompt.
          suffix: per layer, rows `[N, G, K]`; slots before `step` are filled.
          step: int32 slot of this token.

        Returns:
          Hidden states after the final norm, and the suffix with slot `step` written.
        """
        rotary = rotary_table(self.cfg, positions[:, None])
        x, written = embeds, []
        for layer, layer_prefix, layer_suffix in zip(layers, prefix, suffix, strict=True):
            x, layer_suffix = layer.decode(x, rotary, layer_prefix, prefix_mask, layer_suffix, step)
            written.append(layer_suffix)
        return self.norm(x), tuple(written)

    def unstacked_layers(self) -> list[DecoderLayer]:
        """The layers one by one.

        A loop over tokens reads every weight at every step; slicing the stack there would copy
        every weight first. Sliced before the loop, the copy is made once.
        """
        graphdef, state = nnx.split(self.layers)
        return [
            nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], state))
            for i in range(self.cfg.num_hidden_layers)
        ]

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V_padded"]:
        """Float32 logits; the columns that only pad the vocabulary are -inf and never win.

        On a mesh the rows of all devices along `fsdp` meet the part of the vocabulary that each
        device holds. A head that is gathered instead, and its summed gradient, are a gigabyte each
        and as much traffic for every chunk of rows; the rows are some megabytes.
        """
        row_axes = ("data_batch", *[None] * (hidden.ndim - 2))
        hidden = constrain(hidden, *row_axes, None)
        if self.lm_head is None:
            table, axis = self.embed.embedding[...], 1
        else:
            table, axis = self.lm_head.kernel[...], 0
        logits = jax.lax.dot_general(
            hidden,
            table.astype(hidden.dtype),
            (((hidden.ndim - 1,), (axis,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        logits = constrain(logits, *row_axes, "head_vocab")
        is_token = jnp.arange(self.cfg.padded_vocab_size) < self.cfg.vocab_size
        return jnp.where(is_token, logits, -jnp.inf)


def _rematerialise(remat: str) -> Callable[[Callable], Callable]:
    """The wrapper of one layer's step for each value of `Qwen2Config.remat`."""
    if remat == "none":
        return lambda step: step
    policy = None
    if remat == "names":
        policy = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)
    # Inside a scan the barrier that keeps the recomputation from being merged is not needed.
    return lambda step: jax.checkpoint(step, policy=policy, prevent_cse=False)
