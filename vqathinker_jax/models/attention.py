"""Grouped-query attention over whole sequences; the one place where a kernel is chosen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vqathinker_jax.models.splash import KV_ROWS, ROWS, SplashAttention
from vqathinker_jax.models.visibility import Group, Visibility
from vqathinker_jax.parallel import per_shard

KERNELS = ("xla", "cudnn", "splash")
"""`xla`: plain XLA, everywhere; `cudnn`: cuDNN's fused attention; `splash`: the Pallas kernel for
TPUs. The last two never hold the [L, S] scores in memory."""
WANTED = ("auto", *KERNELS)
"""What a person may ask for."""
LEAST_SCORE = -0.7 * float(np.finfo(np.float32).max)
"""Of what may not be seen: finite, so that a row that sees nothing stays finite too."""
HALF_DTYPES = ("bfloat16", "float16")
CUDNN_HEAD_SIZE = 128
"""The widest head that cuDNN takes on every card; all widths are multiples of 8."""


def choose_attention(platform: str, dtype: str, wanted: str, head_size: int = 128) -> str:
    """The kernel for attention over whole sequences, decided before anything is compiled.

    `auto` is cuDNN on NVIDIA cards where it takes the dtype (half precision) and the head size (a
    multiple of 8 up to 128), splash on TPUs (any head size), and XLA elsewhere.

    >>> choose_attention("cuda", "bfloat16", "auto"), choose_attention("cpu", "float32", "auto")
    ('cudnn', 'xla')

    Args:
      platform: of the devices that will run the program: `cpu`, `cuda`, `tpu` or another, as
        `parallel.platform_of` names them. They need not be the devices of this machine.
      dtype: compute dtype.
      wanted: one of `WANTED`.
      head_size: E.

    Returns:
      One of `KERNELS`.

    Raises:
      ValueError: an unknown kernel, or one that the platform, dtype or head size rules out.
    """
    if wanted not in WANTED:
        raise ValueError(f"attention must be one of {WANTED}, got {wanted!r}")
    suits_cudnn = head_size % 8 == 0 and head_size <= CUDNN_HEAD_SIZE
    if wanted == "auto":
        if platform == "tpu":
            return "splash"
        return "cudnn" if platform == "cuda" and dtype in HALF_DTYPES and suits_cudnn else "xla"
    needed = {"xla": platform, "cudnn": "cuda", "splash": "tpu"}[wanted]
    if platform != needed:
        raise ValueError(f"attention {wanted} runs on {needed}, and the devices are {platform}")
    if wanted == "cudnn" and dtype not in HALF_DTYPES:
        raise ValueError(f"attention cudnn takes {' and '.join(HALF_DTYPES)}, dtype is {dtype}")
    if wanted == "cudnn" and not suits_cudnn:
        raise ValueError(
            f"attention cudnn takes heads of a multiple of 8 up to {CUDNN_HEAD_SIZE}, "
            f"the model's are {head_size} wide"
        )
    return wanted


Attend = Callable[
    [Float[Array, "N L H E"], Float[Array, "N L G E"], Float[Array, "N L G E"]],
    Float[Array, "N L H E"],
]
"""Attention of one visibility: queries, keys, values to averages of the values."""


def make_attend(kernel: str, visibility: Visibility, saved_as: str) -> Attend:
    """Attention over whole sequences, for the layers that share what may be seen.

    The mask is made here, so call this before the layers are scanned.

    Args:
      kernel: one of `KERNELS`, from `choose_attention`.
      visibility: what each of the L slots may see.
      saved_as: checkpoint name of the result, for rematerialisation by names.
    """
    if kernel == "splash":
        return SplashAttention(visibility, saved_as)
    made = cudnn_attend(visibility) if kernel == "cudnn" else _xla(visibility)
    return lambda q, k, v: checkpoint_name(made(q, k, v), saved_as)


def _xla(visibility: Visibility) -> Attend:
    if isinstance(visibility.pattern, Group):
        return lambda q, k, v: attend_group(q, k, v, visibility.pattern, visibility.key_mask)
    mask = visibility.mask(visibility.pattern.length) if visibility.needs_mask else None
    is_causal = visibility.pattern.is_causal and mask is None
    return lambda q, k, v: attend(q, k, v, mask, is_causal=is_causal)


def cudnn_attend(visibility: Visibility, implementation: str = "cudnn") -> Attend:
    """Attention in the form that cuDNN takes.

    It wants a mask of the full trailing shape, and even lengths where there are gradients. Told
    that nobody sees what is later, it does not compute it, mask or not.

    Args:
      visibility: what each of the L slots may see.
      implementation: of `jax.nn.dot_product_attention`; `xla` computes the same elsewhere.
    """
    length, is_causal = visibility.pattern.length, visibility.pattern.is_causal
    pad = length % 2
    mask = visibility.mask(length + pad) if visibility.needs_mask else None
    # The causal rule hides a pad at the end by itself.
    counts = bool(pad) and mask is None and not is_causal

    def attend_rows(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        lengths = jnp.full(len(q), length, jnp.int32) if counts else None
        q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
        with jax.numpy_dtype_promotion("standard"):
            out = jax.nn.dot_product_attention(
                q,
                k,
                v,
                mask=mask,
                is_causal=is_causal,
                query_seq_lengths=lengths,
                key_value_seq_lengths=lengths,
                implementation=implementation,
            )
        return out[:, :length]

    has_rows = mask is not None and visibility.key_mask is not None
    mask_axes = ("batch", None, None, None) if has_rows else None
    split = per_shard(attend_rows, (ROWS, KV_ROWS, KV_ROWS, mask_axes), ROWS)
    return lambda q, k, v: split(q, k, v, mask)


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
    length, slots, groups = q.shape[1], *k.shape[1:3]
    scores = _scores(_grouped(q, groups), _heads_first(k))
    if mask is not None:
        each = (1, 1) if mask.shape[1] == 1 else (groups, -1)
        scores = _hide(scores, mask.reshape(len(mask), *each, *mask.shape[2:]))
    if is_causal:
        scores = _hide(scores, np.arange(length)[:, None] >= np.arange(slots))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _ungrouped(_average(weights, _heads_first(v)))


def attend_group(
    q: Float[Array, "N L H E"],
    k: Float[Array, "N L G E"],
    v: Float[Array, "N L G E"],
    group: Group,
    is_real: Bool[Array, "N L"] | None,
) -> Float[Array, "N L H E"]:
    """`attend` of a prompt and its responses, without the scores that nobody may see.

    The prompt attends to itself, each response to the prompt and to itself in one softmax:
    P^2 + K C (P + C) scores a head instead of (P + K C)^2.

    Args:
      q, k, v: one floating dtype, L = P + K C slots.
      group: the slots.
      is_real: slots that others may see; None: all. Every slot sees itself.
    """
    p = group.prompt_slots
    prompt_real = None if is_real is None else is_real[:, None, None, :p]
    before = attend(q[:, :p], k[:, :p], v[:, :p], _sees_earlier(p, prompt_real))
    return jnp.concatenate([before, _attend_responses(q[:, p:], k, v, group, is_real)], axis=1)


def _attend_responses(
    q: Float[Array, "N M H E"],
    k: Float[Array, "N L G E"],
    v: Float[Array, "N L G E"],
    group: Group,
    is_real: Bool[Array, "N L"] | None,
) -> Float[Array, "N M H E"]:
    """What the M = K C slots of the responses see: the prompt, and what is earlier in their own."""
    p, c = group.prompt_slots, group.response_slots
    q, k, v = _grouped(q, k.shape[2]), _heads_first(k), _heads_first(v)
    num, groups, repeats, length, width = q.shape
    own = (num, groups, group.num_responses, c, width)
    own_k, own_v = k[:, :, p:].reshape(own), v[:, :, p:].reshape(own)

    to_prompt, own_real = _scores(q, k[:, :, :p]), None
    if is_real is not None:
        to_prompt = _hide(to_prompt, is_real[:, None, None, None, :p])
        own_real = is_real[:, p:].reshape(num, 1, 1, group.num_responses, 1, c)
    rows = q.reshape(num, groups, repeats, *own[2:])
    to_own = jnp.einsum("ngrkce,ngkde->ngrkcd", rows, own_k, preferred_element_type=jnp.float32)
    to_own = _hide(_scale(to_own, width), _sees_earlier(c, own_real))

    to_prompt = to_prompt.reshape(*to_own.shape[:-1], p)
    weights = jax.nn.softmax(jnp.concatenate([to_prompt, to_own], axis=-1), axis=-1)
    on_prompt, on_own = jnp.split(weights.astype(v.dtype), [p], axis=-1)
    on_prompt = on_prompt.reshape(num, groups, repeats, length, p)
    out = _average(on_prompt, v[:, :, :p], jnp.float32)
    own_out = jnp.einsum("ngrkcd,ngkde->ngrkce", on_own, own_v, preferred_element_type=jnp.float32)
    return _ungrouped((out + own_out.reshape(out.shape)).astype(v.dtype))


# The products below have their batch axes first and the query heads that share a key as rows of
# one matrix. In the order of the activations XLA takes five times as long for them on a CPU.


def _grouped(q: Float[Array, "N L H E"], groups: int) -> Float[Array, "N G R L E"]:
    num, length, heads, width = q.shape
    return q.reshape(num, length, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)


def _ungrouped(out: Float[Array, "N G R L E"]) -> Float[Array, "N L H E"]:
    num, groups, repeats, length, width = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(num, length, groups * repeats, width)


def _heads_first(x: Float[Array, "N S G E"]) -> Float[Array, "N G S E"]:
    return x.swapaxes(1, 2)


def _scores(q: Float[Array, "N G R L E"], k: Float[Array, "N G S E"]) -> Float[Array, "N G R L S"]:
    num, groups, repeats, length, width = q.shape
    rows = q.reshape(num, groups, repeats * length, width)
    scores = jnp.einsum("ngle,ngse->ngls", rows, k, preferred_element_type=jnp.float32)
    return _scale(scores, width).reshape(num, groups, repeats, length, -1)


def _scale(scores: Float[Array, "..."], width: int) -> Float[Array, "..."]:
    return scores * np.float32(width**-0.5)


def _average(
    weights: Float[Array, "N G R L S"], v: Float[Array, "N G S E"], dtype: DTypeLike | None = None
) -> Float[Array, "N G R L E"]:
    num, groups, repeats, length, slots = weights.shape
    rows = weights.reshape(num, groups, repeats * length, slots)
    out = jnp.einsum("ngls,ngse->ngle", rows, v, preferred_element_type=dtype)
    return out.reshape(num, groups, repeats, length, -1)


def _hide(scores: Float[Array, "..."], visible: Bool[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(visible, scores, LEAST_SCORE)


def _sees_earlier(length: int, is_real: Bool[Array, "*B 1 L"] | None) -> Bool[Array, "*#B L L"]:
    """Itself, and what is real before it."""
    slot = np.arange(length)
    earlier = slot[:, None] >= slot
    if is_real is None:
        return jnp.asarray(earlier).reshape(1, 1, length, length)
    return (earlier & is_real) | np.eye(length, dtype=bool)
