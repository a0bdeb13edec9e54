"""The published prompts, word for word, and a brief one for small models."""

from __future__ import annotations

from typing import Protocol

import numpy as np

SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
    "多模态大语言模型。"
)
QUESTION = (
    "You are doing the video quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this video? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality."
)
FORMAT = (
    "First output the thinking process in <think> </think> tags and then output the final answer "
    "in <answer> </answer> tags."
)
ANSWER_ONLY = "Output the final answer in <answer> </answer> tags."
"""`FORMAT` without reasoning. Ours: the wording of the paper's ablation is not published."""
BRIEF_QUESTION = "Rate this video."
STYLES = ("test", "train", "brief")
IMAGE_START, IMAGE_TOKEN, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
PAD = "<|endoftext|>"
PLACEHOLDERS = (IMAGE_START, IMAGE_TOKEN, IMAGE_END, TURN_START, TURN_END, "<image>", "<|")
"""Text that the template or the tokenizer would take for something else."""


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def build_prompt_text(
    num_frames: int,
    tokens_per_frame: int,
    style: str = "test",
    question: str | None = None,
    num_extras: int = 0,
    has_motion: bool = True,
    reasoning: bool = True,
) -> str:
    """The prompt for one video, placeholders written out, up to where the answer begins.

    Reference quirk: the test text has no space or newline between its parts, and the train text
    has (test/batch_infer.py against the training data's form). Both are kept as published.

    Reference quirk: the test script counts the motion tokens as int(n (1 / n)), which is 0 for n of
    49 or 196 (test/modeling_internvl_chat.py `batch_chat`); here there is always one, or none.

    Args:
      num_frames: F, frames of the video.
      tokens_per_frame: T, placeholders each of them takes, and each extra image.
      style: `test`, for inference, or `train`, both as published; or `brief`, hardly more than the
        placeholders, for a model that is trained with it: a short prefix is cheap.
      question: None for the style's own.
      num_extras: D; with 0 the text is the published one.
      has_motion: whether the motion token follows the images.
      reasoning: whether the answer is to be thought about first (`brief` asks for no form).

    Raises:
      ValueError: too small a count, an unknown style, or a question that is not valid Unicode or
        holds a placeholder or a special token.
    """
    if num_frames < 1 or tokens_per_frame < 1 or num_extras < 0:
        raise ValueError(
            f"a prompt needs frames and tokens, got {num_frames} frames and {num_extras} extras "
            f"of {tokens_per_frame}"
        )
    if question is None:
        question = BRIEF_QUESTION if style == "brief" else QUESTION
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise ValueError("the question is not valid Unicode")
    for placeholder in PLACEHOLDERS:
        if placeholder in question:
            raise ValueError(f"the question must not contain {placeholder!r}")
    image = _image(tokens_per_frame)
    shown = [(f"Frame{i}", image) for i in range(1, num_frames + 1)]
    shown += [(f"View{j}", image) for j in range(1, num_extras + 1)]
    if has_motion:
        shown.append(("Motion Feature", _image(1)))
    form = FORMAT if reasoning else ANSWER_ONLY
    match style:
        case "test":
            user = "Now you will receive a video:"
            user += "".join(f"{name}: {image}" for name, image in shown)
            user += question + form
        case "train":
            user = "Now you will receive a video:\n"
            user += "".join(f"{name}:{image}\n" for name, image in shown)
            user += f"{question} {form}"
        case "brief":
            user = "".join(image for _, image in shown) + question
            return f"{TURN_START}user\n{user}{TURN_END}\n{TURN_START}assistant\n"
        case _:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    return (
        f"{TURN_START}system\n{SYSTEM}{TURN_END}\n"
        f"{TURN_START}user\n{user}{TURN_END}\n"
        f"{TURN_START}assistant\n"
    )


def encode_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Token ids int32 [P] of a prompt, with no special tokens but those written in it."""
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)


def _image(num_tokens: int) -> str:
    return IMAGE_START + IMAGE_TOKEN * num_tokens + IMAGE_END
