"""The published model in torch, assembled from its parts with random weights.

Tower and projector are transformers' InternVL, the decoder is transformers' Qwen2, the motion
encoder is pytorchvideo's; the splice is written here from the facts of the published code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.parity.torch_internvit import build_torch_vision
from tests.parity.torch_qwen2 import build_torch_qwen2
from tests.parity.torch_slowfast import build_torch_slowfast
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.tiny import make_tiny


class TorchVQAThinker:
    """Float32, eval mode, random weights everywhere (BatchNorm statistics too)."""

    def __init__(self, cfg: VQAThinkerConfig, seed: int):
        self.cfg = cfg
        width = cfg.decoder.hidden_size
        self.vision = build_torch_vision(cfg.vision, width, seed, std=0.05)
        self.qwen = build_torch_qwen2(cfg.decoder, seed + 1, std=0.15)
        if cfg.decoder.tie_word_embeddings:
            # A head that is the embedding would otherwise repeat the token it is given.
            with torch.no_grad():
                self.qwen.get_input_embeddings().weight.mul_(0.1)
        self.slowfast = build_torch_slowfast(cfg.slowfast, seed + 2)
        features = cfg.slowfast.feature_size
        self.motion_mlp = torch.nn.Sequential(
            torch.nn.LayerNorm(features),
            torch.nn.Linear(features, width),
            torch.nn.GELU(),
            torch.nn.Linear(width, width),
        ).eval()
        generator = torch.Generator().manual_seed(seed + 3)
        with torch.no_grad():
            for value in self.motion_mlp.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))

    def visual_tokens(self, pixels: np.ndarray) -> torch.Tensor:
        """[N, F, S, S, 3] -> [N, F, T, D]."""
        num, frames, side = pixels.shape[:3]
        images = torch.from_numpy(pixels).reshape(num * frames, side, side, 3).permute(0, 3, 1, 2)
        with torch.inference_mode():
            hidden = self.vision.vision_tower(
                pixel_values=images, output_hidden_states=True
            ).hidden_states[self.cfg.select_layer][:, 1:]
            grid = round(hidden.shape[1] ** 0.5)
            tokens = shuffle(hidden.reshape(len(hidden), grid, grid, -1), self.cfg.ps_version)
            tokens = self.vision.multi_modal_projector(tokens)
        return tokens.reshape(num, frames, *tokens.shape[1:])

    def motion_feature(self, pixels: np.ndarray, video: VideoSpec) -> torch.Tensor:
        """[N, F, S, S, 3] -> [N, M]."""
        frames = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3)
        with torch.inference_mode():
            return self.slowfast(frames, video.slow_divisor, video.motion_repeat)

    def embeds(
        self, input_ids: np.ndarray, pixels: np.ndarray, video: VideoSpec, context_id: int
    ) -> torch.Tensor:
        """Prompt embeddings with every placeholder of a row replaced, the last one by motion."""
        ids = torch.from_numpy(input_ids.astype(np.int64))
        visual = self.visual_tokens(pixels).flatten(1, 2)
        with torch.inference_mode():
            motion = self.motion_mlp(self.motion_feature(pixels, video))
            out = self.qwen.get_input_embeddings()(ids).clone()
            for row in range(len(ids)):
                places = (ids[row] == context_id).nonzero()[:, 0]
                out[row, places[:-1]] = visual[row]
                out[row, places[-1]] = motion[row]
        return out

    def logits(self, embeds: torch.Tensor, mask: torch.Tensor | None = None) -> np.ndarray:
        with torch.inference_mode():
            return self.qwen(inputs_embeds=embeds, attention_mask=mask).logits.numpy()

    def greedy(
        self, embeds: torch.Tensor, mask: torch.Tensor, num_tokens: int, end_id: int, pad_id: int
    ) -> np.ndarray:
        """New ids of a left-padded batch."""
        with torch.inference_mode():
            return self.qwen.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=end_id,
                pad_token_id=pad_id,
            ).numpy()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every tensor under its official name."""
        parts = {
            "language_model.": self.qwen.state_dict(),
            "motion_mlp.": self.motion_mlp.state_dict(),
            "slowfast_model.": self.slowfast.state_dict(),
        }
        out = {prefix + name: v for prefix, part in parts.items() for name, v in part.items()}
        vision = self.vision.state_dict()
        embeddings = "vision_tower.embeddings."
        out["vision_model.embeddings.class_embedding"] = vision[embeddings + "cls_token"]
        table = vision[embeddings + "position_embeddings"]
        out["vision_model.embeddings.position_embedding"] = table
        for leaf in ("weight", "bias"):
            patch = vision[f"{embeddings}patch_embeddings.projection.{leaf}"]
            out[f"vision_model.embeddings.patch_embedding.{leaf}"] = patch
            for ours, theirs in (("0", "layer_norm"), ("1", "linear_1"), ("3", "linear_2")):
                out[f"mlp1.{ours}.{leaf}"] = vision[f"multi_modal_projector.{theirs}.{leaf}"]
        for i in range(self.cfg.vision.num_hidden_layers):
            old, new = f"vision_tower.encoder.layer.{i}.", f"vision_model.encoder.layers.{i}."
            for name, value in vision.items():
                if name.startswith(old):
                    self._add_layer_tensor(out, new, name.removeprefix(old), value, vision, old)
        if self.cfg.decoder.tie_word_embeddings:
            del out["language_model.lm_head.weight"]
        return {name: value.contiguous() for name, value in out.items()}

    @staticmethod
    def _add_layer_tensor(out, new, name, value, vision, old) -> None:
        renamed = {
            "attention.projection_layer": "attn.proj",
            "attention.q_norm": "attn.q_norm",
            "attention.k_norm": "attn.k_norm",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        stem, _, leaf = name.rpartition(".")
        if name in ("lambda_1", "lambda_2"):
            out[f"{new}ls{name[-1]}"] = value
        elif stem == "attention.q_proj":
            fused = [vision[f"{old}attention.{c}_proj.{leaf}"] for c in "qkv"]
            out[f"{new}attn.qkv.{leaf}"] = torch.cat(fused)
        elif stem not in ("attention.k_proj", "attention.v_proj"):
            out[f"{new}{renamed[stem]}.{leaf}"] = value


def shuffle(x: torch.Tensor, version: str) -> torch.Tensor:
    """Pixel shuffle by 2 as index arithmetic, [B, g, g, C] -> [B, T, 4C]."""
    half = x.shape[1] // 2
    cells = [(row, col) for row in range(half) for col in range(half)]
    if version == "v1":
        cells = [(row, col) for col in range(half) for row in range(half)]
    tokens = [
        torch.cat([x[:, 2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)], dim=-1)
        for r, c in cells
    ]
    return torch.stack(tokens, dim=1)


def write_official_folder(
    folder: Path, cfg: VQAThinkerConfig, video: VideoSpec, seed: int
) -> tuple[TorchVQAThinker, FolderConfig]:
    """A folder in the official layout that holds a torch model's weights; the vocabulary is the
    tiny tokenizer's."""
    config = make_tiny(folder, seed=seed, model=cfg, video=video, kind="random")
    for old in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        old.unlink()
    model = TorchVQAThinker(config.model, seed)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model, config
