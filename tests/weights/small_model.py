"""A small architecture whose sizes all differ, and folders compared in memory."""

from pathlib import Path

import numpy as np

from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.tensor_files import open_folder

SMALL = VQAThinkerConfig(
    vision=InternViTConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        patch_size=7,
        image_size=28,
        qk_normalization=True,
    ),
    decoder=Qwen2Config(
        hidden_size=48,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
    ),
    slowfast=SlowFastConfig(stem_width=8, depths=(1, 2, 1, 1)),
)


def all_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder in memory."""
    return {name: np.array(tensor.view()) for name, tensor in open_folder(folder).items()}


def same_tensors(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Equal names, dtypes, shapes and bytes."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype
        and value.shape == second[name].shape
        and value.tobytes() == second[name].tobytes()
        for name, value in first.items()
    )
