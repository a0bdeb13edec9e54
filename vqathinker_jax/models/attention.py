"""Grouped-query attention over whole sequences; the one place where a kernel is chosen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Shaped

from vqathinker_jax.models.splash import KV_ROWS, ROWS, SplashAttention
from vqathinker_jax.models.visibility import Causal, Group, Visibility
from vqathinker_jax.parallel import per_shard

KERNELS = ("xla", "cudnn", "splash")
"""`xla`: plain XLA, everywhere; `cudnn`: cuDNN's fused attention; `splash`: the Pallas kernel for
TPUs. The last two never hold the [L, S] scores in memory."""
WANTED = ("auto", *KERNELS)
"""What a person may ask for."""
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
        return _xla_groups(visibility.pattern, visibility.key_mask)
    mask = visibility.mask(visibility.pattern.length) if visibility.needs_mask else None
    is_causal = visibility.pattern.is_causal and mask is None
    return lambda q, k, v: attend(q, k, v, mask, is_causal=is_causal)


def _xla_groups(group: Group, key_mask: Bool[Array, "N L"] | None) -> Attend:
    """A group without the scores that its pattern hides: P * P of the prompt, and C * (P + C) of
    each response as the last C rows of a causal sequence of its own, instead of L * L.
    """
    p, c = group.prompt_slots, group.response_slots

    def whole(x: Shaped[Array, "N L *R"]) -> Shaped[Array, "N*K P+C *R"]:
        """The prompt and each response as one row."""
        own = split(x)
        prompt = jnp.repeat(x[:, :p], group.num_responses, axis=0)
        return jnp.concatenate([prompt, own], axis=1)

    def split(x: Shaped[Array, "N L *R"]) -> Shaped[Array, "N*K C *R"]:
        return x[:, p:].reshape(-1, c, *x.shape[2:])

    if key_mask is None:
        prompt = response = None
    else:
        prompt, response = key_mask[:, :p], whole(key_mask)
    attend_prompt = _xla(Visibility(Causal(p), prompt))
    mask = Visibility(Causal(p + c), response).mask(p + c)[:, :, p:]

    def attend_group(q: Array, k: Array, v: Array) -> Array:
        first = attend_prompt(q[:, :p], k[:, :p], v[:, :p])
        rest = attend(split(q), whole(k), whole(v), mask)
        return jnp.concatenate([first, rest.reshape(len(q), -1, *q.shape[2:])], axis=1)

    return attend_group


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
    # jax's own function promotes bfloat16 scores to float32, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=is_causal, implementation="xla"
        )
