"""The small stages, and the logs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqathinker_jax.rl.rewards import RewardConfig, total_reward
from vqathinker_jax.rl.run_log import JsonLines, parameter_table
from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.stages import (
    compute_rewards,
    make_prompts,
    parse_texts,
    response_bucket,
    response_buckets,
    reward_row,
    stream_keys,
)

HUGE = f"<answer>{9**60}</answer>"
TEXTS = [
    ["<think>a</think><answer>3.50</answer>", "<answer>2</answer>", "no"],
    [
        "<think>a</think><answer>good</answer>",
        "<answer>4.125</answer>",
        HUGE,
    ],
]


def test_texts_become_arrays_and_nothing_is_invented():
    parsed = parse_texts(TEXTS)
    assert parsed.valid.tolist() == [[True, True, False], [False, True, True]]
    assert parsed.format_ok.tolist() == [[True, False, False], [True, False, False]]
    assert parsed.decimals.tolist() == [[1, 0, 0], [0, 3, 0]]
    np.testing.assert_allclose(parsed.scores[:, :2], [[3.5, 2], [0, 4.125]])
    assert parsed.scores.dtype == np.float32 and np.isfinite(parsed.scores).all()


def test_fallback_and_form_are_asked_for():
    texts = [["<answer>2</answer>", "about 3.5", "<think>a</think><answer>4</answer>"]]
    parsed = parse_texts(texts, "whole_text", reasoning=False)
    assert parsed.valid.tolist() == [[True] * 3]
    np.testing.assert_allclose(parsed.scores, [[2, 3.5, 4]])
    assert parsed.format_ok.tolist() == [[True, False, False]]
    assert parse_texts(texts).valid.tolist() == [[True, False, True]]


def test_rewards_are_those_of_total_reward():
    parsed, gt = parse_texts(TEXTS), jnp.array([3.0, 4.0], jnp.float32)
    perturbed = parse_texts([group[::-1] for group in TEXTS])
    cfg = RewardConfig(variant="official_code", sigma=0.7)
    terms = compute_rewards(parsed, perturbed, gt, jax.random.key(0), cfg)
    wanted = total_reward(
        parsed.scores, parsed.valid, gt, parsed.format_ok, perturbed.scores, perturbed.valid,
        decimals=parsed.decimals, decimals_perturbed=perturbed.decimals, sigma=0.7,
        variant="official_code",
    )  # fmt: skip
    np.testing.assert_allclose(terms.total, wanted.total, rtol=1e-6)
    row = reward_row(terms)
    np.testing.assert_allclose(row["reward_total"], np.asarray(wanted.total).mean(), rtol=1e-6)
    assert row["zero_spread_share"] == 0.0


def test_buckets_are_few_and_hold_what_they_must():
    assert response_buckets(100) == (16, 24, 32, 48, 64, 96, 100)
    assert len(response_buckets(2048)) == 8 and response_buckets(2048)[-1] == 2048
    assert [response_bucket(n, 100) for n in (1, 16, 17, 97, 100)] == [16, 16, 24, 100, 100]
    assert response_buckets(7) == (7,)
    with pytest.raises(ValueError, match="101 tokens"):
        response_bucket(101, 100)


def test_keys_depend_on_purpose_step_and_video_alone():
    data = jax.random.key_data
    keys = data(stream_keys(5, 2, 7, np.array([3, 11])))
    np.testing.assert_array_equal(keys[1:], data(stream_keys(5, 2, 7, np.array([11]))))
    for other in ((6, 2, 7), (5, 3, 7), (5, 2, 8)):
        assert (np.asarray(data(stream_keys(*other, np.array([3, 11])))) != keys).any()
    # A video that comes again in a step is answered anew; what comes once is as ever.
    again = np.asarray(data(stream_keys(5, 2, 7, np.array([3, 11, 3, 3]))))
    np.testing.assert_array_equal(again[:2], keys)
    assert len({tuple(key) for key in again}) == 4


def test_a_prompt_that_leaves_no_room_for_responses_is_refused(small_model):
    model = small_model.loaded
    known = model.cfg.decoder.max_position_embeddings
    slots = make_prompts(model, "train", 2, 1).ids.shape[1]
    assert make_prompts(model, "train", 2, known - slots).ids.shape == (2, slots)
    with pytest.raises(TrainingError, match=f"more than the {known} of the model"):
        make_prompts(model, "train", 2, known - slots + 1)


def test_a_log_goes_on_after_the_last_saved_step(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = JsonLines(path, last_step=2)
    log.write({"step": 3, "loss": float("nan"), "inner": {"x": [float("inf"), 1.5]}})
    log.close()
    assert path.read_text().splitlines() == [
        '{"step": 1}',
        '{"step": 2}',
        '{"step": 3, "loss": null, "inner": {"x": [null, 1.5]}}',
    ]


def test_parameter_table_counts_both_kinds():
    table = parameter_table({"decoder": 1200}, {"slowfast": 30, "decoder": 5}).splitlines()
    assert table[1].split() == ["decoder", "1,200", "5"]
    assert table[-1].split() == ["all", "1,200", "35"]
