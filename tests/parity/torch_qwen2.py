"""A tiny transformers Qwen2 with the weights of ours, for parity tests and benchmarks."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import torch
import transformers

from vqathinker_jax.models.qwen2 import Qwen2, Qwen2Config


def build_torch_qwen2(
    cfg: Qwen2Config, seed: int, *, attention: str = "eager", std: float = 0.1
) -> transformers.Qwen2ForCausalLM:
    """A random float32 model in eval mode; biases and norm scales are random too.

    Args:
      cfg: our configuration; `dynamic` rope becomes the published factor 2.
      seed: of the weights.
      attention: transformers' `attn_implementation`.
      std: of kernels and biases; large enough that attention and biases matter.
    """
    rope = {"rope_type": cfg.rope_type, "rope_theta": cfg.rope_theta}
    if cfg.rope_type == "dynamic":
        rope["factor"] = 2.0
    torch_cfg = transformers.Qwen2Config(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.intermediate_size,
        num_hidden_layers=cfg.num_hidden_layers,
        num_attention_heads=cfg.num_attention_heads,
        num_key_value_heads=cfg.num_key_value_heads,
        rms_norm_eps=cfg.rms_norm_eps,
        rope_parameters=rope,
        max_position_embeddings=cfg.max_position_embeddings,
        tie_word_embeddings=cfg.tie_word_embeddings,
        attn_implementation=attention,
    )
    model = transformers.Qwen2ForCausalLM(torch_cfg).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0.0, std, generator=generator)
            if name.endswith("norm.weight"):
                value.add_(1.0)
    return model


def copy_qwen2(torch_model: transformers.Qwen2ForCausalLM, decoder: Qwen2) -> None:
    """Sets the parameters of `decoder` from a torch model of the same configuration.

    Padded vocabulary rows are filled with 3.0: they would win every argmax if they were not hidden.
    """
    state = {name: value.detach().numpy() for name, value in torch_model.state_dict().items()}
    cfg = decoder.cfg
    e, h, g = cfg.head_dim, cfg.num_attention_heads, cfg.num_key_value_heads

    def put(param, value: np.ndarray) -> None:
        assert param[...].shape == value.shape, (param[...].shape, value.shape)
        param.set_value(jnp.asarray(value, param[...].dtype))

    def stacked(suffix: str) -> np.ndarray:
        names = [f"model.layers.{i}.{suffix}" for i in range(cfg.num_hidden_layers)]
        return np.stack([state[name] for name in names])

    def padded(table: np.ndarray) -> np.ndarray:
        extra = cfg.padded_vocab_size - cfg.vocab_size
        return np.pad(table, ((0, extra), (0, 0)), constant_values=3.0)

    put(decoder.embed.embedding, padded(state["model.embed_tokens.weight"]))
    put(decoder.norm.scale, state["model.norm.weight"])
    if decoder.lm_head is not None:
        put(decoder.lm_head.kernel, padded(state["lm_head.weight"]).T)
    layers, depth = decoder.layers, cfg.num_hidden_layers
    put(layers.input_norm.scale, stacked("input_layernorm.weight"))
    put(layers.post_attention_norm.scale, stacked("post_attention_layernorm.weight"))
    for linear, name, heads in (
        (layers.attn.q, "q_proj", h),
        (layers.attn.k, "k_proj", g),
        (layers.attn.v, "v_proj", g),
    ):
        kernel = stacked(f"self_attn.{name}.weight").transpose(0, 2, 1)
        put(linear.kernel, kernel.reshape(depth, -1, heads, e))
        put(linear.bias, stacked(f"self_attn.{name}.bias").reshape(depth, heads, e))
    out = stacked("self_attn.o_proj.weight").transpose(0, 2, 1)
    put(layers.attn.o.kernel, out.reshape(depth, h, e, -1))
    for linear, name in (
        (layers.mlp.gate, "gate_proj"),
        (layers.mlp.up, "up_proj"),
        (layers.mlp.down, "down_proj"),
    ):
        put(linear.kernel, stacked(f"mlp.{name}.weight").transpose(0, 2, 1))


def tiny_config(**changes) -> Qwen2Config:
    """All sizes different; an odd vocabulary, so that padding columns exist."""
    cfg = Qwen2Config(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=76,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        vocab_multiple=16,
    )
    return dataclasses.replace(cfg, **changes)
