"""Random parameters to train from."""

import numpy as np
import pytest

from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.weights.initial import InitialSource, num_inputs
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes


@pytest.fixture(scope="module")
def source() -> InitialSource:
    return InitialSource(parameter_shapes(abstract_model(PRESETS["nano"])[1]), seed=3)


@pytest.mark.parametrize(
    ("path", "shape", "inputs"),
    [
        ("decoder.layers.attn.o.kernel", (3, 5, 32, 161), 160),
        ("decoder.layers.mlp.down.kernel", (3, 448, 161), 448),
        ("vision.layers.attn.qkv.kernel", (4, 128, 3, 4, 33), 128),
        ("vision.layers.attn.proj.kernel", (4, 4, 33, 128), 132),
        ("vision.patch_embedding.kernel", (14, 14, 3, 127), 588),
        ("motion_projector.fc1.kernel", (289, 160), 289),
        ("slowfast.stages.0.slow.blocks.0.conv_b.kernel", (1, 3, 3, 8, 9), 72),
    ],
)
def test_inputs_are_counted_without_the_axis_of_layers(path, shape, inputs):
    assert num_inputs(path, shape) == inputs


def test_kernels_keep_the_size_of_what_flows_through(source):
    kernel = source.draw("decoder.layers.mlp.down.kernel")
    assert kernel.std() == pytest.approx(384**-0.5, rel=0.02)
    assert source.draw("slowfast.stages.2.slow.blocks.0.conv_b.kernel").std() == pytest.approx(
        (2 / (9 * 16)) ** 0.5, rel=0.05
    )
    assert source.draw("decoder.embed.embedding")[:999].std() == pytest.approx(0.02, rel=0.02)
    assert source.draw("vision.position_embedding").std() == pytest.approx(0.02, rel=0.1)


def test_norms_start_as_the_identity_and_shortcuts_prevail(source):
    assert (source.draw("decoder.norm.scale") == 1).all()
    assert (source.draw("slowfast.stages.0.fast.blocks.0.norm_c.scale") == np.float32(0.2)).all()
    assert (source.draw("slowfast.stages.0.fast.blocks.0.norm_c.var") == 1).all()
    assert not source.draw("slowfast.stages.0.fast.blocks.0.norm_a.mean").any()


def test_a_seed_and_a_path_decide_a_parameter(source):
    path = "projector.fc1.kernel"
    shapes = {path: source.draw(path).shape}
    np.testing.assert_array_equal(InitialSource(shapes, 3).draw(path), source.draw(path))
    assert (InitialSource(shapes, 4).draw(path) != source.draw(path)).any()
    part = source.read(path, (slice(2, 5), slice(1, 3)), np.dtype(np.float32))
    np.testing.assert_array_equal(part, source.draw(path)[2:5, 1:3])
