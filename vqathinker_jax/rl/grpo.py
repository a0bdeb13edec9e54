"""Group advantages and the GRPO objective: pure, jit-compiled functions."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vqathinker_jax.metrics import masked_mean, masked_std

ADVANTAGE_SCALES = ("group", "batch", "none")
LOSS_TYPES = ("grpo", "dapo", "bnpo", "dr_grpo", "gspo")


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """The options of `group_advantages`, which says what each means.

    Raises:
      ValueError: an unknown option, or an `eps` that is not positive.
    """

    scale: str = "group"
    ddof: int = 1
    eps: float = 1e-4

    def __post_init__(self) -> None:
        if self.scale not in ADVANTAGE_SCALES:
            raise ValueError(f"scale must be one of {ADVANTAGE_SCALES}, got {self.scale!r}")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof must be one of (0, 1), got {self.ddof!r}")
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps}")


@struct.dataclass
class GrpoLoss:
    """The objective and two numbers that tell how far the policy has moved."""

    loss: Float[Array, ""]
    """To be minimised."""
    kl_token_mean: Float[Array, ""]
    """Mean k3 estimate per kept token, in nats; 0 without a reference."""
    clip_fraction: Float[Array, ""]
    """Share of the kept tokens whose gradient clipping removes."""


@functools.partial(jax.jit, static_argnames=("ddof", "eps", "scale"))
def group_advantages(
    rewards: Float[Array, "N K"], ddof: int = 1, eps: float = 1e-4, scale: str = "group"
) -> Float[Array, "N K"]:
    """Advantage of each response within its group.

    `A = (r - mean_k r) / (std + eps)`; no division with `scale="none"`.

    Args:
      rewards: of all K responses of a video, unparseable ones included.
      ddof: 1 (unbiased std) or 0. A std over too few rewards is 0.
      eps: added to the std.
      scale: "group": std of the group; "batch": one std over all N K rewards; "none".

    Returns:
      The advantages, without gradient; exactly 0 in a group of identical rewards.

    Raises:
      ValueError: unknown `scale` or `ddof`.

    Source: paper Eq. 2; eps and ddof as the published `grpo_trainer.py`; "none" is Dr. GRPO.
    """
    if scale not in ADVANTAGE_SCALES:
        raise ValueError(f"scale must be one of {ADVANTAGE_SCALES}, got {scale!r}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be one of (0, 1), got {ddof!r}")
    rewards = jax.lax.stop_gradient(jnp.asarray(rewards))
    everything = jnp.ones(rewards.shape, bool)
    # Centring on an element first keeps a group of equal rewards at exactly zero.
    shifted = rewards - rewards[:, :1]
    advantages = shifted - masked_mean(shifted, everything, axis=1, keepdims=True)
    if scale == "none":
        return advantages
    axis = 1 if scale == "group" else None
    return advantages / (masked_std(rewards, everything, axis, ddof, keepdims=True) + eps)


@functools.partial(
    jax.jit,
    static_argnames=("beta", "clip_low", "clip_high", "loss_type", "max_completion_length"),
)
def grpo_loss(
    logps: Float[Array, "*B C"],
    old_logps: Float[Array, "*B C"] | None,
    ref_logps: Float[Array, "*B C"] | None,
    mask: Bool[Array, "*B C"],
    advantages: Float[Array, "*B"],
    beta: float = 0.04,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    loss_type: str = "grpo",
    max_completion_length: int | None = None,
    num_tokens: Int[Array, ""] | int | None = None,
) -> GrpoLoss:
    """Clipped policy objective with a KL penalty towards the reference policy.

    `rho = exp(l - l_old)`, `kl = exp(l_ref - l) - (l_ref - l) - 1`,
    `L = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) + beta kl`, and with
    `n_b = sum_t mask`, B sequences:
      "grpo": `mean_b (sum_t L mask / max(n_b, 1))`;
      "gspo": as "grpo" with one ratio per sequence, `exp(sum_t (l - l_old) mask / max(n_b, 1))`;
      "bnpo": `sum L mask / max(sum_b n_b, 1)`, counted over this call;
      "dapo": as "bnpo", counted over `num_tokens`;
      "dr_grpo": `sum L mask / (B max_completion_length)`.

    Micro-batches of equal B: average the losses of "grpo", "gspo", "bnpo", "dr_grpo"; *add* those
    of "dapo" with `num_tokens`, which already divides by the whole batch.

    Args:
      logps: log-probabilities of the sampled tokens under the policy, nats; any leading axes.
      old_logps: under the policy that sampled them; None: `logps` without gradient (one update per
        batch), so that the ratio is 1 in value.
      ref_logps: under the reference policy; may be None when `beta` is 0.
      mask: True up to and including the first end-of-sequence token. Where it is False nothing
        has an influence on value or gradient, NaN and infinity included.
      advantages: one per sequence; no gradient flows into it.
      beta: weight of the KL penalty.
      clip_low, clip_high: how far the ratio may move below and above 1.
      loss_type: one of the five above.
      max_completion_length: needed by "dr_grpo".
      num_tokens: kept tokens of the global batch, all devices and accumulated micro-batches
        together; only "dapo" uses it, and without it counts this call.

    Returns:
      `GrpoLoss`; computed in float32 or wider. Log-ratios beyond +-60 (float32) or +-600 (float64)
      are taken at that bound, where sums of exponentials are still finite.

    Raises:
      ValueError: unknown `loss_type`, a missing `ref_logps` or `max_completion_length`, a negative
        `beta` or clip range, a mask that is not boolean, or shapes that do not fit.

    Source: paper Eq. 3, token level as the published `grpo_trainer.py`; TRL `GRPOTrainer`.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type must be one of {LOSS_TYPES}, got {loss_type!r}")
    if beta < 0 or clip_low < 0 or clip_high < 0:
        raise ValueError(f"beta={beta}, clip_low={clip_low}, clip_high={clip_high} must be >= 0")
    if beta > 0 and ref_logps is None:
        raise ValueError(f"beta={beta} needs ref_logps")
    if loss_type == "dr_grpo" and max_completion_length is None:
        raise ValueError("loss_type 'dr_grpo' needs max_completion_length")
    _require_shapes(logps, old_logps, ref_logps, mask, advantages)

    dtype = jnp.float64 if logps.dtype == jnp.float64 else jnp.float32
    # Masked entries are replaced before any arithmetic: a NaN behind a later `where` would still
    # reach the gradient.
    logps = jnp.where(mask, logps.astype(dtype), 0)
    advantages = jax.lax.stop_gradient(jnp.asarray(advantages).astype(dtype))[..., None]
    keep = mask.astype(dtype)
    length = keep.sum(-1, keepdims=True)

    log_ratio = logps - _fixed(logps if old_logps is None else old_logps, mask, dtype)
    if loss_type == "gspo":
        log_ratio = (log_ratio * keep).sum(-1, keepdims=True) / jnp.maximum(length, 1)
    ratio = jnp.exp(_bounded(log_ratio))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    token_loss = -jnp.minimum(ratio * advantages, clipped * advantages)
    token_loss = jnp.broadcast_to(token_loss, mask.shape)

    kl = jnp.zeros_like(logps)
    if ref_logps is not None:
        gap = _bounded(_fixed(ref_logps, mask, dtype) - logps)
        kl = jnp.expm1(gap) - gap
    if beta > 0:
        token_loss = token_loss + beta * kl

    token_loss = token_loss * keep
    num_kept = jnp.maximum(keep.sum(), 1)
    if loss_type in ("grpo", "gspo"):
        loss = (token_loss.sum(-1, keepdims=True) / jnp.maximum(length, 1)).mean()
    elif loss_type == "dr_grpo":
        loss = token_loss.sum() / (length.size * max_completion_length)
    elif loss_type == "bnpo" or num_tokens is None:
        loss = token_loss.sum() / num_kept
    else:
        loss = token_loss.sum() / jnp.maximum(jnp.asarray(num_tokens).astype(dtype), 1)

    # Reference quirk: the published code counts the tokens on which clipping is inactive; we count
    # those on which it acts.
    is_clipped = ((ratio < 1 - clip_low) & (advantages < 0)) | (
        (ratio > 1 + clip_high) & (advantages > 0)
    )
    return GrpoLoss(
        loss=loss,
        kl_token_mean=jax.lax.stop_gradient((kl * keep).sum() / num_kept),
        clip_fraction=(is_clipped & mask).sum().astype(dtype) / num_kept,
    )


def _require_shapes(logps, old_logps, ref_logps, mask, advantages) -> None:
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    shapes = {"old_logps": old_logps, "ref_logps": ref_logps, "mask": mask}
    for name, array in shapes.items():
        if array is not None and array.shape != logps.shape:
            raise ValueError(f"{name} must be {logps.shape} as logps, got {array.shape}")
    if advantages.shape != logps.shape[:-1]:
        raise ValueError(f"advantages must be {logps.shape[:-1]}, got {advantages.shape}")


def _fixed(logps: Array, mask: Array, dtype: DTypeLike) -> Array:
    """Log-probabilities of another policy: zero where masked, and without gradient."""
    return jax.lax.stop_gradient(jnp.where(mask, logps.astype(dtype), 0))


def _bounded(log_ratio: Array) -> Array:
    bound = 600.0 if log_ratio.dtype == jnp.float64 else 60.0
    return jnp.clip(log_ratio, -bound, bound)
