"""Multiple choice: reading questions, and reading the letter of an answer."""

import json

import pytest

from vqathinker_jax.evaluation.benchmarks import BenchmarkError
from vqathinker_jax.evaluation.questions import (
    Answered,
    QuestionsOutcome,
    read_letter,
    read_questions,
)

OPTIONS = ("Bright", "Dark", "Not clear")
GOOD = {"video": "a.mp4", "question": "How is it lit?", "options": list(OPTIONS), "answer": "B"}


def read(tmp_path, *entries):
    (tmp_path / "q.json").write_text(json.dumps(list(entries)))
    return read_questions(tmp_path / "q.json", tmp_path)


def test_reads(tmp_path):
    first, second = read(tmp_path, GOOD, GOOD | {"answer": "Not clear", "group": "global"})
    assert (first.answer, second.answer, second.group) == (1, 2, "global")
    assert first.prompt.splitlines()[:3] == ["How is it lit?", "A. Bright", "B. Dark"]
    assert first.path == str(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "D"}, "question 2: its answer 'D' is neither a letter nor an option"),
        ({"answer": 1}, "its answer is no text"),
        ({"options": ["a"]}, "2 to 26 different"),
        ({"options": ["a", "a"]}, "2 to 26 different"),
        ({"options": "abc"}, "no list of texts"),
        ({"question": ""}, "its question is no text"),
        ({"question": "See <image>"}, "holds '<image>'"),
        ({"video": "../a.mp4"}, "climbs out"),
        ({"video": 3}, "no path"),
        ({"group": 3}, "its group is no text"),
    ],
)
def test_bad_questions_are_refused(change, said, tmp_path):
    with pytest.raises(BenchmarkError) as caught:
        read(tmp_path, GOOD, GOOD | change)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. Dark", "B"),
        ("**B**", "B"),
        ("Dark.", "B"),
        ("<think>A or B?</think><answer>C</answer>", "C"),
        ("<think>It is A.</think> The answer is B.", "B"),
        ("<answer>A</answer> no, <answer>B</answer>", "B"),
        ("The answer is A, or the answer is B", None),
        ("D", None),
        ("A bright day", None),
        ("I cannot say", None),
        ("", None),
        ("<answer></answer>", None),
    ],
)
def test_letters(response, letter):
    assert read_letter(response, OPTIONS) == letter


def test_an_answer_without_a_letter_is_wrong():
    rows = [("global", "ok", "A"), ("global", "no letter", None), ("referring", "ok", "B")]
    rows.append(("referring", "missing", None))
    answers = tuple(
        Answered(number, "v", group, status, "A", chosen, None, None)
        for number, (group, status, chosen) in enumerate(rows)
    )
    outcome = QuestionsOutcome("q", answers)
    assert outcome.groups == ("global", "referring")
    assert outcome.accuracy("global") == 0.5 and outcome.accuracy("referring") == 0
    assert outcome.accuracy() == pytest.approx(1 / 3)
