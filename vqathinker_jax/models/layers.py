"""Linear, norm and embedding layers, and scanning over a stack of them.

The compute dtype is the dtype of the activations: a layer casts its parameters to the dtype of its
input. Norms compute in float32 and return the input's dtype. Every parameter carries its logical
axes (`parallel.LOGICAL_AXES`) as metadata.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

M = TypeVar("M", bound=nnx.Module)


def parameter(value: Array, logical_axes: Sequence[str]) -> nnx.Param:
    """A trainable parameter that knows the logical axis of each of its dimensions."""
    if value.ndim != len(logical_axes):
        raise ValueError(f"{len(logical_axes)} axes {tuple(logical_axes)} for shape {value.shape}")
    return nnx.Param(value, logical_axes=tuple(logical_axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract(x: Float[Array, "..."], kernel: Float[Array, "..."], num: int) -> Float[Array, "..."]:
    """Sums over the `num` last axes of x and the `num` first ones of a kernel.

    The kernel's gradient is a product of two tall matrices of which XLA has to turn one on a CPU,
    where it computes anew what the matrix was made from, activation functions included. Here that
    is the narrower one; JAX's own rule always turns what came from above.
    """
    last = tuple(range(x.ndim - num, x.ndim))
    return jax.lax.dot_general(x, kernel, ((last, tuple(range(num))), ((), ())))


def _contract_forward(x: Array, kernel: Array, num: int) -> tuple[Array, tuple[Array, Array]]:
    return contract(x, kernel, num), (x, kernel)


def _contract_backward(
    num: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    num_out = kernel.ndim - num
    outputs = tuple(range(cotangent.ndim - num_out, cotangent.ndim))
    to_x = jax.lax.dot_general(
        cotangent, kernel, ((outputs, tuple(range(num, kernel.ndim))), ((), ()))
    )
    rows = tuple(range(x.ndim - num))
    if math.prod(kernel.shape[:num]) <= math.prod(kernel.shape[num:]):
        return to_x, jax.lax.dot_general(x, cotangent, ((rows, rows), ((), ())))
    turned = jax.lax.dot_general(cotangent, x, ((rows, rows), ((), ())))
    return to_x, turned.transpose(*range(num_out, kernel.ndim), *range(num_out))


contract.defvjp(_contract_forward, _contract_backward)


class LowRank(nnx.Module):
    """`y = scale * (x . a) . b`: what a LoRA adapter adds to the output of a linear layer.

    Parameters: `a` [*in_dims, R], `b` [R, *out_dims]; the product of the two is never formed.
    """

    def __init__(self, a: nnx.Param, b: nnx.Param, *, num_in: int, scale: float):
        self.a = a
        self.b = b
        self.num_in = num_in
        self.scale = scale

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inner = contract(x, self.a[...].astype(x.dtype), self.num_in) * self.scale
        return contract(inner, self.b[...].astype(x.dtype), 1)


class Linear(nnx.Module):
    """`y = x . kernel + bias`, contracting the trailing `in_dims` of x into `out_dims`.

    Parameters: `kernel` [*in_dims, *out_dims], `bias` [*out_dims] (None without bias), `adapter`
    (None unless `models.lora.add_adapters` put one there, whose output is then added).
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        out_dims: Sequence[int],
        *,
        in_axes: Sequence[str],
        out_axes: Sequence[str],
        use_bias: bool,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        init_std: float = 0.02,
    ):
        self.num_in = len(in_dims)
        shape = (*in_dims, *out_dims)
        kernel = init_std * jax.random.normal(rngs.params(), shape, jnp.float32)
        self.kernel = parameter(kernel.astype(param_dtype), (*in_axes, *out_axes))
        self.bias = nnx.data(None)
        if use_bias:
            self.bias = parameter(jnp.zeros(tuple(out_dims), param_dtype), out_axes)
        self.adapter = nnx.data(None)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y = contract(x, self.kernel[...].astype(x.dtype), self.num_in)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last axis, in float32."""

    def __init__(self, dim: int, *, eps: float, param_dtype: DTypeLike, axis: str = "norm"):
        self.eps = eps
        self.scale = parameter(jnp.ones((dim,), param_dtype), (axis,))
        self.bias = parameter(jnp.zeros((dim,), param_dtype), (axis,))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        mean = x32.mean(-1, keepdims=True)
        centred = x32 - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        y = y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis, normalised in float32.

    The normalised value is rounded to the input dtype before the scale, as Qwen2 and InternViT do.
    """

    def __init__(self, dim: int, *, eps: float, param_dtype: DTypeLike, axis: str = "norm"):
        self.eps = eps
        self.scale = parameter(jnp.ones((dim,), param_dtype), (axis,))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * self.scale[...].astype(x.dtype)


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x / 2 * (1 + erf(x / sqrt(2)))`, computed in float32 and returned in the dtype of `x`.

    Written with `erf` as torch does: `jax.nn.gelu(approximate=False)` calls `erfc`, which is over
    twice as slow on CPU and equal within 1e-6.
    """
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1.0 + jax.lax.erf(x32 * math.sqrt(0.5)))).astype(x.dtype)


class Embedding(nnx.Module):
    """A table of row vectors, `embedding` [V, D]."""

    def __init__(self, num: int, dim: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs):
        table = 0.02 * jax.random.normal(rngs.params(), (num, dim), jnp.float32)
        self.embedding = parameter(table.astype(param_dtype), ("vocab", "embed"))

    def __call__(self, ids: Int[Array, "..."], dtype: DTypeLike) -> Float[Array, "... D"]:
        return jnp.take(self.embedding[...], ids, axis=0).astype(dtype)


def stack_layers(make: Callable[[nnx.Rngs], M], num: int, rngs: nnx.Rngs) -> M:
    """One module whose parameters carry a leading `layers` axis of size `num`."""

    @nnx.split_rngs(splits=num)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stacked(rngs: nnx.Rngs) -> M:
        return make(rngs)

    layers = stacked(rngs)
    for _, node in nnx.iter_graph(layers):
        if isinstance(node, nnx.Variable):
            node.set_metadata(logical_axes=("layers", *node.get_metadata()["logical_axes"]))
    return layers


def scan_layers(
    layers: nnx.Module,
    body: Callable,
    carry,
    xs=None,
    *,
    wrap: Callable[[Callable], Callable] = lambda step: step,
):
    """Scans `carry, y = body(layer, carry, x)` over a stack made by `stack_layers`.

    Args:
      layers: the stacked module.
      body: applied to each layer in turn.
      carry: what the first layer receives.
      xs: optional pytree with a leading layer axis, one slice a layer.
      wrap: applied to the step before scanning; `jax.checkpoint` goes here.

    Returns:
      The last carry, and the stacked `y`s.
    """
    graphdef, state = nnx.split(layers)

    def step(carry, inputs):
        params, x = inputs
        return body(nnx.merge(graphdef, params), carry, x)

    return jax.lax.scan(wrap(step), carry, (state, xs))


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return math.ceil(value / multiple) * multiple
