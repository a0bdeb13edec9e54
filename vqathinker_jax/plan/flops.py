"""Operations of a traced program, bodies of loops counted as often as they run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

FUSED_ATTENTION = {
    "dot_product_attention_fwd": 4,
    "dot_product_attention_fwd_wrapper": 4,
    "dot_product_attention_bwd": 10,
    "dot_product_attention_bwd_wrapper": 10,
}
"""jax's names of cuDNN's attention -> operations per query, key and width of a head: two products
forwards, five backwards. What a mask hides is computed too, or counted as if."""


def count_flops(jaxpr: Jaxpr, loop_trips: int | None = None) -> float:
    """Floating-point operations of all matrix products and convolutions, 2 per multiply-add.

    Everything else (norms, softmax, activations) is less than a hundredth of them at this size.

    Args:
      jaxpr: of the whole program, all devices together.
      loop_trips: how often the body of a `while_loop` runs; scans know their length themselves.

    Raises:
      ValueError: a `while_loop` with products in it, and no `loop_trips`.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _dot_flops(equation)
        elif name == "conv_general_dilated":
            total += _conv_flops(equation)
        elif name in FUSED_ATTENTION:
            total += _attention_flops(equation)
        elif name == "scan":
            total += params["length"] * count_flops(params["jaxpr"].jaxpr, loop_trips)
        elif name == "while":
            body = count_flops(params["body_jaxpr"].jaxpr, loop_trips)
            if body and loop_trips is None:
                raise ValueError("a while_loop holds products, and loop_trips was not given")
            total += body * (loop_trips or 0)
        elif name == "cond":
            total += max(count_flops(branch.jaxpr, loop_trips) for branch in params["branches"])
        elif name == "shard_map":
            # Its body is the work of one device.
            num = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
            total += num * count_flops(params["jaxpr"], loop_trips)
        elif name == "pallas_call":
            grid = math.prod(params["grid_mapping"].grid)
            total += grid * count_flops(params["jaxpr"], loop_trips)
        else:
            total += sum(count_flops(inner, loop_trips) for inner in _inner_jaxprs(params))
    return total


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _conv_flops(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    # Kernel elements per output channel; groups are in its input channels already.
    per_output = math.prod(kernel) // out_channels
    return 2.0 * per_output * math.prod(equation.outvars[0].aval.shape)


def _attention_flops(equation: Any) -> float:
    queries, keys = (var.aval.shape for var in equation.invars[:2])
    num, length, heads, width = queries
    per_pair = FUSED_ATTENTION[equation.primitive.name]
    return float(per_pair * num * heads * length * keys[1] * width)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an equation calls, each once."""
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
