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
from vqathinker_jax.evaluation.understanding import Understanding, remarks

OPTIONS = ("Bright", "Dark", "Not clear")
GOOD = {"video": "a.mp4", "question": "How is it lit?", "options": list(OPTIONS), "answer": "B"}


def read(tmp_path, *entries):
    (tmp_path / "q.json").write_text(json.dumps(list(entries)))
    return read_questions(tmp_path / "q.json", tmp_path)


def test_reads(tmp_path):
    other = GOOD | {"answer": "Not clear", "group": "global"}
    first, second, third = read(tmp_path, GOOD, other, GOOD | {"answer": "b. Dark"}).questions
    assert third.answer == 1
    assert (first.answer, second.answer, second.group) == (1, 2, "global")
    assert first.prompt.splitlines()[:3] == ["How is it lit?", "A. Bright", "B. Dark"]
    assert first.path == str(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "D"}, "question 2: its answer 'D' is neither a letter nor an option"),
        ({"answer": "A. Dark"}, "'A. Dark' is neither"),
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


THEIRS = {
    "video_name": "a.mp4",
    "question": "Is the video blurred?",
    "question_type": ["yes_or_no", "technical"],
    "answers": ["Yes", "No"],
    "correct_ans": "No",
    "context": "Single_Referring",
}
"""As Q-Bench-Video's own script reads them."""


def test_the_published_form_is_read(tmp_path):
    others = [
        THEIRS | {"context": ["Global"], "correct_ans": "A", "answer": "what a model said"},
        THEIRS | {"question_type": "open_ended", "answers": []},
        THEIRS | {"context": "Pair_Compare_Fine", "video_name": "a.mp4_cat_b.mp4.mp4"},
        THEIRS | {"context": "Joint"},
    ]
    found = read(tmp_path, THEIRS, *others)
    first, second = found.questions
    assert (first.group, first.answer, first.options) == ("referring", 1, ("Yes", "No"))
    assert (second.group, second.answer, second.number) == ("global", 0, 2)
    assert found.notes == (
        "1 question left out: open-ended, so without a letter to choose",
        "2 questions left out: about a pair of videos",
    )
    outcome = QuestionsOutcome("q", (), found.notes)
    assert "q: 2 questions left out: about a pair of videos" in remarks(
        Understanding(questions=(outcome,))
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({key: THEIRS[key] for key in THEIRS if key != "correct_ans"}, "without correct_ans"),
        (THEIRS | {"context": 3}, "its context is no text"),
        (THEIRS | {"question_type": "open_ended"}, "no multiple-choice question"),
    ],
)
def test_a_published_form_that_lacks_something_is_refused(entry, said, tmp_path):
    with pytest.raises(BenchmarkError, match=said):
        read(tmp_path, entry)


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
        ("The answer is A or B", None),
        ("The answer is A, B, or C.", None),
        ("The answer is A and nothing else", "A"),
        ("A. Bright\nB. Dark", None),
        ("(A) or (B)", None),
        ("A) or B)", None),
        ("A. Bright, as the B roll is. I am sure.", "A"),
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
