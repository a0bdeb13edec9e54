"""The published prompts, against text written out by hand."""

import numpy as np
import pytest

from vqathinker_jax.data.prompt import build_prompt_text, encode_prompt

HEAD = (
    "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合"
    "开发的多模态大语言模型。<|im_end|>\n<|im_start|>user\n"
)
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
ASK = (
    "You are doing the video quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this video? The rating should be a float between 1 and 5, rounded to "
    "two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality."
)
ANSWER = (
    "First output the thinking process in <think> </think> tags and then output the final answer in"
    " <answer> </answer> tags."
)
C = "<IMG_CONTEXT>"


def test_test_style_has_nothing_between_its_parts():
    assert build_prompt_text(2, 3) == (
        HEAD
        + f"Now you will receive a video:Frame1: <img>{C}{C}{C}</img>Frame2: <img>{C}{C}{C}</img>"
        + f"Motion Feature: <img>{C}</img>"
        + ASK
        + ANSWER
        + TAIL
    )


def test_train_style_has_newlines_and_a_space():
    assert build_prompt_text(2, 3, style="train") == (
        HEAD
        + f"Now you will receive a video:\nFrame1:<img>{C}{C}{C}</img>\n"
        + f"Frame2:<img>{C}{C}{C}</img>\n"
        + f"Motion Feature:<img>{C}</img>\n"
        + ASK
        + " "
        + ANSWER
        + TAIL
    )


@pytest.mark.parametrize("tokens", [49, 196, 400, 256])
def test_there_is_one_motion_token_for_every_number_of_frame_tokens(tokens):
    """Reference quirk: int(n * (1 / n)) is 0 for 49 and 196."""
    text = build_prompt_text(5, tokens)
    assert text.count(C) == 5 * tokens + 1
    assert f"Motion Feature: <img>{C}</img>" in text


def test_without_motion_nothing_stands_between_images_and_question():
    text = build_prompt_text(2, 1, has_motion=False)
    assert text.count(C) == 2 and "otion" not in text
    assert f"video:Frame1: <img>{C}</img>Frame2: <img>{C}</img>{ASK}{ANSWER}{TAIL}" in text
    text = build_prompt_text(1, 3, "train", has_motion=False)
    assert f"video:\nFrame1:<img>{C}{C}{C}</img>\n{ASK} {ANSWER}{TAIL}" in text
    text = build_prompt_text(2, 1, "brief", "Sharp?", has_motion=False)
    assert f"user\n<img>{C}</img><img>{C}</img>Sharp?{TAIL}" in text


def test_without_reasoning_the_answer_alone_is_asked_for():
    short = "Output the final answer in <answer> </answer> tags."
    for style in ("test", "train"):
        asked = build_prompt_text(2, 3, style)
        assert build_prompt_text(2, 3, style, reasoning=False) == asked.replace(ANSWER, short)
    assert build_prompt_text(2, 3, "brief", reasoning=False) == build_prompt_text(2, 3, "brief")


def test_the_middle_dot_and_the_commas_of_the_system_text():
    text = build_prompt_text(1, 1)
    assert "\u00b7" in text and text.count("\uff0c") == 2 and text.count("\u3001") == 1


def test_details_come_after_the_frames_in_the_spacing_of_the_style():
    text = build_prompt_text(1, 2, num_extras=2)
    images = f"Frame1: <img>{C}{C}</img>View1: <img>{C}{C}</img>View2: <img>{C}{C}</img>"
    assert f":{images}Motion Feature: <img>{C}</img>" in text
    text = build_prompt_text(1, 2, style="train", num_extras=2)
    images = f"Frame1:<img>{C}{C}</img>\nView1:<img>{C}{C}</img>\nView2:<img>{C}{C}</img>\n"
    assert f":\n{images}Motion Feature:<img>{C}</img>\n" in text


def test_another_question():
    text = build_prompt_text(1, 2, question="Is it sharp?")
    assert f"</img>Is it sharp?{ANSWER}<|im_end|>" in text and ASK not in text


@pytest.mark.parametrize(
    "text",
    ["<img>", "<IMG_CONTEXT>", "</img>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<image>"],
)
def test_a_question_with_placeholders_is_refused(text):
    with pytest.raises(ValueError, match="must not contain"):
        build_prompt_text(1, 2, question=f"What is {text} here?")


def test_bad_arguments():
    with pytest.raises(ValueError, match="style must be one of test, train"):
        build_prompt_text(1, 2, style="tset")
    with pytest.raises(ValueError, match="not valid Unicode"):
        build_prompt_text(1, 2, question="caf\udce9?")
    with pytest.raises(ValueError, match="needs frames"):
        build_prompt_text(0, 2)
    with pytest.raises(ValueError, match="-1 extras"):
        build_prompt_text(1, 2, num_extras=-1)


def test_encoding_adds_no_special_tokens():
    class Bytes:
        def encode(self, text, *, add_special_tokens):
            return [1000, *text.encode()] if add_special_tokens else list(text.encode())

    found = encode_prompt(Bytes(), "ab")
    assert found.dtype == np.int32 and found.tolist() == [97, 98]


def test_the_brief_prompt_is_little_but_placeholders():
    text = build_prompt_text(2, 3, "brief", num_extras=1)
    image = "<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>"
    assert text == (
        f"<|im_start|>user\n{image * 3}<img><IMG_CONTEXT></img>Rate this video.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "Is it sharp?<|im_end|>" in build_prompt_text(2, 3, "brief", "Is it sharp?")
