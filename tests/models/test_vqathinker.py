"""Frames and details through the whole model: who sees which images, and in which order."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vqathinker_jax.inference import encode, splice
from vqathinker_jax.models.vqathinker import check_placeholders

D = 2


@pytest.fixture(scope="module")
def detailed(small_model):
    """The small model, shown two details after its four frames."""
    loaded = small_model.loaded
    return dataclasses.replace(loaded, video=dataclasses.replace(loaded.video, num_extras=D))


@pytest.fixture(scope="module")
def pixels(detailed) -> np.ndarray:
    side = detailed.video.image_size
    shape = (3, detailed.video.num_images, side, side, 3)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def encoded(detailed, pixels):
    return encode(detailed.graphdef, detailed.state, jnp.asarray(pixels), detailed.video)


def test_details_are_encoded_like_frames_and_motion_does_not_see_them(
    small_model, detailed, pixels, encoded
):
    plain = small_model.loaded
    frames = jnp.asarray(pixels[:, :4])
    alone = encode(plain.graphdef, plain.state, frames, plain.video)
    assert encoded.visual.shape[1] == 4 + D
    np.testing.assert_allclose(encoded.visual[:, :4], alone.visual, atol=1e-6)
    np.testing.assert_allclose(encoded.motion, alone.motion, atol=1e-6)

    # What stands in a frame's place is looked at by both, so the comparison above could fail.
    moved = jnp.asarray(pixels[:, ::-1])
    other = encode(detailed.graphdef, detailed.state, moved, detailed.video)
    np.testing.assert_allclose(other.visual, encoded.visual[:, ::-1], atol=1e-6)
    assert float(jnp.abs(other.motion - encoded.motion).max()) > 1e-4


def test_frames_then_details_then_motion_are_spliced_in(detailed, encoded):
    prompt = detailed.build_prompt()
    text = detailed.tokenizer.decode(prompt)
    places = [text.index(name) for name in ("Frame4", "View1", "View2", "Motion Feature")]
    assert places == sorted(places)
    ids = np.broadcast_to(prompt, (3, len(prompt)))
    lengths = jnp.full(3, len(prompt), jnp.int32)
    embeds = splice(
        detailed.graphdef, detailed.state, jnp.asarray(ids), lengths, encoded, detailed.context_id
    )
    wanted = np.concatenate([encoded.visual.reshape(3, -1, 32), encoded.motion], axis=1)
    np.testing.assert_array_equal(embeds[:, prompt == detailed.context_id], wanted)


def test_prompts_and_pixels_of_another_number_of_images_are_refused(small_model, detailed, pixels):
    plain = small_model.loaded
    assert detailed.check_pixels(pixels).shape == pixels.shape
    with pytest.raises(ValueError, match=r"must be \[N, 4, 56, 56, 3\], got \[3, 6"):
        plain.check_pixels(pixels)
    with pytest.raises(ValueError, match=r"must be \[N, 6, 56, 56, 3\], got \[3, 4"):
        detailed.check_pixels(pixels[:, :4])

    assert detailed.check_prompts(detailed.build_prompt(), 3).shape[0] == 3
    with pytest.raises(ValueError, match="6 images of 4 tokens and one motion token need 25"):
        detailed.check_prompts(plain.build_prompt(), 3)
    with pytest.raises(ValueError, match="4 images"):
        plain.check_prompts(detailed.build_prompt(), 3)
    check_placeholders(np.full((1, 7), 5), 2, 3, 5)


def test_prompts_of_a_geometry_without_motion_have_no_place_for_it(small_model):
    plain = small_model.loaded
    still = dataclasses.replace(plain, video=dataclasses.replace(plain.video, has_motion=False))
    assert still.check_prompts(still.build_prompt(), 3).shape[0] == 3
    with pytest.raises(ValueError, match="4 images of 4 tokens and no motion token need 16"):
        still.check_prompts(plain.build_prompt(), 3)
    with pytest.raises(ValueError, match="one motion token need 17"):
        plain.check_prompts(still.build_prompt(), 3)
