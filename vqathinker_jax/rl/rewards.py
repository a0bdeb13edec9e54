"""VQAThinker's rewards: format, regression, ranking and temporal consistency.

Pure, jit-compiled functions of [N, K] arrays over the global batch (N videos, K responses each),
in the dtype of the scores. `valid` marks the responses a score could be read from; every reward
of the others is 0, they enter no statistic, and what their score holds has no influence. Scores
beyond a sixteenth of the dtype's largest number count as that bound.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from vqathinker_jax.metrics import masked_mean, masked_std
from vqathinker_jax.rl.answers import FALLBACKS

REGRESSION_VARIANTS = ("paper", "official_code", "written_decimals")
TEMPORAL_VARIANTS = ("gated", "paper", "official_code")
TOTAL_VARIANTS = ("default", "paper", "official_code")
PARTNERS = ("all", "one")


@dataclasses.dataclass(frozen=True)
class RewardWeights:
    """Weight of each term in the total; 0 drops the term."""

    format: float = 1.0
    regression: float = 1.0
    ranking: float = 1.0
    temporal: float = 1.0


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """The options of `total_reward`, which says what each means.

    Raises:
      ValueError: an unknown option, or a number out of range.
    """

    variant: str = "default"
    sigma: float = 0.5
    alpha: float = 0.8
    ddof: int = 1
    eps: float = 1e-6
    delta: float = 0.3
    tau: float = 0.5
    gate_regression: float = 0.9
    gate_ranking: float = 0.5
    weights: RewardWeights = RewardWeights()
    partners: str = "all"
    """Whom a video is ranked against: `all` others, or `one` of them, drawn each step."""
    fallback: str = "none"
    """What is read of a response without an answer block: nothing, or the first number of its
    `whole_text`, as the published code does."""

    def __post_init__(self) -> None:
        require_option("variant", self.variant, TOTAL_VARIANTS)
        require_option("partners", self.partners, PARTNERS)
        require_option("fallback", self.fallback, FALLBACKS)
        require_option("ddof", self.ddof, (0, 1))
        for name in ("sigma", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@struct.dataclass
class RewardTerms:
    """The terms of the total reward before weighting, and the weighted total."""

    format: Float[Array, "N K"]
    regression: Float[Array, "N K"]
    ranking: Float[Array, "N K"]
    temporal: Float[Array, "N K"]
    total: Float[Array, "N K"]


def require_option(name: str, value: object, options: tuple) -> None:
    """Raises ValueError naming the valid values when `value` is none of them."""
    # Only hashable scalars are options; an array among them would compare elementwise.
    if not isinstance(value, (str, int)) or value not in options:
        raise ValueError(f"{name} must be one of {options}, got {value!r}")


def clean_scores(
    scores: Float[Array, "N K *D"], valid: Bool[Array, "N K"]
) -> tuple[Float[Array, "N K *D"], Bool[Array, "N K"]]:
    """Scores that no later step can turn into NaN, and the mask of those that are usable.

    NaN is unparseable; infinities (a literal beyond the dtype) and values beyond max / 16 become
    plus or minus max / 16, so that differences and sums of them stay finite.

    Raises:
      ValueError: `scores` is not floating point, or `valid` is not boolean [N, K].
    """
    scores, valid = jnp.asarray(scores), jnp.asarray(valid)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating point, got {scores.dtype}")
    if valid.dtype != jnp.bool_ or valid.ndim != 2 or valid.shape != scores.shape[:2]:
        raise ValueError(
            f"valid must be bool [N, K] for scores {scores.shape}, got {valid.dtype} {valid.shape}"
        )
    trailing = (1,) * (scores.ndim - 2)
    valid = valid & ~jnp.isnan(scores).reshape(*valid.shape, -1).any(-1)
    bound = float(jnp.finfo(scores.dtype).max) / 16
    kept = jnp.where(valid.reshape(*valid.shape, *trailing), scores, 0)
    return jnp.clip(kept, -bound, bound), valid


def column(gt: Float[Array, "N"], scores: Float[Array, "N K *D"]) -> Float[Array, "N"]:
    """The ground truth in the dtype of the scores; raises ValueError unless it is [N]."""
    gt = jnp.asarray(gt)
    if gt.shape != scores.shape[:1]:
        raise ValueError(f"gt must be [N] = {scores.shape[:1]}, got {gt.shape}")
    return gt.astype(scores.dtype)


def format_reward(
    format_ok: Bool[Array, "N K"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "N K"]:
    """`1` where the response is well formed, else `0`. Source: paper Eq. 4."""
    return jnp.asarray(format_ok).astype(dtype)


@functools.partial(jax.jit, static_argnames="sigma")
def bell(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    sigma: float = 0.5,
) -> Float[Array, "N K"]:
    """`exp(-(s - g)^2 / (2 sigma^2))`, 0 where unparseable. Source: paper Eq. 5.

    Raises:
      ValueError: `sigma` is not positive, or a shape or dtype is wrong (`clean_scores`, `column`).
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    scores, valid = clean_scores(scores, valid)
    offset = (scores - column(gt, scores)[:, None]) / sigma
    return jnp.where(valid, jnp.exp(-jnp.square(offset) / 2), 0)


@functools.partial(jax.jit, static_argnames=("sigma", "alpha", "variant"))
def regression_reward(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    sigma: float = 0.5,
    alpha: float = 0.8,
    variant: str = "paper",
    decimals: Int[Array, "N K"] | None = None,
) -> Float[Array, "N K"]:
    """Bell-shaped reward for a score near the ground truth.

    `alpha * bell` ("paper"), or `bell * (alpha if decimals < 2 else 1)` (the others).

    Args:
      scores: scores read from the responses, on the scale of `gt`.
      valid: True where the response is parseable.
      gt: opinion score of each video.
      sigma: width of the bell, in score units.
      alpha: factor of the paper, or of coarse predictions.
      variant: "paper"; "official_code", with `decimals` counted after trimming
        (`Answer.decimals_trimmed`); "written_decimals", with `Answer.decimals`.
      decimals: fraction digits; needed by the last two variants, unused by "paper".

    Returns:
      In [0, max(alpha, 1)]; 0 where unparseable.

    Raises:
      ValueError: unknown `variant`, missing `decimals`, wrong shape or dtype, `sigma` <= 0.

    Source: paper Eq. 5; `regression_reward` of the published `grpo_jsonl.py`.
    """
    require_option("variant", variant, REGRESSION_VARIANTS)
    reward = bell(scores, valid, gt, sigma)
    if variant == "paper":
        return alpha * reward
    if decimals is None or jnp.shape(decimals) != reward.shape:
        raise ValueError(
            f"variant {variant!r} needs decimals of shape {reward.shape}, got "
            f"{None if decimals is None else jnp.shape(decimals)}"
        )
    # Reference quirk: the published code counts decimals of the float's text, so 3.50 is coarse.
    # The caller chooses by passing `decimals_trimmed` or `decimals`; the formula is the same.
    return jnp.where(jnp.asarray(decimals) < 2, alpha * reward, reward)


def ranking_reward(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    partners: str | Int[Array, "N"] = "all",
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Array, "N K"]:
    """Pairwise ranking reward: does a score stand on the right side of other videos' means?

    For video i against j, with mean and variance over parseable responses,
    `z = (s[i,k] - mean_j) / sqrt(var_i + var_j + eps)`, `p = Phi(z)`, `t = [g_i > g_j]` (0.5 if
    equal), `pair = sqrt(p t + eps) + sqrt((1-p)(1-t) + eps)`.

    Args:
      scores, valid, gt: as `regression_reward`.
      partners: "all": the mean over every other usable video; an integer array: the one partner
        of each video. A partner that is the video itself or has no parseable response is unusable.
      ddof: 1 (unbiased variance) or 0.
      eps: constant under each root.

    Returns:
      In [2 sqrt(eps), about 1]; 0 where unparseable or without a usable partner.

    Raises:
      ValueError: unknown `partners` or `ddof`, wrong shape or dtype, a partner outside 0..N-1
        (only checked for concrete arrays; under a trace it is unusable).

    Source: paper Eq. 6; `rank_reward` of the published `grpo_jsonl.py`.
    """
    require_option("ddof", ddof, (0, 1))
    num_videos = jnp.shape(scores)[0]
    if isinstance(partners, str):
        require_option("partners", partners, ("all",))
        return _ranking(scores, valid, gt, None, ddof, eps)
    if jnp.shape(partners) != (num_videos,) or not jnp.issubdtype(
        jnp.asarray(partners).dtype, jnp.integer
    ):
        raise ValueError(f"partners must be 'all' or an integer array [N] = ({num_videos},)")
    if not isinstance(partners, jax.core.Tracer):
        indices = np.asarray(jax.device_get(partners))
        if ((indices < 0) | (indices >= num_videos)).any():
            raise ValueError(f"partners must be in 0..{num_videos - 1}, got {indices.tolist()}")
    return _ranking(scores, valid, gt, jnp.asarray(partners), ddof, eps)


def draw_partners(key: Key[Array, ""], num_videos: int) -> Int[Array, "N"]:
    """One other video for each, uniformly; at least two videos."""
    shift = jax.random.randint(key, (num_videos,), 1, num_videos)
    return (jnp.arange(num_videos) + shift) % num_videos


@functools.partial(jax.jit, static_argnums=(4, 5))
def _ranking(scores, valid, gt, partners, ddof, eps):
    scores, valid = clean_scores(scores, valid)
    gt = column(gt, scores)
    num_videos = scores.shape[0]

    # The mean is kept as an element plus an offset and only ever subtracted in that form: rounding
    # it would be amplified a thousandfold when the variances vanish.
    first = jnp.argmax(valid, axis=1)
    anchor = jnp.take_along_axis(scores, first[:, None], axis=1)[:, 0]
    offset = masked_mean(scores - anchor[:, None], valid, axis=1)
    std = masked_std(scores, valid, axis=1, ddof=ddof)

    this = jnp.arange(num_videos)[:, None]
    if partners is None:
        other = jnp.broadcast_to(this.T, (num_videos, num_videos))  # [N, N]: j is every video
    else:
        other = partners.astype(this.dtype)[:, None]  # [N, 1]: j is the one partner
    inside = (other >= 0) & (other < num_videos)
    usable = inside & valid.any(axis=1)[other] & (other != this)

    # sqrt(var_i + var_j + eps) without squaring large deviations.
    floor = float(np.sqrt(eps))
    largest = jnp.maximum(jnp.maximum(std[:, None], std[other]), floor)
    squares = jnp.square(std[:, None] / largest) + jnp.square(std[other] / largest)
    spread = largest * jnp.sqrt(squares + jnp.square(floor / largest))

    distance = (scores[:, :, None] - anchor[other][:, None]) - offset[other][:, None]
    # Phi is 0 or 1 to the last bit beyond 40, and a finite z keeps it from meeting infinity.
    z = jnp.clip(distance / spread[:, None], -40, 40)
    truth = (jnp.sign(gt[:, None] - gt[other]) + 1)[:, None] / 2
    # 1 - p is taken as Phi(-z), because the root amplifies the rounding of the difference.
    win, lose = jax.scipy.special.ndtr(z), jax.scipy.special.ndtr(-z)
    pair = jnp.sqrt(win * truth + eps) + jnp.sqrt(lose * (1 - truth) + eps)

    reward = masked_mean(pair, jnp.broadcast_to(usable[:, None], pair.shape), axis=2)
    return jnp.where(valid, reward, 0)


@functools.partial(jax.jit, static_argnames=("delta", "tau", "gate", "variant"))
def temporal_reward(
    reward: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    reward_perturbed: Float[Array, "N J"],
    valid_perturbed: Bool[Array, "N J"],
    *,
    delta: float = 0.3,
    tau: float = 0.5,
    gate: float = 0.5,
    gate_value: Float[Array, "N K"] | None = None,
    variant: str = "gated",
) -> Float[Array, "N K"]:
    """Bonus of one term (regression or ranking) for doing no worse than on perturbed videos.

    With means over parseable responses:
      "gated": `delta [mean_k r >= mean_k r~] [gate_value > gate]`, means per video;
      "paper": `delta [mean_k r >= mean_k r~] [mean_k r > tau]`, means per video;
      "official_code": `delta [mean r >= mean r~] [r > gate]`, means over the whole batch.

    Warning: "paper" gives all parseable responses of a video the same bonus, which the advantage
    removes again by its centring: unless some response is unparseable, training is not influenced.

    Args:
      reward, valid: the term on the raw videos and its parseable responses.
      reward_perturbed, valid_perturbed: the same on the perturbed videos; J may differ from K.
      delta: size of the bonus.
      tau: threshold of "paper".
      gate: threshold of the other two (0.5 for ranking, 0.9 for regression).
      gate_value: what "gated" compares with `gate`; default `reward`. The regression term passes
        `bell`.
      variant: one of the three above.

    Returns:
      0 or `delta`; 0 where unparseable, and everywhere a mean is over nothing.

    Raises:
      ValueError: unknown `variant`, or the arrays do not fit together.

    Source: paper Eqs. 8-9; the published `grpo_trainer.py`; "gated" is REWARDS.md 3.4.
    """
    require_option("variant", variant, TEMPORAL_VARIANTS)
    reward, reward_perturbed = jnp.asarray(reward), jnp.asarray(reward_perturbed)
    reward_perturbed = reward_perturbed.astype(reward.dtype)
    if reward.shape[:1] != reward_perturbed.shape[:1]:
        raise ValueError(
            f"rewards of {reward.shape} raw, {reward_perturbed.shape} perturbed videos"
        )
    axis = None if variant == "official_code" else 1
    mean, some = _order_free_mean(reward, valid, axis)
    mean_perturbed, some_perturbed = _order_free_mean(reward_perturbed, valid_perturbed, axis)
    no_worse = some & some_perturbed & (mean >= mean_perturbed)
    if variant == "paper":
        passed = jnp.broadcast_to(mean > tau, reward.shape)
    elif variant == "official_code" or gate_value is None:
        passed = reward > gate
    else:
        if jnp.shape(gate_value) != reward.shape:
            raise ValueError(f"gate_value must be {reward.shape}, got {jnp.shape(gate_value)}")
        passed = jnp.asarray(gate_value) > gate
    return jnp.where(valid & no_worse & passed, jnp.asarray(delta, reward.dtype), 0)


def _order_free_mean(reward: Array, valid: Array, axis: int | None) -> tuple[Array, Array]:
    """Mean over parseable responses [N, 1] (or [1, 1]), and whether there was any.

    Sorted first, so that the same values in another order give the same bits: the two means are
    compared without a tolerance, and a tie must not depend on the order.
    """
    if axis is None:
        reward, valid = reward.reshape(1, -1), valid.reshape(1, -1)
    ordered = jnp.sort(jnp.where(valid, reward, jnp.inf), axis=1)
    kept = jnp.arange(ordered.shape[1]) < valid.sum(1, keepdims=True)
    return masked_mean(ordered, kept, 1, keepdims=True), valid.any(1, keepdims=True)


def total_reward(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    format_ok: Bool[Array, "N K"],
    scores_perturbed: Float[Array, "N J"] | None = None,
    valid_perturbed: Bool[Array, "N J"] | None = None,
    *,
    decimals: Int[Array, "N K"] | None = None,
    decimals_perturbed: Int[Array, "N J"] | None = None,
    partners: str | Int[Array, "N"] = "all",
    sigma: float = 0.5,
    alpha: float = 0.8,
    ddof: int = 1,
    eps: float = 1e-6,
    delta: float = 0.3,
    tau: float = 0.5,
    gate_regression: float = 0.9,
    gate_ranking: float = 0.5,
    weights: RewardWeights = RewardWeights(),
    variant: str = "default",
) -> RewardTerms:
    """Weighted sum of the format, regression, ranking and temporal rewards.

    `r = w_f R_fmt + w_g R_reg + w_k R_rank + w_t R_temp`, all weights 1 by default.

    Args:
      scores, valid, gt, partners, sigma, alpha, ddof, eps: as the rewards of each term.
      format_ok: True where the response is well formed.
      scores_perturbed, valid_perturbed: scores of the responses to the temporally perturbed
        videos, ranked among themselves; without them the temporal term is 0.
      decimals, decimals_perturbed: trimmed fraction digits; needed by "official_code".
      delta, tau: as `temporal_reward`.
      gate_regression, gate_ranking: `gate` of the two temporal bonuses.
      weights: factors of the terms.
      variant: "default" (the paper's regression, gated temporal reward), "paper" or
        "official_code" (regression and temporal reward of that source).

    Raises:
      ValueError: unknown `variant`, or what the terms raise.

    Source: paper Eq. 10.
    """
    require_option("variant", variant, TOTAL_VARIANTS)
    if (scores_perturbed is None) != (valid_perturbed is None):
        raise ValueError("scores_perturbed and valid_perturbed come together")
    regression_variant = "official_code" if variant == "official_code" else "paper"
    temporal_variant = "gated" if variant == "default" else variant

    def terms(scores, valid, decimals):
        regression = regression_reward(
            scores, valid, gt, sigma, alpha, regression_variant, decimals
        )
        return regression, ranking_reward(scores, valid, gt, partners, ddof, eps)

    regression, ranking = terms(scores, valid, decimals)
    temporal = jnp.zeros_like(regression)
    if scores_perturbed is not None:
        perturbed = terms(scores_perturbed, valid_perturbed, decimals_perturbed)
        # A score that is no number is masked here as it is in the terms.
        usable = clean_scores(scores, valid)[1]
        usable_perturbed = clean_scores(scores_perturbed, valid_perturbed)[1]
        values = (bell(scores, valid, gt, sigma), ranking)
        gates = (gate_regression, gate_ranking)
        for reward, other, value, gate in zip(
            (regression, ranking), perturbed, values, gates, strict=True
        ):
            temporal = temporal + temporal_reward(
                reward,
                usable,
                other,
                usable_perturbed,
                delta=delta,
                tau=tau,
                gate=gate,
                gate_value=value,
                variant=temporal_variant,
            )
    well_formed = format_reward(format_ok, regression.dtype)
    if well_formed.shape != regression.shape:
        raise ValueError(f"format_ok must be {regression.shape}, got {well_formed.shape}")
    total = (
        weights.format * well_formed
        + weights.regression * regression
        + weights.ranking * ranking
        + weights.temporal * temporal
    )
    return RewardTerms(well_formed, regression, ranking, temporal, total)
