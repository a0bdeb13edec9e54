"""First filters: cosines of all frequencies, and mixtures of all directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vqathinker_jax.models.internvit import InternViT, InternViTConfig
from vqathinker_jax.models.layers import exact_gelu
from vqathinker_jax.models.pixels import normalize_pixels
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.rl.first_layers import (
    BEND,
    FLATTENING,
    MEAN_GAIN,
    RECTIFIER_GAIN,
    average,
    measure_statistics,
    rectify,
    require_room,
)
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.whitening import (
    REFERENCE,
    choose_cosines,
    cosine_filters,
    cut_patches,
    whiten_once,
    whitened_filters,
    with_reference,
)
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.initial import InitialSource
from vqathinker_jax.weights.readers import abstract_model, fill_model, parameter_shapes


def test_outputs_have_mean_zero_and_variance_one():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(500, 7)) * np.geomspace(10, 1e-2, 7) + 3
    filters = whitened_filters(patches, 5, rng)
    out = patches @ filters.kernel + filters.bias
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(out.std(0), 1, rtol=1e-4)


def test_a_weak_direction_is_seen_as_well_as_a_strong_one():
    rng = np.random.default_rng(1)
    patches = rng.normal(size=(4000, 2)) * np.array([1.0, 0.02])
    filters = whitened_filters(patches, 400, rng)
    share = (filters.kernel[1] * 0.02) ** 2 / (
        filters.kernel[0] ** 2 + (filters.kernel[1] * 0.02) ** 2
    )
    assert share.mean() == pytest.approx(0.5, abs=0.05)


def test_the_gain_on_directions_without_variance_is_bounded():
    rng = np.random.default_rng(2)
    patches = np.column_stack([rng.normal(size=300), np.zeros(300)])
    filters = whitened_filters(patches, 50, rng)
    assert np.isfinite(filters.kernel).all()


def test_cosines_have_mean_zero_and_variance_one_and_see_one_direction_each():
    rng = np.random.default_rng(3)
    patches = rng.normal(size=(700, 6, 6, 3)) + 1
    filters = cosine_filters(patches, 20)
    out = patches.reshape(700, -1) @ filters.kernel + filters.bias
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(out.std(0), 1, rtol=1e-4)
    # A patch that changes along rows only is invisible to filters that change along columns.
    stripes = np.broadcast_to(rng.normal(size=(1, 6, 1)), (6, 6, 3))
    seen = np.abs(stripes.reshape(-1) @ filters.kernel)
    for (_, down, _), size in zip(choose_cosines(6, 20), seen, strict=True):
        if down > 0:
            assert size < 1e-5


def test_cosines_that_see_nothing_are_not_amplified():
    filters = cosine_filters(np.ones((9, 4, 4, 3)), 7)
    assert np.isfinite(filters.kernel).all() and np.abs(filters.kernel).max() <= 2e3


def test_a_tower_wider_than_there_are_cosines_is_refused():
    with pytest.raises(TrainingError, match="12 cosines, but the tower needs 13"):
        cosine_filters(np.zeros((3, 2, 2, 3)), 13)


@pytest.mark.parametrize(("size", "num"), [(14, 96), (14, 5), (4, 48), (7, 147)])
def test_as_many_different_cosines_as_asked_for(size, num):
    chosen = choose_cosines(size, num)
    assert len(chosen) == len(set(chosen)) == num
    assert max(max(down, across) for _, down, across in chosen) < size
    assert chosen[:3] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


def small_tower(width, hidden, num_layers):
    cfg = InternViTConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=num_layers,
        num_attention_heads=1, image_size=28,
    )  # fmt: skip
    return InternViT(cfg, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_the_first_layer_starts_as_a_rectifier_that_flattens():
    width = 5
    tower = small_tower(width, 4 * width + 2, 3)
    scale = np.array(tower.layers.ls2[...])[0, 0]
    rectify(tower)
    mlp = tower.layers.mlp
    fc1, bias, fc2 = (
        np.array(parameter[...])[0] for parameter in (mlp.fc1.kernel, mlp.fc1.bias, mlp.fc2.kernel)
    )

    def given(x):
        units = np.asarray(exact_gelu(jnp.asarray(x @ fc1 + bias)))[:, : 4 * width]
        return units @ fc2[: 4 * width] * scale / RECTIFIER_GAIN

    # Up to the bend c rises by 1, beyond it by what flattening leaves; it is even.
    for size, wanted in ((0.5, 0.5), (3.0, 3 - FLATTENING * (3 - BEND)), (0.0, 0.0)):
        x = np.full((1, width), size, np.float32)
        np.testing.assert_allclose(given(x), wanted, atol=0.06)
        np.testing.assert_allclose(given(-x), given(x), atol=1e-5)


def test_the_second_layer_adds_the_centred_and_scaled_mean_of_the_image():
    tower = small_tower(6, 24, 3)
    rectify(tower)
    rng = np.random.default_rng(4)
    # Two kinds of images, of which the second is brighter in all clips.
    images = rng.normal(size=(40, 2, 28, 28, 3)) * rng.uniform(0.2, 2, (40, 2, 1, 1, 1))
    images[:, 1] += 3
    images = images.astype(np.float32)
    before = np.asarray(tower(jnp.asarray(images.reshape(80, 28, 28, 3)), 2))
    attention = tower.layers.attn
    average(tower, measure_statistics(tower, images))
    # What the layer adds, its own random attention and its MLP aside.
    normed = np.asarray(tower(jnp.asarray(images.reshape(80, 28, 28, 3)), 1))
    normed = (normed - normed.mean(-1, keepdims=True)) / normed.std(-1, keepdims=True)
    scale, bias = np.array(attention.proj.kernel[...])[1], np.array(attention.proj.bias[...])[1]
    added = (normed.mean(1) @ scale.reshape(6, 6) + bias) * np.array(tower.layers.ls1[...])[1]
    added = added.reshape(40, 2, 6)
    np.testing.assert_allclose(added.mean((0, 1)), 0, atol=0.02)
    np.testing.assert_allclose(np.sqrt(added.var(0).mean(0)), MEAN_GAIN, rtol=1e-3)
    after = np.asarray(tower(jnp.asarray(images.reshape(80, 28, 28, 3)), 2))
    spread = after.reshape(40, 2, -1, 6).mean(2).var(0).mean()
    assert spread > 10 * before.reshape(40, 2, -1, 6).mean(2).var(0).mean()


@pytest.mark.parametrize(("hidden", "num_layers"), [(23, 2), (24, 1)])
def test_a_tower_too_small_for_statistics_is_refused(hidden, num_layers):
    wanted = f"24 hidden units at a width of 6, and this one has {num_layers} with {hidden}"
    with pytest.raises(TrainingError, match=wanted):
        require_room(small_tower(6, hidden, num_layers))
    require_room(small_tower(6, 24, 2))


def test_two_filters_are_blind_and_always_give_the_reference():
    patches = np.random.default_rng(5).normal(size=(50, 4, 4, 3))
    filters = with_reference(cosine_filters(patches, 7))
    out = patches.reshape(50, -1) @ filters.kernel + filters.bias
    np.testing.assert_array_equal(out[:, 7:], np.tile([REFERENCE, -REFERENCE], (50, 1)))


def test_patches_lie_inside_their_clip():
    clip = np.arange(5 * 8 * 9 * 3, dtype=np.float32).reshape(1, 5, 8, 9, 3)
    patches = cut_patches(clip, (2, 3, 4), np.random.default_rng(0))
    assert patches.shape[1] == 2 * 3 * 4 * 3
    places = {tuple(np.argwhere(clip[0] == patch[0])[0, :3]) for patch in patches}
    assert {t for t, _, _ in places} == set(range(4))
    assert {y for _, y, _ in places} == set(range(6)) and {x for _, _, x in places} == set(range(6))


def unread():
    raise AssertionError("the kept filters should have been used")


def test_a_model_gets_filters_that_answer_to_its_clips_and_keeps_them(tmp_path):
    cfg = VQAThinkerConfig(
        vision=InternViTConfig(
            hidden_size=22, intermediate_size=88, num_hidden_layers=2, num_attention_heads=1,
            image_size=28,
        ),
        decoder=Qwen2Config(
            vocab_size=11, hidden_size=12, intermediate_size=13, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1,
        ),
        slowfast=SlowFastConfig(
            stem_width=10, fast_ratio=2, depths=(1, 1, 1, 1), slow_pool=(1, 1, 1),
            fast_pool=(1, 1, 1),
        ),
    )  # fmt: skip
    graphdef, state = abstract_model(cfg)
    source = InitialSource(parameter_shapes(state), 0)
    model = fill_model(graphdef, state, source, None, "float32")
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (17, 7, 28, 28, 3), dtype=np.uint8)
    video = VideoSpec(6, 28, 3, 1, num_extras=1)
    whiten_once(model, tmp_path / "filters.npz", lambda: clips, video, seed=0)
    again = fill_model(
        *abstract_model(cfg), InitialSource(parameter_shapes(state), 0), None, "float32"
    )
    whiten_once(again, tmp_path / "filters.npz", unread, video, seed=0)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), nnx.state(model), nnx.state(again))
    )
    (tmp_path / "filters.npz").write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"filters\.npz: its filters cannot be used"):
        whiten_once(again, tmp_path / "filters.npz", unread, video, seed=0)
    pixels = normalize_pixels(jnp.asarray(clips))
    patch = pixels[:, 0, :14, :14].reshape(17, -1)
    out = patch @ model.vision.patch_embedding.kernel[...].reshape(588, 22)
    out = out + model.vision.patch_embedding.bias[...]
    assert 0.5 < float(out.std()) < 2 and abs(float(out.mean())) < 0.3
    for stem in (model.slowfast.stem.slow, model.slowfast.stem.fast):
        conv = nnx.jit(lambda stem, x: stem.norm(stem.conv(x)))(stem, pixels[:, :6])
        inner = conv[:, 2:4, 3:-3, 3:-3]
        assert 0.3 < float(inner.std()) < 2 and abs(float(inner.mean())) < 0.3
    assert jax.tree.all(jax.tree.map(lambda a: bool(jnp.isfinite(a).all()), nnx.state(model)))
