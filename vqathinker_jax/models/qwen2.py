"""Qwen2: the language decoder, whole-sequence, prefill and one-token steps."""

from __future__ import annotations

import dataclasses

from vqathinker_jax.models.layers import round_up


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
    """`llm_config` of the folder. Defaults are Qwen2.5-7B as InternVL3-8B uses it.

    Raises:
      ValueError: heads that do not divide, or a rope scaling we do not implement.
    """

    vocab_size: int = 151674
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_type: str = "dynamic"
    """`default` or `dynamic`; both are the plain rotation up to `max_position_embeddings`."""
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    """True only where the folder says so and holds no `lm_head.weight`."""
    vocab_multiple: int = 128
    """The embedding and head are padded to a multiple of this, so that they shard."""
    remat: str = "none"
    """What the backward pass recomputes per layer: `none`, `names` or `full`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"llm_config: hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"llm_config: num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.rope_type not in ("default", "dynamic"):
            raise ValueError(
                f"llm_config: rope_scaling type {self.rope_type!r} is not supported "
                "(default and dynamic are)"
            )
        if self.remat not in ("none", "names", "full"):
            raise ValueError(f"remat must be none, names or full, got {self.remat!r}")

    @property
    def head_dim(self) -> int:
        """E: width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """V rounded up to `vocab_multiple`; the extra logits are -inf."""
        return round_up(self.vocab_size, self.vocab_multiple)
