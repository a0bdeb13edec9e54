"""The named architectures: their sizes against what is published, and that they can run."""

import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from vqathinker_jax.models.presets import PRESETS, count_parameters
from vqathinker_jax.models.slowfast import check_geometry
from vqathinker_jax.models.vqathinker import VQAThinker, VQAThinkerConfig
from vqathinker_jax.spec import INFERENCE, TRAINING

PUBLISHED = [name for name in PRESETS if name.startswith("internvl3-")]


def abstract(cfg: VQAThinkerConfig) -> VQAThinker:
    return nnx.eval_shape(lambda: VQAThinker(cfg, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))


def with_vocabulary(cfg: VQAThinkerConfig, size: int) -> VQAThinkerConfig:
    return dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, vocab_size=size))


# Of the published language models, whose cards count the embedding once where it is tied; the last
# two columns are the rows of their embedding and whether the head is counted besides.
@pytest.mark.parametrize(
    ("name", "published", "rows", "copies"),
    [
        ("internvl3-1b", 494_032_768, 151_936, 1),
        ("internvl3-2b", 1_543_714_304, 151_936, 1),
        ("internvl3-8b", 7_615_616_512, 152_064, 2),
        ("internvl3-14b", 14_770_033_664, 152_064, 2),
    ],
)
def test_decoders_have_the_size_of_qwen2_5(name, published, rows, copies):
    cfg = PRESETS[name].decoder
    without_vocabulary = published - copies * rows * cfg.hidden_size
    ours = count_parameters(abstract(PRESETS[name]).decoder)
    assert ours == without_vocabulary + 2 * 151_680 * cfg.hidden_size


def test_8b_has_the_published_total():
    """InternVL3-8B says 7.94 billion; the motion encoder and its projector come on top."""
    model = abstract(PRESETS["internvl3-8b"])
    motion = count_parameters(model.slowfast) + count_parameters(model.motion_projector)
    assert count_parameters(model.vision) == pytest.approx(304e6, rel=1e-3)
    # 33.6 million weights in convolutions and norms, and the norms' means and variances.
    assert count_parameters(model.slowfast) == pytest.approx(33.7e6, rel=2e-3)
    assert count_parameters(model) - motion == pytest.approx(7.944e9, rel=1e-4)


def test_count_by_hand():
    linear = nnx.Dict(a=nnx.Param(jnp.zeros((2, 3))), b=nnx.List([nnx.Param(jnp.zeros(5))]))
    assert count_parameters(linear) == 11


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_share_everything_but_the_decoder(name):
    cfg = PRESETS[name]
    assert (cfg.vision, cfg.slowfast) == (VQAThinkerConfig().vision, VQAThinkerConfig().slowfast)
    assert not cfg.decoder.tie_word_embeddings
    assert (cfg.decoder.rope_theta, cfg.decoder.rope_type) == (1e6, "dynamic")
    assert cfg.tokens_per_frame(INFERENCE.image_size) == 400
    assert cfg.tokens_per_frame(TRAINING.image_size) == 256


@pytest.mark.parametrize(
    ("name", "most", "side", "tokens"), [("nano", 5e6, 140, 4), ("tiny", 4e6, 196, 49)]
)
def test_small_models_are_small_and_run_in_the_published_frame_counts(name, most, side, tokens):
    """The bundled model must fit 20 MB, so 5 million numbers in float32."""
    cfg = with_vocabulary(PRESETS[name], 546)
    assert 1e6 < count_parameters(abstract(cfg)) < most
    for spec in (INFERENCE, TRAINING):
        check_geometry(cfg.slowfast, dataclasses.replace(spec, image_size=side))
    assert cfg.tokens_per_frame(side) == tokens
