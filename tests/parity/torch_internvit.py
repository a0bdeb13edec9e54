"""A transformers InternVL vision half with random weights, for parity tests and benchmarks."""

from __future__ import annotations

import numpy as np
import torch
from flax import nnx
from transformers import InternVLConfig
from transformers.models.internvl import modeling_internvl

from vqathinker_jax.models.internvit import InternViT, InternViTConfig
from vqathinker_jax.models.projectors import MLPProjector


def build_torch_vision(
    cfg: InternViTConfig, out_dim: int, seed: int, *, attention: str = "eager", std: float = 0.1
) -> modeling_internvl.InternVLModel:
    """A float32 model in eval mode around the smallest decoder; every vision parameter is random.

    Args:
      cfg: our configuration of the tower.
      out_dim: width of the decoder projected to; a multiple of 2.
      seed: of the weights.
      attention: transformers' `attn_implementation`.
      std: of kernels, biases and offsets; large enough that attention and biases matter.
    """
    text_config = {
        "model_type": "qwen2",
        "hidden_size": out_dim,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 8,
        "pad_token_id": 0,
    }
    vision_config = {
        "hidden_size": cfg.hidden_size,
        "intermediate_size": cfg.intermediate_size,
        "num_hidden_layers": cfg.num_hidden_layers,
        "num_attention_heads": cfg.num_attention_heads,
        "image_size": [cfg.image_size] * 2,
        "patch_size": [cfg.patch_size] * 2,
        "attention_bias": cfg.qkv_bias,
        "use_qk_norm": cfg.qk_normalization,
        "norm_type": cfg.norm_type,
        "layer_norm_eps": cfg.layer_norm_eps,
    }
    torch_cfg = InternVLConfig(
        vision_config=vision_config, text_config=text_config, attn_implementation=attention
    )
    model = modeling_internvl.InternVLModel(torch_cfg).eval()
    if cfg.qk_normalization:
        # transformers leaves the default 1e-6 here; the published code uses layer_norm_eps.
        for layer in model.vision_tower.encoder.layer:
            layer.attention.q_norm.variance_epsilon = cfg.layer_norm_eps
            layer.attention.k_norm.variance_epsilon = cfg.layer_norm_eps
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0.0, std, generator=generator)
            if ("norm" in name and name.endswith("weight")) or "lambda" in name:
                value.add_(1.0)
    return model


def torch_image_features(
    model: modeling_internvl.InternVLModel, pixels: np.ndarray, select_layer: int = -1
) -> np.ndarray:
    """Visual tokens [N, T, out_dim] of channels-last pixels [N, S, S, 3]."""
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        output = model.get_image_features(
            channels_first,
            vision_feature_layer=select_layer,
            vision_feature_select_strategy="default",
        )
    return output.pooler_output.numpy()


def copy_vision(
    model: modeling_internvl.InternVLModel, vision: InternViT, projector: MLPProjector
) -> None:
    """Sets the parameters of our two modules from a torch model of the same configuration."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    cfg, layers = vision.cfg, vision.layers
    depth, width = cfg.num_hidden_layers, cfg.hidden_size
    heads = (cfg.num_attention_heads, cfg.head_dim)

    def put(variable: nnx.Variable, value: np.ndarray) -> None:
        assert variable[...].shape == value.shape, (variable[...].shape, value.shape)
        variable[...] = value.astype(variable[...].dtype)

    def stacked(suffix: str) -> np.ndarray:
        return np.stack([state[f"vision_tower.encoder.layer.{i}.{suffix}"] for i in range(depth)])

    def qkv(suffix: str) -> np.ndarray:
        return np.stack([stacked(f"attention.{name}_proj.{suffix}") for name in "qkv"], axis=1)

    put(vision.class_embedding, state["vision_tower.embeddings.cls_token"][0, 0])
    put(vision.position_embedding, state["vision_tower.embeddings.position_embeddings"][0])
    patch = "vision_tower.embeddings.patch_embeddings.projection"
    put(vision.patch_embedding.kernel, state[f"{patch}.weight"].transpose(2, 3, 1, 0))
    put(vision.patch_embedding.bias, state[f"{patch}.bias"])

    kernel = qkv("weight").reshape(depth, 3, *heads, width).transpose(0, 4, 1, 2, 3)
    put(layers.attn.qkv.kernel, kernel)
    if cfg.qkv_bias:
        put(layers.attn.qkv.bias, qkv("bias").reshape(depth, 3, *heads))
    if cfg.qk_normalization:
        put(layers.attn.q_norm.scale, stacked("attention.q_norm.weight"))
        put(layers.attn.k_norm.scale, stacked("attention.k_norm.weight"))
    kernel = stacked("attention.projection_layer.weight").transpose(0, 2, 1)
    put(layers.attn.proj.kernel, kernel.reshape(depth, *heads, width))
    put(layers.attn.proj.bias, stacked("attention.projection_layer.bias"))
    put(layers.ls1, stacked("lambda_1"))
    put(layers.ls2, stacked("lambda_2"))
    for norm, name in ((layers.norm1, "layernorm_before"), (layers.norm2, "layernorm_after")):
        put(norm.scale, stacked(f"{name}.weight"))
        if cfg.norm_type == "layer_norm":
            put(norm.bias, stacked(f"{name}.bias"))
    for linear, name in ((layers.mlp.fc1, "fc1"), (layers.mlp.fc2, "fc2")):
        put(linear.kernel, stacked(f"mlp.{name}.weight").transpose(0, 2, 1))
        put(linear.bias, stacked(f"mlp.{name}.bias"))

    put(projector.norm.scale, state["multi_modal_projector.layer_norm.weight"])
    put(projector.norm.bias, state["multi_modal_projector.layer_norm.bias"])
    for linear, name in ((projector.fc1, "linear_1"), (projector.fc2, "linear_2")):
        put(linear.kernel, state[f"multi_modal_projector.{name}.weight"].T)
        put(linear.bias, state[f"multi_modal_projector.{name}.bias"])
