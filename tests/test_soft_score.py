"""The expected score of real answers: where the number is, and brute force over all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.clips import pictures, write_clip
from vqathinker_jax import asking
from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.inference import EncodedVideos, completion_logprobs, encode, normalize, respond
from vqathinker_jax.models.digits import SCORES
from vqathinker_jax.results import file_stamp
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.soft_score import (
    SoftScore,
    digit_tokens,
    expected_score,
    mixture,
    opening_tokens,
    tokens_before_number,
)

AT_ONCE = ScoreSettings(aggregate="soft", at_once=True, workers=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("soft") / "clip.mp4"
    write_clip(path, pictures(9, 64, 48))
    return str(path)


def brute_force(model, path: str, text: np.ndarray) -> np.ndarray:
    """Log-probability of each score after a text, every one run as a sequence of its own."""
    loaded, tokens = model.loaded, digit_tokens(model.tokenizer)
    frames = read_clip(path, FrameRequest.of(model.video)).frames[None]
    encoded = encode(loaded.graphdef, loaded.state, normalize(frames, loaded.dtype), loaded.video)
    numbers = [
        [tokens.point if c == "." else tokens.digits[int(c)] for c in f"{score:.2f}"]
        for score in SCORES
    ]
    completions = np.concatenate(
        [np.broadcast_to(text, (len(numbers), len(text))), np.array(numbers)], axis=1
    ).astype(np.int32)
    count = len(numbers)
    prompts = np.broadcast_to(model.build_prompt(), (count, len(model.build_prompt())))
    with loaded.computing():
        every = completion_logprobs(
            loaded.graphdef,
            loaded.state,
            prompts,
            completions,
            EncodedVideos(
                jnp.repeat(encoded.visual, count, 0), jnp.repeat(encoded.motion, count, 0)
            ),
            loaded.context_id,
        )
    return np.asarray(every)[:, len(text) :].sum(-1)


def test_at_once_equals_brute_force(small_model, clip):
    result = small_model.score(clip, AT_ONCE)
    opening = opening_tokens(small_model.tokenizer)
    expected = expected_score(brute_force(small_model, clip, opening))
    assert result.score == result.soft_score == pytest.approx(expected.score, abs=1e-4)
    assert result.soft_std == pytest.approx(expected.std, abs=1e-4)
    assert result.soft_mass == pytest.approx(expected.mass, rel=1e-3)
    assert result.parseable and result.responses == () and result.samples == 0
    assert result.aggregate == "soft" and result.mean is None
    # A random model puts hardly anything on numbers, and that is said.
    assert expected.mass < 1e-3
    assert any("the soft score means little" in warning for warning in result.warnings)


def test_after_sampled_texts_equals_brute_force(small_model, clip):
    """A random model says digits now and then; each is the place its own distribution is read."""
    settings = ScoreSettings(
        samples=3, max_new_tokens=40, fallback="whole_text", soft=True, workers=1, seed=1
    )
    result = small_model.score(clip, settings)
    has_number = [score is not None for score in result.scores]
    assert any(has_number)

    loaded = small_model.loaded
    asker = asking.Asker(loaded, settings, 1)
    frames = read_clip(clip, FrameRequest.of(small_model.video)).frames[None]
    encoded = encode(loaded.graphdef, loaded.state, normalize(frames, loaded.dtype), loaded.video)
    key = jax.random.fold_in(asker.root, asking.video_id(clip, file_stamp(clip)))
    generation = respond(loaded, asker.prompt[None], encoded, key[None], 3, asker.sampling)
    parts = []
    for tokens, length in zip(generation.tokens[0], generation.lengths[0], strict=True):
        response = np.asarray(tokens)[: int(length)]
        text = tokens_before_number(small_model.tokenizer, response, "whole_text")
        if text is not None:
            parts.append(expected_score(brute_force(small_model, clip, text)))
    assert len(parts) == sum(has_number)
    expected = mixture(parts)
    assert result.soft_score == pytest.approx(expected.score, abs=1e-4)
    assert result.soft_std == pytest.approx(expected.std, abs=1e-4)
    # The score itself is still that of the texts.
    assert result.score == result.mean != result.soft_score


def test_a_model_folder_may_say_that_its_score_is_the_soft_one(small_model, clip):
    """A random model writes numbers now and then only, so every text is read for one."""
    plain = ScoreSettings(
        samples=3, max_new_tokens=40, fallback="whole_text", soft=True, workers=1, seed=1
    )
    mean = small_model.score(clip, plain)
    soft = type(small_model)(dataclasses.replace(small_model.loaded, aggregate="soft"))
    result = soft.score(clip, dataclasses.replace(plain, soft=False))
    assert mean.aggregate == "mean" and mean.score == mean.mean
    assert result.aggregate == "soft" and result.score == result.soft_score == mean.soft_score
    # What is asked for goes before what the folder says, and the fingerprint is of what was done.
    named = dataclasses.replace(plain, aggregate="mean", soft=False)
    assert soft.score(clip, named).score == mean.score
    assert soft.settings_fingerprint(named) == small_model.settings_fingerprint(named)
    unnamed = dataclasses.replace(named, aggregate=None)
    assert soft.settings_fingerprint(unnamed) != soft.settings_fingerprint(named)
    assert small_model.settings_fingerprint(unnamed) == soft.settings_fingerprint(named)
    # A score at once is always the soft one.
    at_once = ScoreSettings(at_once=True, workers=1)
    assert small_model.score(clip, at_once).score == small_model.score(clip, AT_ONCE).score


def test_no_number_no_soft_score(small_model, clip):
    settings = ScoreSettings(aggregate="soft", max_new_tokens=5, workers=1)
    result = small_model.score(clip, settings)
    assert result.score is None and result.soft_score is None and not result.parseable
    assert any("no answer holds a number" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("<think> a 7 </think><answer> 3.42 </answer>", "<think> a 7 </think><answer> "),
        ("<answer>4</answer>", "<answer>"),
        ("<answer> 1.0 </answer> é <answer> é 2 </answer>", "<answer> 1.0 </answer> é <answer> é "),
        ("<answer> good </answer> 3.0", None),
        ("3.0 is my score", None),
    ],
)  # fmt: skip
def test_the_text_before_the_number(small_model, text, before):
    tokenizer = small_model.tokenizer
    ids = np.array(tokenizer.encode(text + "<|im_end|>", add_special_tokens=False), np.int32)
    found = tokens_before_number(tokenizer, ids, "none")
    assert (None if found is None else tokenizer.decode(found)) == before


def test_a_number_at_the_very_beginning_has_no_text(small_model):
    ids = np.array(small_model.tokenizer.encode("3.0 it is"), np.int32)
    assert tokens_before_number(small_model.tokenizer, ids, "whole_text") is None


def test_expectation_by_hand():
    logprobs = np.full(401, -np.inf)
    logprobs[[0, 400]] = np.log([0.3, 0.1])
    found = expected_score(logprobs)
    assert (found.score, found.std, found.mass) == pytest.approx((2.0, np.sqrt(3.0), 0.4))
    assert expected_score(np.full(401, -np.inf)) is None
    # Far below what a float32 can hold, the shares still count.
    assert expected_score(logprobs - 300).score == pytest.approx(2.0)


def test_a_mixture_has_the_moments_of_its_draws():
    found = mixture([SoftScore(2.0, 0.5, 0.8), SoftScore(4.0, 0.0, 0.6)])
    draws = np.concatenate([[1.5, 2.5], [4.0, 4.0]])
    assert (found.score, found.std) == pytest.approx((draws.mean(), draws.std()))
    assert found.mass == pytest.approx(0.7)
    assert mixture([]) is None


def test_a_tokenizer_that_joins_digits_is_refused(small_model):
    class Joined:
        def encode(self, text, add_special_tokens):
            return [1] if text.endswith("42") else [ord(c) for c in text]

    with pytest.raises(ValueError, match="digit by digit"):
        digit_tokens(Joined())


@pytest.mark.parametrize(
    "changes", [{"samples": 2}, {"aggregate": "mean"}, {"temperature": 0.5}, {"aggregate": "mode"}]
)
def test_refused_settings(changes):
    with pytest.raises(ValueError, match=r"at once|aggregate"):
        dataclasses.replace(AT_ONCE, **changes)
