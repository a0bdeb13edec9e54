"""Writing a config.json for a folder, in the fields of a layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from vqathinker_jax.models.qwen2 import Qwen2Config
from vqathinker_jax.models.slowfast import SlowFastConfig
from vqathinker_jax.spec import INFERENCE, VideoSpec
from vqathinker_jax.weights.config_json import (
    HF_ARCHITECTURE,
    OFFICIAL_ARCHITECTURE,
    OWN_KEY,
    PUBLISHED,
    TEMPLATE,
    FolderConfig,
)


def own_facts(folder: FolderConfig) -> dict[str, Any]:
    """What goes under `vqathinker_jax`: only what differs from the published model."""
    facts: dict[str, Any] = {}
    if folder.video != INFERENCE:
        facts["video"] = _video_fields(folder.video)
    if folder.model.slowfast != SlowFastConfig():
        facts["slowfast"] = dataclasses.asdict(folder.model.slowfast)
    if folder.prompt_style != "test":
        facts["prompt_style"] = folder.prompt_style
    if folder.kind != PUBLISHED:
        facts["kind"] = folder.kind
    if not folder.reasoning:
        facts["reasoning"] = False
    if folder.aggregate != "mean":
        facts["aggregate"] = folder.aggregate
    return facts


def _video_fields(video: VideoSpec) -> dict[str, Any]:
    # Folders with the published view alone say nothing of others, so that older readers take them.
    fields, published = dataclasses.asdict(video), dataclasses.asdict(INFERENCE)
    if video.has_motion:
        del fields["has_motion"]
    added = ("num_extras", "fragment_size", "view", "burst", "num_slices")
    if all(fields[name] == published[name] for name in added):
        fields = {name: value for name, value in fields.items() if name not in added}
    return fields


def make_config(
    folder: FolderConfig, layout: str, dtype: str, image_token_id: int
) -> dict[str, Any]:
    """A new config.json for the folder, in the fields of a layout.

    Args:
      folder: what to describe.
      layout: one of `mapping.LAYOUTS`.
      dtype: of most tensors, as torch names it: `bfloat16`.
      image_token_id: of `<IMG_CONTEXT>` (the hf layout records it).
    """
    config = (
        _hf_config(folder, dtype, image_token_id) if layout == "hf" else _chat_config(folder, dtype)
    )
    facts = own_facts(folder)
    return {**config, OWN_KEY: facts} if facts else config


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Writes a config.json as the published ones are written: sorted, indented by two."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _qwen2_fields(cfg: Qwen2Config) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "intermediate_size": cfg.intermediate_size,
        "num_hidden_layers": cfg.num_hidden_layers,
        "num_attention_heads": cfg.num_attention_heads,
        "num_key_value_heads": cfg.num_key_value_heads,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.rms_norm_eps,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": (
            {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}
            if cfg.rope_type == "dynamic"
            else None
        ),
        "max_position_embeddings": cfg.max_position_embeddings,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "use_sliding_window": False,
        "tie_word_embeddings": cfg.tie_word_embeddings,
    }


def _chat_config(folder: FolderConfig, dtype: str) -> dict[str, Any]:
    cfg, vision = folder.model, folder.model.vision
    return {
        "architectures": [OFFICIAL_ARCHITECTURE],
        "model_type": "internvl_chat",
        "downsample_ratio": cfg.downsample_ratio,
        "dynamic_image_size": True,
        "force_image_size": vision.image_size,
        "hidden_size": cfg.decoder.hidden_size,
        "llm_config": {**_qwen2_fields(cfg.decoder), "torch_dtype": dtype},
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": cfg.ps_version,
        "select_layer": cfg.select_layer,
        "template": TEMPLATE,
        "tie_word_embeddings": cfg.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": 3,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "norm_type": vision.norm_type,
            "qk_normalization": vision.qk_normalization,
            "qkv_bias": vision.qkv_bias,
            "hidden_act": "gelu",
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "drop_path_rate": vision.drop_path_rate,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "torch_dtype": dtype,
            "use_flash_attn": True,
        },
    }


def _hf_config(folder: FolderConfig, dtype: str, image_token_id: int) -> dict[str, Any]:
    cfg, vision = folder.model, folder.model.vision
    return {
        "architectures": [HF_ARCHITECTURE],
        "model_type": "internvl",
        "downsample_ratio": cfg.downsample_ratio,
        "image_seq_length": cfg.tokens_per_frame(vision.image_size),
        "image_token_id": image_token_id,
        "projector_hidden_act": "gelu",
        "text_config": _qwen2_fields(cfg.decoder),
        "tie_word_embeddings": cfg.decoder.tie_word_embeddings,
        "torch_dtype": dtype,
        "vision_feature_layer": cfg.select_layer,
        "vision_feature_select_strategy": "default",
        "vision_config": {
            "architectures": ["InternVLVisionModel"],
            "model_type": "internvl_vision",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": 3,
            "patch_size": [vision.patch_size, vision.patch_size],
            "image_size": [vision.image_size, vision.image_size],
            "layer_norm_eps": vision.layer_norm_eps,
            "norm_type": vision.norm_type,
            "use_qk_norm": vision.qk_normalization,
            "attention_bias": vision.qkv_bias,
            "hidden_act": "gelu",
            "attention_dropout": 0.0,
            "hidden_dropout_prob": 0.0,
            "projection_dropout": 0.0,
            "initializer_range": 0.02,
            "layer_scale_init_value": 0.1,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
        },
    }
