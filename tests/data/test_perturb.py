"""Temporal perturbations: by hand, by plain lists, and by their distributions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqathinker_jax.data import perturb


def indices(draw, num_frames):
    return np.asarray(perturb.apply_perturbation(num_frames, draw.mode, draw)).tolist()


def reference(draw, num_frames):
    """The table of the specification, with plain lists."""
    draw = jax.device_get(draw)
    order = [int(t) for t in draw.order]
    n, p, c = int(draw.count), int(draw.position), int(draw.frame)
    match draw.mode:
        case "global_shuffle":
            return order
        case "local_shuffle":
            return [int(t) for t in draw.window_order]
        case "reverse":
            return list(range(num_frames))[::-1]
        case "jitter":
            moved = [t + int(o) for t, o in enumerate(draw.offsets)]
            return [min(max(t, 0), num_frames - 1) for t in moved]
        case "random_drop":
            kept = [t if t not in order[:n] else -1 for t in range(num_frames)]
            return kept if draw.fill == "blank" else [t for t in kept if t >= 0]
        case "duplicate":
            slots = [(t, True) for t in range(num_frames)]
            slots[p:p] = [(c, False)] * n
            return [t for t, own in slots if not (own and t in order[:n])]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from([2, 7]),
    st.sampled_from(perturb.MODES),
    st.sampled_from(perturb.VARIANTS),
)
def test_as_plain_lists(seed, num_frames, mode, variant):
    draw = perturb.draw_perturbation(jax.random.key(seed), num_frames, mode, variant)
    shown = indices(draw, num_frames)
    assert shown == reference(draw, num_frames)
    draw = jax.device_get(draw)
    n = int(draw.count)
    assert 1 <= n <= min(3, num_frames - 1)
    assert sorted(int(t) for t in draw.order) == list(range(num_frames))
    if mode == "local_shuffle":
        assert [t // 4 for t in shown] == [t // 4 for t in range(num_frames)]
        assert sorted(shown) == list(range(num_frames))
    if mode == "random_drop":
        assert len(shown) == (num_frames - n if variant == "paper" else num_frames)
        assert shown.count(-1) == (0 if variant == "paper" else n)
    else:
        assert len(shown) == num_frames and -1 not in shown


def hand_draw(mode, fill="blank", frame=2, count=2, position=1, num_frames=5):
    return perturb.PerturbationDraw(
        order=jnp.array([3, 0, 4, 1, 2], jnp.int32),
        window_order=jnp.array([1, 0, 3, 2, 4], jnp.int32),
        offsets=jnp.array([-1, 0, 1, -1, 1], jnp.int32),
        frame=jnp.int32(frame),
        count=jnp.int32(count),
        position=jnp.int32(position),
        mode=mode,
        fill=fill,
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("global_shuffle", [3, 0, 4, 1, 2]),
        ("local_shuffle", [1, 0, 3, 2, 4]),
        ("reverse", [4, 3, 2, 1, 0]),
        ("jitter", [0, 1, 3, 2, 4]),
        ("duplicate", [2, 2, 1, 2, 4]),  # 0 [2 2] 1 2 3 4 without the slots of 3 and 0
        ("random_drop", [-1, 1, 2, -1, 4]),
    ],
)
def test_by_hand(mode, expected):
    assert indices(hand_draw(mode), 5) == expected


def test_removed_and_appended_by_hand():
    assert indices(hand_draw("random_drop", fill="remove"), 5) == [1, 2, 4]
    assert indices(hand_draw("duplicate", count=1, position=5), 5) == [0, 1, 2, 4, 2]
    # The duplicated frame's own slot may be the one that goes.
    assert indices(hand_draw("duplicate", frame=3, count=1, position=0), 5) == [3, 0, 1, 2, 4]


def test_reference_quirk_last_window_is_shuffled_too():
    """The paper's floor(T / w) windows lose the frames beyond them; both variants keep all."""
    seen = set()
    for seed in range(12):
        draw = perturb.draw_perturbation(jax.random.key(seed), 6, "local_shuffle", "paper")
        seen.add(tuple(indices(draw, 6)[4:]))
    assert seen == {(4, 5), (5, 4)}


def test_all_on_the_device_equals_one_by_one():
    keys = jax.random.split(jax.random.key(5), 23)
    for variant in perturb.VARIANTS:
        together = np.asarray(perturb.perturbation_indices(keys, 6, variant)).tolist()
        draws = [perturb.draw_perturbation(key, 6, None, variant, "blank") for key in keys]
        assert together == [indices(draw, 6) for draw in draws]
        assert len({draw.mode for draw in draws}) == 6


def test_distributions():
    """Chi-square style bounds at five standard deviations on 3000 draws."""
    keys = jax.random.split(jax.random.key(7), 3001)
    modes = np.asarray(jax.vmap(perturb._draw_mode)(keys))
    assert_uniform(modes, range(6))
    for variant, positions in (("paper", range(6)), ("official_code", range(7))):
        draws = jax.vmap(lambda key, v=variant: perturb._draw(key, 6, v))(keys)
        assert_uniform(draws.position, positions)
        assert_uniform(draws.count, [1, 2, 3])
        assert_uniform(draws.frame, range(6))
        assert_uniform(draws.offsets[:, 4], [-1, 0, 1])
        first = [tuple(row) for row in np.asarray(draws.window_order[:, :4])]
        assert_uniform(first, list(itertools.permutations(range(4))))
        pairs = [tuple(row) for row in np.asarray(draws.order[:, :2])]
        assert_uniform(pairs, list(itertools.permutations(range(6), 2)))


def assert_uniform(values, support):
    values = values if isinstance(values, list) else np.asarray(values).tolist()
    support = list(support)
    assert set(values) == set(support)
    expected = len(values) / len(support)
    for value in support:
        assert abs(values.count(value) - expected) < 5 * expected**0.5


def test_a_draw_depends_on_its_key_alone():
    key = jax.random.key(3)
    one, two = (perturb.draw_perturbation(key, 6) for _ in range(2))
    assert one.mode == two.mode and indices(one, 6) == indices(two, 6)
    jitted = jax.jit(lambda k: perturb.apply_perturbation(6, "jitter", draw_jitter(k)))
    assert jitted(key).tolist() == indices(draw_jitter(key), 6)


def draw_jitter(key):
    return perturb.draw_perturbation(key, 6, "jitter")


def test_refuses():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="at least 2"):
        perturb.draw_perturbation(key, 1)
    with pytest.raises(ValueError, match="global_shuffle"):
        perturb.draw_perturbation(key, 6, "shuffle")
    with pytest.raises(ValueError, match="official_code"):
        perturb.draw_perturbation(key, 6, variant="code")
    with pytest.raises(ValueError, match="blank"):
        perturb.draw_perturbation(key, 6, fill="black")
    with pytest.raises(ValueError, match="5 frames, not for 6"):
        perturb.apply_perturbation(6, "reverse", hand_draw("reverse"))
    with pytest.raises(ValueError, match="random_drop"):
        perturb.apply_perturbation(5, "drop", hand_draw("reverse"))
    with pytest.raises(ValueError, match="cannot be traced"):
        jax.jit(lambda d: perturb.apply_perturbation(5, "random_drop", d))(
            hand_draw("random_drop", fill="remove")
        )
    with pytest.raises(ValueError, match="at least 2"):
        perturb.perturbation_indices(jax.random.split(key, 3), 1)
