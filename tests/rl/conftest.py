"""A whole model small enough to train in a test."""

import dataclasses

import numpy as np
import pytest

import vqathinker_jax as vqt
from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.tiny import make_tiny

VIDEO = VideoSpec(num_frames=4, image_size=56, slow_divisor=4, motion_repeat=2)
CONFIG = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=56,
    ),
    decoder=Qwen2Config(
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    slowfast=SlowFastConfig(
        stem_width=8, depths=(1, 1, 1, 1), slow_pool=(2, 1, 2), fast_pool=(5, 2, 1)
    ),
)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> vqt.VideoQualityModel:
    folder = tmp_path_factory.mktemp("small") / "model"
    make_tiny(folder, model=CONFIG, video=VIDEO)
    return vqt.from_pretrained(folder, dtype="float32")


@pytest.fixture
def prompts(small_model) -> tuple[np.ndarray, np.ndarray]:
    """Three padded prompts of different length with garbage in the pads, and their lengths."""
    rows = [small_model.build_prompt(question) for question in (None, "Is it sharp?", "Good?")]
    lengths = np.array([len(row) for row in rows], np.int32)
    assert len(set(lengths.tolist())) == 3
    padded = np.full((3, lengths.max() + 3), small_model.loaded.context_id, np.int32)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return padded, lengths


@pytest.fixture
def pixels() -> np.ndarray:
    shape = (3, VIDEO.num_frames, VIDEO.image_size, VIDEO.image_size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def with_objective(static, **changes):
    """`static` with a changed objective."""
    return dataclasses.replace(static, objective=dataclasses.replace(static.objective, **changes))
