"""A whole model small enough to score and train with in a test."""

from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec

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
