"""A tokenizer of a few hundred tokens in the form of InternVL3's, for models that are as small."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vqathinker_jax.data.prompt import STYLES, build_prompt_text

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
PUBLISHED_TOKENS = (*QWEN_TOKENS, *PLAIN_TOKENS, *INTERNVL_TOKENS)
"""In the order of their ids in the published tokenizer."""
ANSWER_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
"""Ours alone, and not special: they are text that decoding keeps."""
ADDED_TOKENS = (*PUBLISHED_TOKENS, *ANSWER_TOKENS)
SPECIAL_TOKENS = (*QWEN_TOKENS, *INTERNVL_TOKENS)

END, PAD = "<|im_end|>", "<|endoftext|>"
MOST_IMAGES = 16
"""Frames, and extras, that `prompt_texts` counts up to; the digits are tokens of their own."""
_NO_LIMIT = 1_000_000


def prompt_texts() -> tuple[str, ...]:
    """The published prompts in every style."""
    return tuple(
        build_prompt_text(MOST_IMAGES, 1, style, num_extras=MOST_IMAGES) for style in STYLES
    )


def write_tokenizer(folder: Path, texts: Sequence[str]) -> int:
    """Writes the files of a Qwen2 tokenizer that knows the words of some texts.

    What the pre-tokenizer cuts those texts into (words with the space before them, single digits,
    runs of punctuation) is one token each; anything else is spelt in parts, down to bytes. The
    same texts give the same bytes. `generation_config.json` comes along: it holds ids.

    Args:
      folder: exists.
      texts: may hold added tokens, which count as such.

    Returns:
      The number of tokens, added ones included.
    """
    from transformers import Qwen2Tokenizer

    vocab, merges = learn_merges(texts)
    added = {token: len(vocab) + number for number, token in enumerate(ADDED_TOKENS)}
    by_id = sorted(vocab, key=lambda token: vocab[token])
    _write_json(folder / "vocab.json", {token: vocab[token] for token in by_id})
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "added_tokens.json", added)
    names = {"eos_token": END, "pad_token": PAD}
    extra = [token for token in SPECIAL_TOKENS if token != PAD]
    _write_json(folder / "special_tokens_map.json", {"additional_special_tokens": extra, **names})
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(added, extra, names))
    ends = [added[END], added[PAD]]
    _write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "eos_token_id": ends, "pad_token_id": added[PAD]},
    )
    # The one-file form loads faster; transformers makes it from the others.
    loaded = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    loaded.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocab) + len(added)


def learn_merges(texts: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges until nothing is left to merge: token -> id, and the pairs in order."""
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
        vocab_size=_NO_LIMIT,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(between_added_tokens(texts), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def between_added_tokens(texts: Sequence[str]) -> Iterator[str]:
    """What an added token cuts off is never merged with it.

    >>> list(between_added_tokens(["in <think> </think> tags"]))
    ['in ', ' ', ' tags']
    """
    added = re.compile("|".join(map(re.escape, ADDED_TOKENS)))
    for text in texts:
        yield from filter(None, added.split(text))


def _tokenizer_config(
    added: dict[str, int], extra: Sequence[str], names: dict[str, str]
) -> dict[str, Any]:
    decoder = {
        str(number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token, number in added.items()
    }
    return {
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
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
