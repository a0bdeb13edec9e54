"""The tokenizer of a model that starts from nothing: a token a word, and every text comes back."""

import re

import pytest

from vqathinker_jax.data.labels import Distortion, LabelledVideo
from vqathinker_jax.data.prompt import STYLES, build_prompt_text
from vqathinker_jax.rl.answers import parse_response
from vqathinker_jax.rl.responses import SEVERITIES, response_text
from vqathinker_jax.rl.vocabulary import answer_texts, small_tokenizer
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.weights.small_tokenizer import ADDED_TOKENS, ANSWER_TOKENS, learn_merges
from vqathinker_jax.weights.tokenizer import load_tokenizer

NAMES = tuple(DISTORTIONS)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def tokenizer(run_dir):
    return load_tokenizer(small_tokenizer(run_dir))


def words(tokenizer, text: str) -> list[str]:
    """The text as the pre-tokenizer cuts it: what no merge can cross."""
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    found = []
    for part in re.split("(" + "|".join(map(re.escape, ADDED_TOKENS)) + ")", text):
        found += [part] if part in ADDED_TOKENS else [text for text, _ in cut(part)]
    return found


def composed(*distortions: tuple[str, float], score: float = 2.75) -> str:
    found = tuple(Distortion(name, severity) for name, severity in distortions)
    return response_text(LabelledVideo("a", "a.mp4", score, "d", 1, distortions=found), score)


ANSWERS = [
    response_text(LabelledVideo("a", "a.mp4", 1.0, "d", 1), 1.0),
    composed(),
    *(composed((name, bound)) for name in NAMES for bound, _ in SEVERITIES),
    composed((NAMES[3], 0.9), (NAMES[0], 0.5)),
    composed((NAMES[7], 0.3), (NAMES[1], 0.61), (NAMES[10], 0.13), score=4.98),
]


@pytest.mark.parametrize("style", STYLES)
def test_every_word_of_a_prompt_is_one_token(tokenizer, style):
    text = build_prompt_text(16, 3, style, num_extras=16)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(words(tokenizer, text))
    assert tokenizer.decode(ids) == text
    # Words, placeholders and all, far from one token a letter.
    placeholders = text.count("<IMG_CONTEXT>")
    assert len(ids) - placeholders < 3 * len(text.replace("<IMG_CONTEXT>", " ").split())


@pytest.mark.parametrize("text", ANSWERS)
def test_every_word_of_an_answer_is_one_token_and_it_comes_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(words(tokenizer, text))
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == text
    parsed = parse_response(decoded)
    assert parsed.score == parse_response(text).score is not None


def test_tags_and_digits_are_one_token_each(tokenizer):
    for text in (*ANSWER_TOKENS, *"0123456789"):
        assert len(tokenizer.encode(text)) == 1
    assert len(tokenizer.encode("305")) == 3


def test_anything_else_is_spelt(tokenizer):
    text = "Wie scharf ist das Bild? 画质 🎬\t\\x"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) > len(words(tokenizer, text))


def test_words_are_not_learnt_across_tags():
    vocab, merges = learn_merges(["</think><answer> ab"])
    assert {"Ġab", "Ġ"} <= set(vocab) and len(merges) == 2
    assert not any("<" in token for token in vocab if len(token) > 1)


def test_answers_hold_every_name_and_word():
    text = " ".join(answer_texts())
    for word in (*NAMES, *(word for _, word in SEVERITIES)):
        assert f" {word}" in text.lower()


def test_a_run_keeps_its_tokenizer(tokenizer, run_dir):
    folder = run_dir / "tokenizer"
    marked = folder / "merges.txt"
    before = marked.stat().st_mtime_ns
    assert small_tokenizer(run_dir) == folder
    assert marked.stat().st_mtime_ns == before
    assert [path.name for path in run_dir.iterdir()] == ["tokenizer"]
