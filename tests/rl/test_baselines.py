"""The rewards of the compared methods against plain loops that restate the specification."""

import itertools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vqathinker_jax import parallel
from vqathinker_jax.rl import baselines, rewards


def sign(x):
    return (x > 0) - (x < 0)


def reference_preres(scores, m, g, task, variant, stage, ties, match):
    """REWARDS.md section 8, one response at a time."""
    num, k_all = len(scores), len(scores[0])
    p = [[statistics.fmean(scores[i][k]) for k in range(k_all)] for i in range(num)]
    order = [sorted((k for k in range(k_all) if m[i][k]), key=lambda k, i=i: (p[i][k], k))
             for i in range(num)]  # fmt: skip
    zero = [[0.0] * k_all for _ in range(num)]
    terms = {name: [row[:] for row in zero] for name in ("P", "T", "Q", "U", "G", "quality")}
    for i, k in itertools.product(range(num), range(k_all)):
        if not m[i][k]:
            continue
        terms["P"][i][k] = (
            0.5 * max(0.0, 0.5 - statistics.pstdev(scores[i][k])) if stage == 1 else 0.0
        )
        terms["T"][i][k] = reference_balance(scores[i], m[i], k, task, variant)
        place = order[i].index(k)

        def match_of(z, i=i, place=place):
            return order[z][place * len(order[z]) // len(order[i])]

        values = []
        for z in range(num):
            if z == i or not order[z]:
                continue
            a, b = p[i][k], p[z][match_of(z)]
            agree = sign(a - b) == sign(g[i] - g[z])
            distance = abs(g[i] - g[z])
            total = distance + abs(a - g[i]) + abs(b - g[z])
            share = distance / total if total > 0 else 1.0
            values.append(math.sqrt(agree * share) + math.sqrt((1 - agree) * (1 - share)))
        terms["Q"][i][k] = statistics.fmean(values) if values else 0.0

        relation = sign if ties == "symmetric" else lambda x: x > 0
        values = []
        for x, y in itertools.combinations([z for z in range(num) if z != i], 2):
            if match == "order":
                if not (order[x] and order[y]):
                    continue
                kx, ky = match_of(x), match_of(y)
            else:
                kx = ky = k
                if not (m[x][k] and m[y][k]):
                    continue
            three = [(p[i][k], g[i]), (p[x][kx], g[x]), (p[y][ky], g[y])]
            hits = [
                relation(three[u][0] - three[v][0]) == relation(three[u][1] - three[v][1])
                for u, v in ((0, 1), (1, 2), (0, 2))
            ]
            values.append(sum(hits) / 3)
        terms["U"][i][k] = statistics.fmean(values) if values else 0.0

        if task == "iqa":
            own = [p[i][q] for q in order[i]]
            below = sum(value < p[i][k] for value in [*own, g[i]])
            upto = sum(value <= g[i] for value in own)
            near = abs(p[i][k] - g[i]) < 0.02
            terms["G"][i][k] = 1.0 if near else math.exp(-abs(below - upto) / (len(own) + 1))
        quality = (
            0.375 * terms["Q"][i][k]
            - terms["P"][i][k]
            + 0.25 * terms["T"][i][k]
            + 0.125 * terms["U"][i][k]
        )
        terms["quality"][i][k] = (quality + terms["G"][i][k]) / 3 if task == "iqa" else quality
    return terms


def reference_balance(scores, valid, k, task, variant):
    dims = 4 if task == "iqa" and variant == "official_code" else len(scores[0])
    gain = count = 0
    for triple in itertools.combinations([q for q in range(len(scores)) if valid[q]], 3):
        if k not in triple:
            continue
        count += 1
        for d in range(dims):
            low, middle, high = sorted(triple, key=lambda q, d=d: (scores[q][d], q))
            near = {middle} | {
                q for q in (low, high) if abs(scores[q][d] - scores[middle][d]) < 0.05
            }
            gain += k in near
    return gain / (count * dims) if count else 0.0


OPTIONS = [
    ("vqa", "default", 1, "published", "index"),
    ("iqa", "official_code", 2, "symmetric", "order"),
    ("iqa", "default", 1, "published", "order"),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OPTIONS), st.booleans())
def test_preres_as_loops(seed, options, one_video):
    rng = np.random.default_rng(seed)
    num, k, d = (1 if one_video else 5), (3 if one_video else 4), 2 if options[0] == "vqa" else 5
    # Sixteenths, in fives: means and differences are exact, so ties are ties on both sides.
    scores = 5 * rng.integers(6, 14, (num, k, d)) / 16
    if seed % 3 == 0:
        scores[:] = scores[:, :, :1]
        scores = np.round(scores)
    m, g = rng.random((num, k)) < rng.choice([0, 0.5, 0.8, 1]), rng.integers(2, 9, num) / 2
    task, variant, stage, ties, match = options
    with jax.enable_x64(True):
        poisoned = jnp.asarray(np.where(m[:, :, None], scores, np.nan))
        result = baselines.preres_rewards(
            poisoned, m, g, task, variant, stage, ties=ties, match=match
        )
    expected = reference_preres(scores.tolist(), m, g.tolist(), *options)
    names = {"P": "penalty", "T": "balance", "Q": "pairwise", "U": "triplet", "G": "in_group"}
    for name, field in {**names, "quality": "quality"}.items():
        value = np.asarray(getattr(result, field))
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-9, err_msg=field)
    assert (result.total == result.quality).all()


def test_preres_by_hand():
    """Two videos of three responses, both scores of a response equal."""
    p = jnp.array([[4.0, 4.5, 4.02], [2.0, 2.0, 3.0]])
    scores, m, g = jnp.stack([p, p], -1), jnp.ones(p.shape, bool), jnp.array([4.0, 3.0])
    result = baselines.preres_rewards(scores, m, g, format_ok=m)
    assert np.asarray(result.penalty) == pytest.approx(0.25)
    # First video: median 4.02, near are 4.00 and 4.02. Second: median 2, near are both 2.0.
    assert result.balance.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert (result.triplet == 0).all() and (result.in_group == 0).all()
    # Smallest against smallest: 4.0 and 2.0, order right, share 1 / (1 + 0 + 1).
    assert result.pairwise[0, 0] == pytest.approx(math.sqrt(1 / 2), abs=1e-6)
    # Largest against largest: 4.5 and 3.0, share 1 / (1 + 0.5 + 0).
    assert result.pairwise[0, 1] == pytest.approx(math.sqrt(1 / 1.5), abs=1e-6)
    expected = 0.375 * math.sqrt(0.5) - 0.25 + 0.25 * 1
    assert result.quality[0, 0] == pytest.approx(expected, abs=1e-6)
    assert result.total[0, 0] == pytest.approx(expected + 1, abs=1e-6)
    assert (baselines.preres_rewards(scores, m, g, stage=2).penalty == 0).all()
    image = baselines.preres_rewards(scores, m, g, task="iqa")
    # 4.0 is the ground truth; 4.5 has both others and it below, one score is up to it.
    assert image.in_group[0, 0] == 1
    assert image.in_group[0, 1] == pytest.approx(math.exp(-abs(3 - 1) / 4), abs=1e-6)


def test_reference_quirk_wrong_order_pays_more_for_a_larger_error():
    """12.3-C11, kept as published."""
    near = jnp.array([[2.9], [3.0]])[:, :, None]
    far = jnp.array([[1.0], [3.0]])[:, :, None]
    m, g = jnp.ones((2, 1), bool), jnp.array([3.5, 3.0])
    small, large = (baselines.preres_rewards(s, m, g).pairwise[0, 0] for s in (near, far))
    assert large > small > 0


def test_preres_of_few_videos_or_responses_is_finite():
    """12.3-C8, C9, C10: the published code gives NaN or a wrong shape here."""
    for num, k in ((1, 1), (2, 2), (1, 3), (3, 1)):
        scores, m = jnp.full((num, k, 5), 3.0), jnp.ones((num, k), bool)
        for mask in (m, ~m):
            result = baselines.preres_rewards(scores, mask, jnp.full(num, 3.0), task="iqa")
            for term in jax.tree.leaves(result):
                assert term.shape == (num, k) and np.isfinite(np.asarray(term)).all()


def test_the_same_scores_in_another_order_tie():
    rng = np.random.default_rng(2)
    one = rng.uniform(1, 5, (31, 1, 5)).astype(np.float32)
    scores = np.concatenate([one, rng.permuted(one, axis=2)], axis=1)
    m, g = np.ones((31, 2), bool), rng.uniform(1, 5, 31).astype(np.float32)
    result = baselines.preres_rewards(scores, m, g, task="iqa")
    assert (result.in_group[:, 0] == result.in_group[:, 1]).all()
    assert (result.triplet[:, 0] == result.triplet[:, 1]).all()


def test_preres_huge_scores_are_finite():
    scores = jnp.array([[[jnp.inf, -jnp.inf], [3.0, 1e38]], [[-1e38, 1e38], [2.0, 2.0]]])
    m = jnp.ones((2, 2), bool)
    for term in jax.tree.leaves(baselines.preres_rewards(scores, m, jnp.array([3.0, 2.0]))):
        assert np.isfinite(np.asarray(term)).all()


def test_preres_permutation_and_sharding():
    rng = np.random.default_rng(5)
    scores = rng.uniform(1, 5, (8, 3, 2)).astype(np.float32)
    m, g = rng.random((8, 3)) < 0.8, rng.uniform(1, 5, 8).astype(np.float32)
    plain = baselines.preres_rewards(scores, m, g)
    videos = rng.permutation(8)
    moved = baselines.preres_rewards(scores[videos], m[videos], g[videos])
    mesh = parallel.make_mesh(data=8)
    layout = NamedSharding(mesh, PartitionSpec("data"))
    sharded = baselines.preres_rewards(*(jax.device_put(x, layout) for x in (scores, m, g)))
    for one, two, three in zip(*map(jax.tree.leaves, (plain, moved, sharded)), strict=True):
        np.testing.assert_allclose(np.asarray(one)[videos], two, atol=1e-6)
        np.testing.assert_allclose(one, three, atol=1e-6)


def test_preres_refuses():
    scores, m, g = jnp.ones((2, 3, 2)), jnp.ones((2, 3), bool), jnp.ones(2)
    for option, value, named in (
        ("task", "video", "iqa"),
        ("variant", "paper", "official_code"),
        ("stage", 3, r"\(1, 2\)"),
        ("ties", "none", "symmetric"),
        ("match", "rank", "order"),
    ):
        with pytest.raises(ValueError, match=named):
            baselines.preres_rewards(scores, m, g, **{option: value})
    with pytest.raises(ValueError, match=r"\[N, K, D\]"):
        baselines.preres_rewards(scores[:, :, 0], m, g)


def test_visualquality_is_ranking_plus_format():
    rng = np.random.default_rng(6)
    s, g = jnp.asarray(rng.normal(3, 1, (3, 5))), jnp.array([1.0, 2.0, 2.0])
    m = jnp.asarray(rng.random((3, 5)) < 0.7)
    result = baselines.visualquality_rewards(s, m, g, ~m)
    expected = rewards.ranking_reward(s, m, g) + (~m).astype(s.dtype)
    assert (result == expected).all()


def test_qinsight():
    s, m = jnp.array([[3.0, 3.34, 3.36, 3.0]]), jnp.array([[True, True, True, False]])
    reward = baselines.qinsight_score_reward(s, m, jnp.array([3.0]))
    assert reward.tolist() == [[1, 1, 0, 0]]
    with jax.enable_x64(True):  # strictly below the threshold
        quarter = jnp.array([[3.25]])
        one = baselines.qinsight_score_reward(quarter, m[:, :1], jnp.array([3.0]), threshold=0.25)
        assert one.tolist() == [[0.0]]
    distortion, severity = jnp.array([[7, 7, 5, 7]]), jnp.array([[2, 3, 2, 2]])
    reward = baselines.qinsight_degradation_reward(
        distortion, severity, m, jnp.array([7]), jnp.array([2])
    )
    assert reward.tolist() == [[1, 0.25, 0, 0]]
    reward = baselines.qinsight_comparison_reward(distortion, m, jnp.array([7]))
    assert reward.tolist() == [[1, 1, 0, 0]]


def reference_l1(s, g):
    return 1 - min(max((abs(s - g) + 1e-9) / (abs(g) + 1e-9), 0), 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_vqinsight_as_loops(seed):
    rng = np.random.default_rng(seed)
    num, k, j = 3, 5, 2
    g = rng.uniform(0.5, 5, num)
    s, s2 = rng.uniform(0, 6, (num, k)), g[:, None] + rng.normal(0, 0.5, (num, j))
    m, m2 = rng.random((num, k)) < 0.8, rng.random((num, j)) < 0.8
    tokens = rng.integers(318, 516, (num, k))
    well = rng.random((num, k)) < 0.5
    with jax.enable_x64(True):
        result = baselines.vqinsight_rewards(jnp.asarray(s), m, g, well, s2, m2, tokens)
    for i in range(num):
        a = [reference_l1(s[i, q], g[i]) if m[i, q] else 0 for q in range(k)]
        kept = [a[q] for q in range(k) if m[i, q]]
        shuffled = [reference_l1(s2[i, q], g[i]) for q in range(j) if m2[i, q]]
        better = kept and shuffled and statistics.fmean(kept) >= 0.8 * statistics.fmean(shuffled)
        several = sum(x > 0.1 for x in a) > 1
        for q in range(k):
            temporal = 0.3 if better and a[q] > 0.1 else 0
            length = 0.2 if several and a[q] > 0.1 and 320 <= tokens[i, q] <= 512 else 0
            assert result.score[i, q] == pytest.approx(a[q], abs=1e-9)
            assert result.temporal[i, q] == pytest.approx(temporal, abs=1e-9)
            assert result.length[i, q] == pytest.approx(length, abs=1e-9)
            total = a[q] + temporal + length + well[i, q]
            assert result.total[i, q] == pytest.approx(total, abs=1e-9)


def test_vqinsight_of_several_dimensions():
    s, g = jnp.array([[[2.0, 3.0, 9.0], [1.0, 1.0, 1.0]]]), jnp.array([[2.0, 4.0, 3.0]])
    m = jnp.array([[True, False]])
    score = baselines.vqinsight_score(s, m, g)
    assert score.tolist() == [[pytest.approx((1 + 0.75 + 0) / 3), 0]]
    with pytest.raises(ValueError, match="does not fit"):
        baselines.vqinsight_score(s, m, g[:, 0])
