"""Rollouts: shared encoding, perturbed clips as gathers, draws that depend on the video alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqathinker_jax.inference import encode
from vqathinker_jax.rl.rollout import RolloutConfig, encode_perturbed, roll_out

CFG = RolloutConfig(num_generations=3, max_completion_length=7)


def run(model, pixels, prompts, cfg=CFG, keep=slice(None)):
    loaded = model.loaded
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(5), jnp.arange(3))
    return roll_out(
        (loaded.graphdef, loaded.state),
        jnp.asarray(pixels[keep]),
        jnp.asarray(prompts[0][keep]),
        jnp.asarray(prompts[1][keep]),
        keys[keep],
        video=loaded.video,
        context_id=loaded.context_id,
        cfg=cfg,
        sampling=cfg.sampling(loaded.end_id, loaded.pad_id, loaded.suppressed_ids),
    )


def test_clean_and_perturbed_share_a_loop_and_have_their_own_draws(small_model, pixels, prompts):
    out = run(small_model, pixels, prompts)
    assert out.clean.tokens.shape == out.perturbed.tokens.shape == (3, 3, 7)
    assert out.frames.shape == (3, 4)
    assert not np.array_equal(out.clean.tokens, out.perturbed.tokens)
    assert len({tuple(row) for row in np.asarray(out.clean.tokens).reshape(-1, 7)}) > 5

    alone = run(small_model, pixels, prompts, dataclasses.replace(CFG, temporal=False))
    assert alone.perturbed is None
    np.testing.assert_array_equal(alone.clean.tokens, out.clean.tokens)


def test_draws_of_a_video_do_not_depend_on_its_batch(small_model, pixels, prompts):
    whole = run(small_model, pixels, prompts)
    part = run(small_model, pixels, prompts, keep=slice(1, 2))
    np.testing.assert_array_equal(part.clean.tokens[0], whole.clean.tokens[1])
    np.testing.assert_array_equal(part.perturbed.tokens[0], whole.perturbed.tokens[1])
    np.testing.assert_array_equal(part.frames[0], whole.frames[1])


def test_one_perturbation_per_response(small_model, pixels, prompts):
    cfg = dataclasses.replace(CFG, perturb_per="response")
    out = run(small_model, pixels, prompts, cfg)
    assert out.frames.shape == (3, 3, 4)
    assert out.perturbed.tokens.shape == (3, 3, 7)
    assert len({tuple(row) for row in np.asarray(out.frames).reshape(-1, 4)}) > 3
    per_video = run(small_model, pixels, prompts)
    np.testing.assert_array_equal(out.clean.tokens, per_video.clean.tokens)


def test_gathered_frames_equal_encoding_the_perturbed_clip(small_model, pixels):
    loaded = small_model.loaded
    frames = np.array([[3, 3, 0, -1], [0, 1, 2, 3], [-1, 2, -1, 0]], np.int32)
    clean = encode(loaded.graphdef, loaded.state, jnp.asarray(pixels), loaded.video)
    gathered = encode_perturbed(
        loaded.graphdef,
        loaded.state,
        jnp.asarray(pixels),
        clean.visual,
        jnp.asarray(frames),
        loaded.video,
    )
    shown = np.stack([clip[row] for clip, row in zip(pixels, frames, strict=True)])
    shown[frames < 0] = 0
    wanted = encode(loaded.graphdef, loaded.state, jnp.asarray(shown), loaded.video)
    np.testing.assert_allclose(gathered.visual, wanted.visual, atol=1e-5)
    np.testing.assert_allclose(gathered.motion, wanted.motion, atol=1e-6)
    assert float(jnp.abs(gathered.motion[0] - clean.motion[0]).max()) > 1e-4


def test_details_of_a_perturbed_clip_are_the_clean_ones(small_model, pixels):
    loaded = small_model.loaded
    video = dataclasses.replace(loaded.video, num_extras=2)
    images = np.concatenate([pixels, 2 * pixels[:, 1:3]], axis=1)
    frames = jnp.array([[3, 3, 0, -1], [3, 2, 1, 0], [-1, 2, -1, 0]], jnp.int32)
    clean = encode(loaded.graphdef, loaded.state, jnp.asarray(images), video)
    assert clean.visual.shape[1] == 6
    found = encode_perturbed(
        loaded.graphdef, loaded.state, jnp.asarray(images), clean.visual, frames, video
    )
    np.testing.assert_array_equal(found.visual[:, 4:], clean.visual[:, 4:])
    alone = encode_perturbed(
        loaded.graphdef,
        loaded.state,
        jnp.asarray(pixels),
        clean.visual[:, :4],
        frames,
        loaded.video,
    )
    np.testing.assert_allclose(found.visual[:, :4], alone.visual, atol=1e-6)
    np.testing.assert_allclose(found.motion, alone.motion, atol=1e-6)
    assert float(jnp.abs(found.visual[:, :4] - clean.visual[:, :4]).max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_generations": 1}, "at least 2"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"perturb_per": "frame"}, "video or response"),
        ({"perturbation_variant": "mine"}, "paper"),
    ],
)
def test_refused_configs(changes, said):
    with pytest.raises(ValueError, match=said):
        RolloutConfig(**changes)
