"""Rewards of the methods VQAThinker is compared with.

PreResQ-R1, VisualQuality-R1, Q-Insight and VQ-Insight, under the conventions of `rl/rewards.py`:
arrays of the global batch in, arrays out, 0 for what is unparseable.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vqathinker_jax.metrics import masked_mean, masked_std
from vqathinker_jax.rl.rewards import (
    clean_scores,
    column,
    format_reward,
    ranking_reward,
    require_option,
)

PRERES_TASKS = ("vqa", "iqa")
PRERES_VARIANTS = ("default", "official_code")
PRERES_STAGES = (1, 2)
PRERES_TIES = ("published", "symmetric")
PRERES_MATCHES = ("index", "order")


@struct.dataclass
class PreresTerms:
    """The terms of PreResQ-R1 before weighting, their weighted sum, and the total."""

    penalty: Float[Array, "N K"]
    """P: too little spread between the scores of a response (subtracted); 0 in stage 2."""
    balance: Float[Array, "N K"]
    """T: agreement within triples of a video's responses."""
    pairwise: Float[Array, "N K"]
    """Q: score and rank against every other video."""
    triplet: Float[Array, "N K"]
    """U: order within triples of videos."""
    in_group: Float[Array, "N K"]
    """G: rank of the ground truth among the responses; 0 for videos."""
    quality: Float[Array, "N K"]
    total: Float[Array, "N K"]
    """`quality` plus the format reward."""


@functools.partial(jax.jit, static_argnames=("task", "variant", "stage", "ties", "match"))
def preres_rewards(
    scores: Float[Array, "N K D"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    task: str = "vqa",
    variant: str = "default",
    stage: int = 1,
    format_ok: Bool[Array, "N K"] | None = None,
    ties: str = "published",
    match: str = "index",
) -> PreresTerms:
    """All terms of PreResQ-R1.

    `quality = 0.375 Q - P + 0.5 (0.5 T) + 0.125 U` for videos, and
    `(0.375 Q - P + 0.5 (0.5 T) + 0.125 U + G) / 3` for images; `total = quality + format`.

    Args:
      scores: the D scores of each response (2 for videos, 5 for images), on the scale of `gt`.
      valid: True where all D could be read.
      gt: opinion score of each video.
      task: "vqa" or "iqa".
      variant: "default": all D scores enter the balance; "official_code": of images only the
        first four.
      stage: 1: the penalty P is on; 2: off.
      format_ok: True where well formed; without it the total is `quality`.
      ties: "published" compares `>` in U; "symmetric" the sign.
      match: which responses of other videos U compares: "index", the same k; "order", the order
        statistic as in Q.

    Raises:
      ValueError: unknown option, wrong shape or dtype.

    Source: REWARDS.md section 8; the published `grpo_preres_{IQA,VQA}_r1.py`.
    """
    require_option("task", task, PRERES_TASKS)
    require_option("variant", variant, PRERES_VARIANTS)
    require_option("stage", stage, PRERES_STAGES)
    require_option("ties", ties, PRERES_TIES)
    require_option("match", match, PRERES_MATCHES)
    scores, valid = clean_scores(scores, valid)
    if scores.ndim != 3:
        raise ValueError(f"scores must be [N, K, D], got {scores.shape}")
    gt = column(gt, scores)
    everything = jnp.ones(scores.shape, bool)
    # Sorted first: the same scores in another order must tie.
    p = masked_mean(jnp.sort(scores, axis=2), everything, axis=2)
    zeros = jnp.zeros_like(p)

    penalty = zeros
    if stage == 1:
        spread = masked_std(scores, everything, axis=2, ddof=0)
        penalty = jnp.where(valid, 0.5 * jnp.maximum(0.5 - spread, 0), 0)
    # Reference quirk: the published image script balances the first four of the five scores.
    num_dims = 4 if task == "iqa" and variant == "official_code" else scores.shape[2]
    balance = triplet_balance(scores[:, :, :num_dims], valid)
    pairwise = _pairwise(p, valid, gt)
    triplet = _triplet(p, valid, gt, ties, match)
    in_group = _in_group(p, valid, gt) if task == "iqa" else zeros
    # Reference quirk: two factors of 0.5 on the balance term in the published code.
    quality = 0.375 * pairwise - penalty + 0.5 * (0.5 * balance) + 0.125 * triplet
    if task == "iqa":
        quality = (quality + in_group) / 3
    total = quality if format_ok is None else quality + format_reward(format_ok, quality.dtype)
    return PreresTerms(penalty, balance, pairwise, triplet, in_group, quality, total)


def triplet_balance(
    scores: Float[Array, "N K D"], valid: Bool[Array, "N K"]
) -> Float[Array, "N K"]:
    """Share of a response's triples and dimensions in which it is near the middle score.

    Over every 3-subset of a video's parseable responses and every dimension, a response gains 1
    if it is the median or strictly within 0.05 of it. In [0, 1]; 0 with fewer than 3 responses.

    Source: REWARDS.md 8.2.
    """
    num_videos, num_responses, num_dims = scores.shape
    triples = np.array(list(itertools.combinations(range(num_responses), 3)), np.int32)
    if len(triples) == 0:
        return jnp.zeros((num_videos, num_responses), scores.dtype)
    values = scores[:, triples]  # [N, M, 3, D]
    median = jnp.sort(values, axis=2)[:, :, 1:2]
    near = jnp.abs(values - median) < 0.05  # the median itself is at distance 0
    usable = valid[:, triples].all(-1)  # [N, M]
    gain = jnp.where(usable[:, :, None], near.sum(-1), 0)  # [N, M, 3]
    member = triples[:, :, None] == np.arange(num_responses)  # [M, 3, K]
    gained = jnp.where(member, gain[..., None], 0).sum((1, 2))
    count = (usable[:, :, None] & member.any(1)).sum(1)
    share = gained.astype(scores.dtype) / jnp.maximum(count * num_dims, 1).astype(scores.dtype)
    return jnp.where(valid & (count > 0), share, 0)


def _order_statistics(p: Array, valid: Array) -> tuple[Array, Array]:
    """Parseable scores in ascending order [N, K] (rest: padding), and each response's place."""
    order = jnp.argsort(jnp.where(valid, p, jnp.inf), axis=1, stable=True)
    return jnp.take_along_axis(p, order, axis=1), jnp.argsort(order, axis=1)


def _partners_by_order(p: Array, valid: Array) -> Array:
    """Score of video z that matches response k of video i by order statistic, [N, K, N]."""
    ordered, place = _order_statistics(p, valid)
    count = valid.sum(1)
    # Statistic q of K_i is matched with statistic floor(q K_z / K_i) of K_z.
    index = place[:, :, None] * count[None, None, :] // jnp.maximum(count, 1)[:, None, None]
    index = jnp.minimum(index, p.shape[1] - 1)
    return ordered[jnp.arange(len(p)), index]


def _others(valid: Array) -> Array:
    """[N, N]: z is another video than i with a parseable response."""
    return valid.any(1)[None, :] & ~jnp.eye(len(valid), dtype=bool)


def _pairwise(p: Array, valid: Array, gt: Array) -> Array:
    a, b = p[:, :, None], _partners_by_order(p, valid)
    g, h = gt[:, None, None], gt[None, None, :]
    agree = jnp.sign(a - b) == jnp.sign(g - h)
    distance = jnp.abs(g - h)
    total = distance + jnp.abs(a - g) + jnp.abs(b - h)
    share = jnp.where(total > 0, distance / jnp.where(total > 0, total, 1), 1)
    # Reference quirk: on a wrong order the reward grows with the error of the prediction.
    term = jnp.sqrt(jnp.where(agree, share, 1 - share))
    usable = jnp.broadcast_to(_others(valid)[:, None], term.shape)
    return jnp.where(valid, masked_mean(term, usable, axis=2), 0)


def _triplet(p: Array, valid: Array, gt: Array, ties: str, match: str) -> Array:
    num_videos = len(gt)
    others = _others(valid)
    if match == "order":
        partner = _partners_by_order(p, valid)
        usable = jnp.broadcast_to(others[:, None], partner.shape)
    else:
        partner = jnp.broadcast_to(p.T[None], (num_videos, *p.T.shape))
        usable = others[:, None] & valid.T[None]

    def relation(x: Array) -> Array:
        # Reference quirk: `>` treats a tie as its reverse, whichever way round it is asked.
        return jnp.sign(x) if ties == "symmetric" else x > 0

    earlier = jnp.arange(num_videos)[:, None] < jnp.arange(num_videos)[None, :]
    true_pair = relation(gt[:, None] - gt[None, :])  # [x, y]

    def one_video(inputs: tuple) -> Array:
        p_i, g_i, partner_i, usable_i = inputs  # [K], [], [K, N], [K, N]
        own = relation(p_i[:, None] - partner_i) == relation(g_i - gt)[None]
        pair = relation(partner_i[:, :, None] - partner_i[:, None, :]) == true_pair
        own = own.astype(jnp.int32)
        hits = own[:, :, None] + pair.astype(jnp.int32) + own[:, None, :]
        kept = usable_i[:, :, None] & usable_i[:, None, :] & earlier
        num_pairs = kept.sum((1, 2))
        mean = jnp.where(kept, hits, 0).sum((1, 2)) / jnp.maximum(3 * num_pairs, 1)
        return mean.astype(p.dtype)

    # One video at a time: all at once would be an [N, K, N, N] array.
    mean = jax.lax.map(one_video, (p, gt, partner, usable))
    return jnp.where(valid, mean, 0)


def _in_group(p: Array, valid: Array, gt: Array) -> Array:
    g = gt[:, None]
    below = (valid[:, None, :] & (p[:, None, :] < p[:, :, None])).sum(2)
    below = jnp.where(g < p, below + 1, below)
    place = (valid & (p <= g)).sum(1, keepdims=True)
    distance = jnp.abs(below - place).astype(p.dtype)
    reward = jnp.exp(-distance / (valid.sum(1, keepdims=True) + 1).astype(p.dtype))
    return jnp.where(valid, jnp.where(jnp.abs(p - g) < 0.02, 1, reward), 0)


def visualquality_rewards(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    format_ok: Bool[Array, "N K"],
) -> Float[Array, "N K"]:
    """VisualQuality-R1's total: the ranking reward over all partners plus the format reward.

    Arguments and errors as `rewards.ranking_reward`. Source: REWARDS.md section 9.
    """
    ranking = ranking_reward(scores, valid, gt)
    return ranking + format_reward(format_ok, ranking.dtype)


@functools.partial(jax.jit, static_argnames="threshold")
def qinsight_score_reward(
    scores: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N"],
    threshold: float = 0.35,
) -> Float[Array, "N K"]:
    """Q-Insight's score reward, `[|s - g| < threshold]`.

    Args:
      scores, valid, gt: as `rewards.regression_reward`; scores from `answers.parse_rating`.
      threshold: in score units.

    Source: REWARDS.md section 10; the published `qinsight_multi_task.py`.
    """
    scores, valid = clean_scores(scores, valid)
    near = jnp.abs(scores - column(gt, scores)[:, None]) < threshold
    return (valid & near).astype(scores.dtype)


@jax.jit
def qinsight_degradation_reward(
    distortion: Int[Array, "N K"],
    severity: Int[Array, "N K"],
    valid: Bool[Array, "N K"],
    gt_distortion: Int[Array, "N"],
    gt_severity: Int[Array, "N"],
) -> Float[Array, "N K"]:
    """Q-Insight's degradation reward: 0.25 for the distortion, 1 for distortion and severity.

    Args:
      distortion, severity: numbers standing for the names in the response
        (`answers.parse_degradation`); equal numbers for equal names.
      valid: True where both names could be read.
      gt_distortion, gt_severity: the numbers of the labels.

    Returns:
      0 with a wrong distortion even if the severity is right; float32.

    Source: REWARDS.md section 10; the published `qinsight_multi_task.py`.
    """
    right_class = valid & (distortion == jnp.asarray(gt_distortion)[:, None])
    right_level = right_class & (severity == jnp.asarray(gt_severity)[:, None])
    return 0.25 * right_class.astype(jnp.float32) + 0.75 * right_level.astype(jnp.float32)


@jax.jit
def qinsight_comparison_reward(
    choices: Int[Array, "N K"], valid: Bool[Array, "N K"], gt: Int[Array, "N"]
) -> Float[Array, "N K"]:
    """1 where the answer equals the label, else 0 (Q-Insight and VQ-Insight comparisons).

    Args:
      choices: numbers standing for the answers (`answers.parse_choice`), equal for equal text.
      valid: True where there was an answer.
      gt: the numbers of the labels.

    Returns:
      float32.

    Source: REWARDS.md sections 10 and 11; the published `qinsight_comparison.py`.
    """
    return (valid & (choices == jnp.asarray(gt)[:, None])).astype(jnp.float32)


@struct.dataclass
class VqinsightTerms:
    """The terms of VQ-Insight and their sum."""

    score: Float[Array, "N K"]
    temporal: Float[Array, "N K"]
    length: Float[Array, "N K"]
    format: Float[Array, "N K"]
    total: Float[Array, "N K"]


@jax.jit
def vqinsight_score(
    scores: Float[Array, "N K *D"], valid: Bool[Array, "N K"], gt: Float[Array, "N *D"]
) -> Float[Array, "N K"]:
    """VQ-Insight's relative L1 reward, `1 - clip((|s - g| + 1e-9) / (|g| + 1e-9), 0, 1)`.

    Args:
      scores: one score per response, or D of them (the mean over the dimensions is taken).
      valid: True where all could be read.
      gt: the ground truth of each.

    Returns:
      In [0, 1].

    Raises:
      ValueError: `gt` does not fit the scores.

    Source: REWARDS.md section 11; the published `grpo.py`.
    """
    scores, valid = clean_scores(scores, valid)
    gt = jnp.asarray(gt).astype(scores.dtype)
    if gt.shape != scores.shape[:1] + scores.shape[2:]:
        raise ValueError(f"gt {gt.shape} does not fit scores {scores.shape}")
    gt = jnp.expand_dims(gt, 1)
    relative = (jnp.abs(scores - gt) + 1e-9) / (jnp.abs(gt) + 1e-9)
    reward = 1 - jnp.clip(relative, 0, 1)
    if scores.ndim == 3:
        reward = reward.mean(2)
    return jnp.where(valid, reward, 0)


@functools.partial(jax.jit, static_argnames=("ratio", "floor", "bonus"))
def vqinsight_temporal(
    reward: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    reward_shuffled: Float[Array, "N J"],
    valid_shuffled: Bool[Array, "N J"],
    ratio: float = 0.8,
    floor: float = 0.1,
    bonus: float = 0.3,
) -> Float[Array, "N K"]:
    """VQ-Insight's temporal bonus: `bonus [mean_k a >= ratio mean_k a~] [a > floor]`.

    Means per video over parseable responses; no bonus when either is over nothing.

    Args:
      reward, valid: `vqinsight_score` of the raw videos.
      reward_shuffled, valid_shuffled: the same of the frame-shuffled videos, J = K // 2.
      ratio, floor, bonus: the constants of the formula.

    Source: REWARDS.md section 11; the published `grpo_trainer_score.py`.
    """
    mean = masked_mean(reward, valid, axis=1)
    mean_shuffled = masked_mean(reward_shuffled, valid_shuffled, axis=1)
    better = valid.any(1) & valid_shuffled.any(1) & (mean >= ratio * mean_shuffled)
    return jnp.where(better[:, None] & valid & (reward > floor), bonus, 0).astype(reward.dtype)


@functools.partial(jax.jit, static_argnames=("shortest", "longest", "floor", "bonus"))
def vqinsight_length(
    reward: Float[Array, "N K"],
    valid: Bool[Array, "N K"],
    num_tokens: Int[Array, "N K"],
    shortest: int = 320,
    longest: int = 512,
    floor: float = 0.1,
    bonus: float = 0.2,
) -> Float[Array, "N K"]:
    """VQ-Insight's length bonus for good responses of `shortest` to `longest` tokens.

    Given only where more than one response of the video has `a > floor`, and to those alone.

    Args:
      reward, valid: `vqinsight_score`.
      num_tokens: length of each response.
      shortest, longest: inclusive bounds.
      floor, bonus: the constants.

    Source: REWARDS.md section 11; the published `grpo_trainer_score.py`.
    """
    good = valid & (reward > floor)
    fits = (num_tokens >= shortest) & (num_tokens <= longest)
    several = good.sum(1, keepdims=True) > 1
    return jnp.where(good & fits & several, bonus, 0).astype(reward.dtype)


def vqinsight_rewards(
    scores: Float[Array, "N K *D"],
    valid: Bool[Array, "N K"],
    gt: Float[Array, "N *D"],
    format_ok: Bool[Array, "N K"],
    scores_shuffled: Float[Array, "N J *D"],
    valid_shuffled: Bool[Array, "N J"],
    num_tokens: Int[Array, "N K"],
) -> VqinsightTerms:
    """VQ-Insight's total, `score + temporal + length + format`, with the published constants.

    Arguments as of the terms. Source: REWARDS.md section 11.
    """
    score = vqinsight_score(scores, valid, gt)
    shuffled = vqinsight_score(scores_shuffled, valid_shuffled, gt)
    usable = clean_scores(scores, valid)[1]
    usable_shuffled = clean_scores(scores_shuffled, valid_shuffled)[1]
    temporal = vqinsight_temporal(score, usable, shuffled, usable_shuffled)
    length = vqinsight_length(score, usable, num_tokens)
    well_formed = format_reward(format_ok, score.dtype)
    total = score + temporal + length + well_formed
    return VqinsightTerms(score, temporal, length, well_formed, total)
