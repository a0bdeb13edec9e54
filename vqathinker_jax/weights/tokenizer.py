"""The folder's tokenizer, read by transformers' Qwen2 class: never by code from the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vqathinker_jax.weights.errors import WeightsError

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

REQUIRED_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
)


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Reads the tokenizer of a model folder.

    Args:
      folder: holds tokenizer.json, or vocab.json and merges.txt with tokenizer_config.json.

    Raises:
      WeightsError: files are missing or unreadable, or tokens that the prompt needs.
    """
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    found = {name for name in names if (folder / name).is_file()}
    if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= found:
        raise WeightsError(
            f"{folder}: has no tokenizer (tokenizer.json, or vocab.json with merges.txt)"
        )
    # AutoTokenizer would read `auto_map` of config.json and ask to run the folder's code.
    from transformers import Qwen2Tokenizer

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file can raise nearly anything, depending on which
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise WeightsError(
            f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {reason})"
        ) from None
    missing = [
        token
        for token in REQUIRED_TOKENS
        if tokenizer.encode(token) != [tokenizer.convert_tokens_to_ids(token)]
    ]
    if missing:
        raise WeightsError(f"{folder}: its tokenizer does not know {', '.join(missing)}")
    return tokenizer
