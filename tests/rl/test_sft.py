"""Supervised fine-tuning: it teaches the form; its texts; the anchor."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.lora_states import LORA
from tests.rl.train_runs import make_config, rows, write_data
from vqathinker_jax.config import ConfigError, TrainConfig
from vqathinker_jax.data.labels import Distortion, LabelledVideo
from vqathinker_jax.rl.answers import parse_response
from vqathinker_jax.rl.responses import NO_REASONS, SftConfig, reasons, response_text
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.sft import make_texts, require_responses_fit
from vqathinker_jax.rl.train import train
from vqathinker_jax.rl.update import weighted_sum

LONGEST = 64


def video(**facts) -> LabelledVideo:
    return LabelledVideo("a", "a.mp4", 3.25, "d", 1, **facts)


def test_sft_lowers_the_loss_and_teaches_the_form(small_folder, tmp_path):
    labels = write_data(tmp_path)
    config = make_config(
        small_folder,
        labels,
        data={"validation": make_config(small_folder, labels).data.train},
        run={
            "mode": "sft", "steps": 160, "videos_per_step": 2, "micro_batch": 2,
            "checkpoint_every": 160, "validate_every": 160,
        },
        rollout={"max_completion_length": 64},
        optimizer={"learning_rate": 1e-2, "total_steps": 160},
    )  # fmt: skip
    train(config, tmp_path / "run", is_quiet=True)
    logged = rows(tmp_path / "run" / "metrics.jsonl")
    assert logged[-1]["loss"] < 0.3 * logged[0]["loss"]
    (validation,) = rows(tmp_path / "run" / "validation.jsonl")
    assert validation["parse_rate"] == 1.0 and validation["videos"] == 5


def test_adapters_train_resume_and_are_left_beside_the_model(small_folder, tmp_path, capsys):
    labels = write_data(tmp_path)

    def config(steps: int) -> TrainConfig:
        config = make_config(
            small_folder,
            labels,
            run={"mode": "sft", "steps": steps, "micro_batch": 2, "checkpoint_every": 1},
            rollout={"max_completion_length": 64},
            optimizer={"learning_rate": 1e-2, "total_steps": 3},
        )
        return dataclasses.replace(config, model=dataclasses.replace(config.model, lora=LORA))

    for steps in (2, 3):
        train(config(steps), tmp_path / "broken")
    said = capsys.readouterr().err
    assert "LoRA of rank 3, alpha 6, on q_proj, o_proj, down_proj" in said
    assert "resuming after step 2 of 3" in said and "adapter: the adapters of step 3" in said
    train(config(3), tmp_path / "straight", is_quiet=True)
    losses = [row["loss"] for row in rows(tmp_path / "straight" / "metrics.jsonl")]
    assert losses[2] < losses[0]
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        pair = [(tmp_path / run / name).read_bytes() for run in ("broken", "straight")]
        assert pair[0] == pair[1]
    assert (tmp_path / "straight" / "model" / "config.json").is_file()
    with pytest.raises(ConfigError, match=r"model\.lora\.rank: 3 -> 4"):
        other = dataclasses.replace(LORA, rank=4)
        model = dataclasses.replace(config(3).model, lora=other)
        train(dataclasses.replace(config(3), model=model), tmp_path / "straight", is_quiet=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"random_scores": True, "digit_share": -0.1},
            r"digit_share must lie in \[0, 1\], got -0.1",
        ),
        ({"random_scores": True, "digit_share": 1.5}, r"digit_share must lie in \[0, 1\]"),
        ({"digit_share": 0.5}, "digit_share under 1 needs random_scores"),
        ({"name_weight": 0.0}, "name_weight must be positive and finite, got 0.0"),
        ({"name_weight": math.inf}, "name_weight must be positive and finite, got inf"),
        ({"name_weights": (("blur", -1.0),)}, "name_weights must be positive .*, blur has -1.0"),
        ({"name_weights": (("blur", 1.0), ("blur", 2.0))}, "each name once, blur is given twice"),
    ],
)
def test_shares_and_weights_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SftConfig(**values)


def test_composed_texts_are_well_formed():
    distortions = (
        Distortion("blur", 0.5), Distortion("rain", 0.7), Distortion("freeze", 1.0),
        Distortion("jitter", 0.07), Distortion("color", 0.7), Distortion("noise", 0.2),
    )  # fmt: skip
    text = response_text(video(distortions=distortions), 3.25)
    assert text == (
        "<think> Noise is slight. Freeze is severe. Blur is moderate. Wrong color is strong. "
        "Rain is strong. </think><answer> 3.25 </answer>"
    )
    answer = parse_response(text)
    assert answer.format_ok and answer.score == 3.25
    assert reasons(()) == "The video shows no distortion."
    assert reasons((Distortion("jitter", 0.07),)) == reasons(())
    assert reasons(None) == NO_REASONS


def test_a_given_response_is_kept_and_loses_only_its_score_to_a_drawn_one():
    given = "<think>Sharp.</think><answer>4.1</answer>"
    assert response_text(video(response=given), 3.25) == given
    drawn = response_text(video(response=given), 2.5, is_drawn=True)
    assert drawn == "<think>Sharp.</think><answer> 2.50 </answer>"


def test_without_reasoning_a_text_is_its_answer(small_model):
    facts = (video(), video(response="<think>Sharp.</think><answer>4.1</answer>"))
    model = dataclasses.replace(small_model.loaded, reasoning=False)
    texts = make_texts(model, facts, jax.random.split(jax.random.key(0), 2), SftConfig(), LONGEST)
    for ids in texts.ids:
        assert model.tokenizer.decode(ids[:-1]) == "<answer> 3.25 </answer>"
    assert parse_response("<answer> 3.25 </answer>", reasoning=False).format_ok


@pytest.mark.parametrize(
    ("digit_share", "num_masked"),
    [(1, 0), (0.6, 0), (0.5, 1), (0, 2)],
)
def test_texts_end_with_the_end_token_and_mask_digits(small_model, digit_share, num_masked):
    model = small_model.loaded
    keys = jax.random.split(jax.random.key(0), 2)
    videos = (video(), video(distortions=()))
    cfg = SftConfig(random_scores=True, digit_share=digit_share)
    texts = make_texts(model, videos, keys, cfg, LONGEST)
    pairs = list(zip(texts.ids, texts.weights, strict=True))
    assert all(ids[-1] == model.end_id and weight[-1] == 1 for ids, weight in pairs)
    left_out = [model.tokenizer.decode(ids[weight == 0]) for ids, weight in pairs]
    digits = [re.sub(r"\D", "", model.tokenizer.decode(ids)) for ids, _ in pairs]
    assert all(len(score) == 3 for score in digits)
    assert left_out == [""] * (2 - num_masked) + digits[2 - num_masked :]
    ids, weights = texts.padded(texts.longest + 3)
    assert ids.shape == weights.shape == (2, texts.longest + 3)
    assert not np.asarray(weights)[:, texts.longest :].any()


@pytest.mark.parametrize("digit_share", [0, 1])
def test_names_weigh_what_is_asked_for_and_their_end_weighs_one(small_model, digit_share):
    model = small_model.loaded
    found = (Distortion("blur", 0.5), Distortion("noise", 0.2))
    videos = (
        video(distortions=found), video(distortions=()), video(),
        video(distortions=found, response="<think>Sharp blur.</think><answer>4.1</answer>"),
    )  # fmt: skip
    cfg = SftConfig(random_scores=True, digit_share=digit_share, name_weight=2.5)
    texts = make_texts(model, videos, jax.random.split(jax.random.key(0), 4), cfg, LONGEST)
    heavy = [
        model.tokenizer.decode(ids[weight == 2.5])
        for ids, weight in zip(texts.ids, texts.weights, strict=True)
    ]
    assert heavy == [" Noise is slight. Blur is moderate.", "", "", ""]
    assert all(set(weight) <= {0, 1, np.float32(2.5)} for weight in texts.weights)


def test_single_names_have_weights_of_their_own(small_model):
    model = small_model.loaded
    found = (Distortion("color", 0.5), Distortion("noise", 0.2), Distortion("blur", 0.9))
    weights = (("color", 3.0), ("noise", 1.25), ("banding", 9.0))
    cfg = SftConfig(name_weight=2.0, name_weights=weights)
    texts = make_texts(
        model, (video(distortions=found),), jax.random.split(jax.random.key(0), 1), cfg, LONGEST
    )
    ids, weights = texts.ids[0], texts.weights[0]
    said = [model.tokenizer.decode(ids[weights == weight]) for weight in (1.25, 2, 3)]
    assert said == [" Noise is slight.", " Blur is severe.", " Wrong color is moderate."]


def test_a_text_that_is_too_long_is_refused_by_the_name_of_its_video(small_model):
    model = small_model.loaded
    given = "<think>Sharp.</think><answer>4.1</answer>"
    videos = (video(), video(response=given))
    num = len(model.tokenizer.encode(given, add_special_tokens=False)) + 1
    require_responses_fit(model, videos, num)
    wanted = f"text of {videos[1].id} has {num} tokens"
    with pytest.raises(TrainingError, match=wanted):
        require_responses_fit(model, videos, num - 1)
    with pytest.raises(TrainingError, match=wanted):
        keys = jax.random.split(jax.random.key(0), 1)
        make_texts(model, videos[1:], keys, SftConfig(), num - 1)
    # What is not looked at is not refused.
    require_responses_fit(dataclasses.replace(model, reasoning=False), videos, 3)


def test_a_sum_by_weights_leaves_out_what_weighs_nothing():
    x = jnp.array([[1.0, 2.0, jnp.nan], [3.0, 4.0, 5.0]])
    weights = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(weighted_sum(x, weights), 2 * 1 + 2 + 5)


def test_drawn_scores_depend_on_the_key_alone(small_model):
    model = small_model.loaded
    keys = jax.random.split(jax.random.key(0), 3)
    cfg = SftConfig(random_scores=True)

    def scores(videos, keys):
        texts = make_texts(model, videos, keys, cfg, LONGEST)
        return [parse_response(model.tokenizer.decode(ids)).score for ids in texts.ids]

    three = scores((video(),) * 3, keys)
    assert len(set(three)) == 3 and all(1 <= score <= 5 for score in three)
    assert scores((video(),) * 2, keys[1:]) == three[1:]
