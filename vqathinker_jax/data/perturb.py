"""Temporal perturbations: draw parameters, then apply them to frame indices.

The second step is a pure function of the draw, so a perturbed clip can be named, replayed and
tested. A draw may equal the identity; it is kept, as the sources keep it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

MODES = ("global_shuffle", "local_shuffle", "reverse", "jitter", "duplicate", "random_drop")
VARIANTS = ("paper", "official_code")
FILLS = ("remove", "blank")
WINDOW = 4
"""w: frames per window of the local shuffle."""
MAX_CHANGED = 3
"""Most frames that are duplicated or dropped."""
BLANK = -1
"""Index of a frame whose normalised pixels are zero (the mean colour of the data set)."""


@struct.dataclass
class PerturbationDraw:
    """Everything a perturbation needs to be applied; 0-based, int32."""

    order: Int[Array, "F"]
    """A permutation: the global shuffle; its first `count` entries are the dropped frames."""
    window_order: Int[Array, "F"]
    """A permutation that keeps every frame inside its window."""
    offsets: Int[Array, "F"]
    """-1, 0 or 1 for each frame."""
    frame: Int[Array, ""]
    """The duplicated frame."""
    count: Int[Array, ""]
    """n: frames inserted or dropped, 1 to min(3, F - 1)."""
    position: Int[Array, ""]
    """The copies stand before this frame; F appends them."""
    mode: str = struct.field(pytree_node=False)
    fill: str = struct.field(pytree_node=False)
    """What `random_drop` does: "remove" shortens the clip, "blank" keeps its length."""


def draw_perturbation(
    key: Array,
    num_frames: int,
    mode: str | None = None,
    variant: str = "paper",
    fill: str | None = None,
) -> PerturbationDraw:
    """Draws a perturbation of a clip of `num_frames` frames.

    Args:
      key: random key; the draw depends on nothing else. One key per video is the paper's habit,
        one per response the published code's.
      num_frames: F.
      mode: one of `MODES`; None draws one uniformly (not under a trace: the choice is a name).
      variant: "paper" or "official_code": whether copies may be appended after the last frame
        (the code) or not, and the default of `fill`.
      fill: "remove" (default of "paper") or "blank" (default of "official_code").

    Raises:
      ValueError: unknown `mode`, `variant` or `fill`, or fewer than two frames.

    Source: REWARDS.md section 7 (supplementary "Details of Temporal Degradation"; the published
    `internvl_module.py`).
    """
    _require("variant", variant, VARIANTS)
    fill = _default_fill(variant) if fill is None else fill
    _require("fill", fill, FILLS)
    if num_frames < 2:
        raise ValueError(f"a temporal perturbation needs at least 2 frames, got {num_frames}")
    if mode is None:
        mode = MODES[int(jax.device_get(_draw_mode(key)))]
    _require("mode", mode, MODES)
    return _draw(key, num_frames, variant).replace(mode=mode, fill=fill)


def apply_perturbation(num_frames: int, mode: str, draw: PerturbationDraw) -> Int[Array, "F"]:
    """Indices of the frames to show, in order.

    Args:
      num_frames: F, as in the draw.
      mode: one of `MODES`, usually `draw.mode`.
      draw: from `draw_perturbation`.

    Returns:
      int32 [F], `BLANK` (-1) for a blank frame; [F - n] for "random_drop" with fill "remove".

    Raises:
      ValueError: unknown `mode`, a draw for another number of frames, or "random_drop" with
        "remove" under a trace, where the length is unknown.

    Source: REWARDS.md section 7.
    """
    _require("mode", mode, MODES)
    if draw.order.shape != (num_frames,):
        raise ValueError(f"draw is for {draw.order.shape[0]} frames, not for {num_frames}")
    if mode == "random_drop" and draw.fill == "remove":
        if isinstance(draw.count, jax.core.Tracer):
            raise ValueError("random_drop with fill 'remove' cannot be traced: use fill 'blank'")
        return jnp.sort(draw.order[int(jax.device_get(draw.count)) :])
    return _apply(num_frames, mode, draw)


@functools.partial(jax.jit, static_argnames=("num_frames", "variant"))
def perturbation_indices(keys: Array, num_frames: int, variant: str = "paper") -> Int[Array, "N F"]:
    """Draws and applies one perturbation per key, all on the device, at a fixed length.

    Equal, key by key, to `draw_perturbation` with fill "blank" followed by `apply_perturbation`.

    Args:
      keys: [N] random keys.
      num_frames: F.
      variant: as `draw_perturbation`.

    Raises:
      ValueError: unknown `variant`, or fewer than two frames.
    """
    _require("variant", variant, VARIANTS)
    if num_frames < 2:
        raise ValueError(f"a temporal perturbation needs at least 2 frames, got {num_frames}")

    def one(key: Array) -> Array:
        draw = _draw(key, num_frames, variant)
        branches = [functools.partial(_apply, num_frames, mode) for mode in MODES]
        return jax.lax.switch(_draw_mode(key), branches, draw)

    return jax.vmap(one)(keys)


def _default_fill(variant: str) -> str:
    return "remove" if variant == "paper" else "blank"


def _require(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be one of {options}, got {value!r}")


@jax.jit
def _draw_mode(key: Array) -> Array:
    return jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(MODES))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: Array, num_frames: int, variant: str) -> PerturbationDraw:
    # One uniform draw per quantity, all from stream 1 (stream 0 is the mode's). float32 leaves a
    # bias of 1e-7 in the integers and no ties among so few frames.
    uniform = jax.random.uniform(jax.random.fold_in(key, 1), (3 * num_frames + 3,))
    rank, window_rank, offset, single = jnp.split(uniform, [num_frames * i for i in (1, 2, 3)])
    frames = jnp.arange(num_frames, dtype=jnp.int32)
    last_position = num_frames if variant == "official_code" else num_frames - 1

    def integer(draw: Array, lowest: int, highest: int) -> Array:
        number = jnp.floor(draw * (highest - lowest + 1)).astype(jnp.int32) + lowest
        return jnp.minimum(number, highest)

    return PerturbationDraw(
        order=jnp.argsort(rank).astype(jnp.int32),
        window_order=jnp.lexsort((window_rank, frames // WINDOW)).astype(jnp.int32),
        offsets=integer(offset, -1, 1),
        frame=integer(single[0], 0, num_frames - 1),
        count=integer(single[1], 1, min(MAX_CHANGED, num_frames - 1)),
        position=integer(single[2], 0, last_position),
        mode=MODES[0],
        fill="blank",
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(num_frames: int, mode: str, draw: PerturbationDraw) -> Array:
    frames = jnp.arange(num_frames, dtype=jnp.int32)
    is_dropped = jnp.zeros(num_frames, bool).at[draw.order].set(frames < draw.count)
    match mode:
        case "global_shuffle":
            return draw.order
        case "local_shuffle":
            return draw.window_order
        case "reverse":
            return frames[::-1]
        case "jitter":
            return jnp.clip(frames + draw.offsets, 0, num_frames - 1)
        case "random_drop":
            return jnp.where(is_dropped, BLANK, frames)
        case _:
            return _duplicate(frames, is_dropped, draw)


def _duplicate(frames: Array, is_dropped: Array, draw: PerturbationDraw) -> Array:
    """Inserts the copies and removes as many of the original slots."""
    copies = jnp.arange(MAX_CHANGED, dtype=jnp.int32)
    # Original slots stand at odd places, the copies at the even place before `position`; what is
    # not shown goes to the end.
    end = 2 * len(frames) + 1
    places = jnp.concatenate(
        [
            jnp.where(copies < draw.count, 2 * draw.position, end),
            jnp.where(is_dropped, end, 2 * frames + 1),
        ]
    )
    source = jnp.concatenate([jnp.full_like(copies, draw.frame), frames])
    return source[jnp.argsort(places, stable=True)][: len(frames)]
