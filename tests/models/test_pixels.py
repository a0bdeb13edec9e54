"""Which images the tower sees."""

import jax.numpy as jnp
import numpy as np

from vqathinker_jax.models.pixels import shown_images
from vqathinker_jax.spec import VideoSpec


def test_the_tower_sees_one_frame_of_a_burst_and_the_extras():
    pixels = jnp.arange(2 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 1, 1, 3)
    spec = VideoSpec(num_frames=6, image_size=28, burst=3, num_extras=2)
    np.testing.assert_array_equal(shown_images(pixels, spec), pixels[:, [0, 3, 6, 7]])
    assert shown_images(pixels, VideoSpec(num_frames=6, image_size=28, num_extras=2)) is pixels
