"""A complete random model folder in the published layout, small enough to try everything with."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqathinker_jax.models.presets import PRESETS
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import VideoSpec
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.folder_writer import new_folder, write_folder
from vqathinker_jax.weights.mapping import make_table
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes

TINY_VIDEO = VideoSpec(num_frames=8, image_size=224, slow_divisor=4, motion_repeat=4)
TINY_MODEL = PRESETS["tiny"]
"""About four million parameters; the vocabulary is set by the tokenizer."""

QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
"""Added tokens that the published tokenizer does not call special."""
INTERNVL_TOKENS = (
    "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>",
)  # fmt: skip
ADDED_TOKENS = (*QWEN_TOKENS, *PLAIN_TOKENS, *INTERNVL_TOKENS)
"""In the order of their ids in the published tokenizer."""

CORPUS = (
    "You are doing the video quality assessment task. What is your overall rating on the quality "
    "of this video? The rating should be a float between 1 and 5, with 1 representing very poor "
    "quality and 5 representing excellent quality.",
    "First output the thinking process in <think> </think> tags and then output the final answer "
    "in <answer> </answer> tags.",
    "Now you will receive a video: Frame1: Frame2: Frame3: Frame4: Motion Feature:",
    "The frames look sharp, the colours are natural and the motion is smooth, so the quality is "
    "good. Blur, noise, blocking and flicker lower the quality of a video.",
    "The clip is dark and shaky, with strong compression artefacts; its quality is poor.",
    "system user assistant 0 1 2 3 4 5 6 7 8 9 1.25 2.50 3.42 4.75",
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
)
"""What the byte-pair merges are learnt from."""
_MERGED_VOCAB = 512


def make_tiny(
    dst: Path,
    seed: int = 0,
    *,
    model: VQAThinkerConfig = TINY_MODEL,
    video: VideoSpec = TINY_VIDEO,
    kind: str = "random",
) -> FolderConfig:
    """Writes a random model folder: config, two weight files with an index, tokenizer.

    Args:
      dst: must not exist, or be empty.
      seed: root of the weights; the same seed gives the same bytes.
      model: its architecture; the vocabulary size is replaced by the tokenizer's.
      video: the geometry it says it is meant for.
      kind: the label it carries.

    Raises:
      WeightsError: `dst` is in use or cannot be made.
    """
    tokenizer = train_tokenizer()
    vocab_size = len(tokenizer["vocab"]) + len(ADDED_TOKENS)
    model = dataclasses.replace(
        model, decoder=dataclasses.replace(model.decoder, vocab_size=vocab_size)
    )
    config = FolderConfig(model, video=video, kind=kind)

    _, state = abstract_model(model)
    source = RandomSource(parameter_shapes(state), seed)
    table = make_table(model, "official")
    total = sum(2 * math.prod(shape) for shape in source.shapes.values())
    with new_folder(dst) as folder:
        write_tokenizer(folder, tokenizer)
        _write_json(folder / "generation_config.json", _generation_config(tokenizer))
        write_folder(
            folder,
            table,
            source,
            config,
            counters={name: np.zeros((), np.int64) for name in table.counters},
            source_files=None,
            max_shard_bytes=0.6 * total,
        )
    return config


class RandomSource:
    """Random bfloat16 parameters, each drawn from the seed and its own path.

    They come from NumPy: compiling the modules' own initialisation takes minutes on a small
    machine. Norms stay near the identity, so that activations keep their size.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int):
        self.shapes = shapes
        self.seed = seed
        self.values: dict[str, np.ndarray] = {}

    def dtype(self, path: str) -> np.dtype:
        return np.dtype(jnp.bfloat16)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        if path not in self.values:
            self.values[path] = self._draw(path).astype(jnp.bfloat16)
        return self.values[path][region]

    def _draw(self, path: str) -> np.ndarray:
        shape = self.shapes[path]
        rng = np.random.default_rng([self.seed, zlib.crc32(path.encode())])
        module, name = path.split(".")[0], path.split(".")[-1]
        if module == "motion_projector" and name == "kernel":
            return rng.uniform(0, 0.01, shape)
        if module == "slowfast" and name == "kernel":
            return rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        if name in ("scale", "var"):
            return rng.uniform(0.9, 1.1, shape)
        if name in ("ls1", "ls2"):
            return rng.normal(0.1, 0.01, shape)
        return rng.normal(0, 0.02, shape)


def train_tokenizer() -> dict[str, Any]:
    """Learns byte-pair merges on `CORPUS`; returns `vocab` (token -> id) and `merges` (pairs)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_MERGED_VOCAB,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def write_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> None:
    """Writes the files of a Qwen2 tokenizer with the added tokens of InternVL."""
    from transformers import Qwen2Tokenizer

    vocab, merges = tokenizer["vocab"], tokenizer["merges"]
    added = {token: len(vocab) + number for number, token in enumerate(ADDED_TOKENS)}
    special = [token for token in ADDED_TOKENS if token not in PLAIN_TOKENS]
    by_id = sorted(vocab, key=lambda token: vocab[token])
    _write_json(folder / "vocab.json", {token: vocab[token] for token in by_id})
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "added_tokens.json", added)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    extra = [token for token in special if token != "<|endoftext|>"]
    _write_json(folder / "special_tokens_map.json", {"additional_special_tokens": extra, **names})
    decoder = {
        str(number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in special,
        }
        for token, number in added.items()
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": extra,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": 12288,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
            **names,
        },
    )
    # The one-file form loads faster; transformers makes it from the others.
    loaded = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    loaded.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _generation_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    first = len(tokenizer["vocab"])
    ends = [first + QWEN_TOKENS.index(token) for token in ("<|im_end|>", "<|endoftext|>")]
    return {"_from_model_config": True, "eos_token_id": ends, "pad_token_id": ends[1]}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
