"""The probabilities of all scores: against brute force, and against a chain of known odds."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.test_generate import CFG, PAD, keys_of, make, prompts
from tests.models.tiny_decoder import make_decoder
from vqathinker_jax.models.digits import SCORES, TREE, DigitTokens, score_logprobs
from vqathinker_jax.models.generate import SamplingConfig, decode, prefill
from vqathinker_jax.models.packed import packed_logprobs
from vqathinker_jax.soft_score import expected_score

TOKENS = DigitTokens(digits=tuple(range(3, 13)), point=13)


def written(score: float) -> list[int]:
    """The tokens of a score."""
    return [TOKENS.point if c == "." else TOKENS.digits[int(c)] for c in f"{score:.2f}"]


def test_the_tree_equals_401_responses_one_by_one():
    """Texts and prompts of unequal lengths, each against the packed pass of the training layout."""
    decoder = make()
    embeds, lengths = prompts([7, 3], 7)
    texts = [[20, 21, 22, 30, 23], [24, 25]]
    padded = np.full((2, 11), PAD, np.int32)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    counts = np.array([len(text) for text in texts], np.int32)
    found = score_logprobs(decoder, prefill(decoder, embeds, lengths), padded, counts, TOKENS)
    assert found.shape == (2, 401) and len(TREE) == 51

    packed = nnx.jit(packed_logprobs, static_argnames="chunk")
    for row, text in enumerate(texts):
        responses = np.array([text + written(score) for score in SCORES], np.int32)[None]
        every = packed(decoder, embeds[row : row + 1], lengths[row : row + 1], responses, chunk=512)
        expected = every.logprobs[0, :, len(text) :].sum(-1)
        np.testing.assert_allclose(found[row], expected, atol=2e-4)
        assert np.ptp(expected) > 1  # a uniform distribution would prove little


def chain(transitions: np.ndarray):
    """A decoder whose next token depends on the last one alone, with the odds given."""
    cfg = dataclasses.replace(CFG, hidden_size=48, num_attention_heads=6)
    decoder = make_decoder(cfg)
    graphdef, state = nnx.split(decoder)
    zero = jax.tree.map(jnp.zeros_like, state["layers"])
    state["layers"] = zero
    decoder = nnx.merge(graphdef, state)
    vocab, width = len(transitions), cfg.hidden_size
    embedding = np.zeros((cfg.padded_vocab_size, width), np.float32)
    embedding[:vocab, :vocab] = np.eye(vocab)
    head = np.zeros((width, cfg.padded_vocab_size), np.float32)
    # The final norm turns a unit vector into one of length sqrt(width).
    head[:vocab, :vocab] = np.log(transitions) / np.sqrt(width)
    decoder.embed.embedding[...] = jnp.asarray(embedding)
    decoder.lm_head.kernel[...] = jnp.asarray(head)
    decoder.norm.scale[...] = jnp.ones(width)
    return decoder


def test_soft_score_and_sampled_mean_agree_on_a_known_distribution():
    rng = np.random.default_rng(5)
    transitions = np.full((CFG.vocab_size, CFG.vocab_size), 1e-3)
    digits, start = list(TOKENS.digits), 20
    transitions[start, digits[1:6]] = [1, 2, 4, 3, 1]
    transitions[digits, TOKENS.point] = 4
    transitions[np.ix_([*digits, TOKENS.point], digits)] = rng.uniform(0.1, 1, (11, 10))
    transitions /= transitions.sum(1, keepdims=True)

    def probability(score: float) -> float:
        path = [start, *written(score)]
        return float(np.prod([transitions[a, b] for a, b in itertools.pairwise(path)]))

    known = np.array([probability(score) for score in SCORES])
    mean = known @ SCORES / known.sum()
    decoder = chain(transitions)
    prompt = decoder.embed_tokens(jnp.asarray([[30, start]]), jnp.float32)

    text = np.array([[start, PAD]], np.int32)
    prefix = prefill(decoder, prompt, jnp.asarray([2]))
    logprobs = np.asarray(score_logprobs(decoder, prefix, text, np.array([1], np.int32), TOKENS))
    soft = expected_score(logprobs[0])
    assert soft.score == pytest.approx(mean, abs=1e-5)
    assert soft.mass == pytest.approx(known.sum(), abs=1e-5)
    spread = np.sqrt(known @ (SCORES - mean) ** 2 / known.sum())
    assert soft.std == pytest.approx(spread, abs=1e-5)

    sampling = SamplingConfig(
        eos_id=35, pad_id=PAD, max_new_tokens=4, temperature=1.0, top_k=0, top_p=1.0
    )
    drawn = np.asarray(decode(decoder, prefix, keys_of(3), 6000, sampling).tokens[0])
    by_tokens = {tuple(written(score)): score for score in SCORES}
    sampled = [by_tokens[tuple(row)] for row in drawn.tolist() if tuple(row) in by_tokens]
    assert len(sampled) > 1000
    error = 4 * spread / np.sqrt(len(sampled))
    assert np.mean(sampled) == pytest.approx(soft.score, abs=error)
    share = len(sampled) / len(drawn)
    assert share == pytest.approx(soft.mass, abs=4 * np.sqrt(share * (1 - share) / len(drawn)))


def test_a_number_must_fit_into_the_positions():
    decoder = make()
    prefix = prefill(decoder, *prompts([7], 7))
    text = np.zeros((1, 512), np.int32)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        score_logprobs(decoder, prefix, text, np.array([502], np.int32), TOKENS)
