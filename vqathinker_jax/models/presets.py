"""Architectures by name: the InternVL3 sizes that share this code, and two of our own."""

from __future__ import annotations

import math

import jax
from flax import nnx

from vqathinker_jax.models.internvit import InternViTConfig
from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.models.vqathinker import VQAThinkerConfig

# Every InternVL3 size has the tower, the motion encoder and the vocabulary that are the defaults of
# their configs, and an untied head (the official config class forces that, also where the Qwen2.5
# it started from ties). A folder's own config.json always decides.
PRESETS: dict[str, VQAThinkerConfig] = {
    "internvl3-1b": VQAThinkerConfig(
        decoder=Qwen2Config(
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
        )
    ),
    "internvl3-2b": VQAThinkerConfig(
        decoder=Qwen2Config(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        )
    ),
    "internvl3-8b": VQAThinkerConfig(
        decoder=Qwen2Config(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        )
    ),
    "internvl3-14b": VQAThinkerConfig(
        decoder=Qwen2Config(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=48,
            num_attention_heads=40,
            num_key_value_heads=8,
        )
    ),
    "nano": VQAThinkerConfig(
        vision=InternViTConfig(
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=140,
        ),
        decoder=Qwen2Config(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
        ),
        slowfast=SlowFastConfig(
            stem_width=4,
            fast_ratio=2,
            depths=(1, 1, 1, 1),
            slow_pool=(8, 3, 3),
            fast_pool=(32, 3, 3),
        ),
        downsample_ratio=0.2,
    ),
    "tiny": VQAThinkerConfig(
        vision=InternViTConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=224,
        ),
        decoder=Qwen2Config(
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
        ),
        slowfast=SlowFastConfig(stem_width=8),
    ),
}
"""Name -> architecture.

`nano` is the bundled model's, for frames of a multiple of 70 pixels a side, and
`tiny` that of `vqathinker make-tiny`, with the published ones, for at least 193. Their vocabulary
belongs to a tokenizer of their own: replace `decoder.vocab_size` by its size.
"""


def count_parameters(module: nnx.Module) -> int:
    """Numbers stored in a module: the sum over its parameters of the product of their sizes.

    Norm statistics and the rows that pad the vocabulary count too. Only shapes are looked at, so
    the module may be abstract.

    Example:
      >>> import jax.numpy as jnp
      >>> from vqathinker_jax.models.vqathinker import VQAThinker
      >>> cfg = PRESETS["internvl3-8b"]
      >>> make = lambda: VQAThinker(cfg, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
      >>> round(count_parameters(nnx.eval_shape(make)) / 1e9, 2)
      8.0
    """
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)
