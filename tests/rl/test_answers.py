"""Reading responses: the tables of the specification, the reference patterns, and time limits."""

import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqathinker_jax.rl import answers

THINK = "<think>t</think>"


def score(content: str) -> float | None:
    return answers.parse_response(f"{THINK}<answer>{content}</answer>").score


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("3.50", 3.5),
        ("Score: 3.75", 3.75),
        (".5", 5),
        ("3.", 3),
        ("- 1.25", 1.25),
        ("+3.2", 3.2),
        ("4 out of 5", 4),
        ("3.6 to 3.7", 3.6),
        ("3,5", 3),
        ("3.5e2", 3.5),
        ("score-3.75", -3.75),
        ("good", None),
        ("", None),
        ("NaN", None),
        ("inf", None),
        ("٣.٥", None),  # digits of another script are not ASCII digits
        ("9" * 400, None),  # overflows to infinity
        ("12.5", 12.5),  # no clipping to the scale
    ],
)
def test_score_table(content, expected):
    assert score(content) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>3</answer>", True),
        ("<think></think><answer></answer>", True),
        ("<think>a\nb</think> \n\t<answer>3\n</answer>", True),
        ("<think>a</think>\u2003<answer>3</answer>", True),  # Unicode white space
        ("<think><answer></think><answer>3</answer></answer>", True),
        ("<think>a</think><answer>b</think><answer>c</answer>", True),
        (" <think>a</think><answer>3</answer>", False),
        ("<think>a</think><answer>3</answer>\n", False),
        ("<think>a</think>x<answer>3</answer>", False),
        ("<Think>a</Think><answer>3</answer>", False),
        ("<think >a</think><answer>3</answer>", False),
        ("<answer>3</answer>", False),
        ("<think>a</think><answer>3", False),
        ("<think></answer>", False),
        ("<think></think><answer></answer", False),
        ("<think></think></answer>", False),
        ("", False),
    ],
)
def test_format(text, expected):
    assert answers.parse_response(text).format_ok is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>3</answer>", True),
        ("<answer></answer>", True),
        ("<answer>a\n3</answer><answer>b</answer>", True),
        ("<think>a</think><answer>3</answer>", False),
        (" <answer>3</answer>", False),
        ("<answer>3</answer>\n", False),
        ("<answer>3", False),
        ("3</answer>", False),
        ("<answer></answer", False),
        ("", False),
    ],
)
def test_format_without_reasoning(text, expected):
    parsed = answers.parse_response(text, reasoning=False)
    assert parsed.format_ok is expected
    assert parsed.score == answers.parse_response(text).score


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "3", ".", "-", "25", " ", "\n", "a", "e"]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_equals_the_patterns_of_the_reference(text):
    parsed = answers.parse_response(text)
    pattern = r"<think>.*?</think>\s*<answer>.*?</answer>"
    assert parsed.format_ok == bool(re.fullmatch(pattern, text, re.DOTALL))
    pairs = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    number = re.search(r"-?[0-9]+(?:\.[0-9]+)?", pairs[-1]) if pairs else None
    assert parsed.score == (float(number.group()) if number else None)


@settings(max_examples=400, deadline=None)
@given(texts, st.sampled_from([2, 5]), st.sampled_from(answers.MULTI_VARIANTS))
def test_multi_format_equals_the_pattern(text, num_scores, variant):
    number, end = r"\s*\d+\.?\d*\s*", "\n" if variant == "official_code" and num_scores == 2 else ""
    body = rf"(?:{number}\n){{{num_scores - 1}}}{number}{end}\s*"
    pattern = rf"<think>.*?</think>\s*<answer>{body}</answer>"
    wrapped = [text, f"<think>{text}</think><answer>3\n{text}\n4.\n</answer>"]
    for candidate in wrapped:
        parsed = answers.parse_multi(candidate, num_scores, variant)
        assert parsed.format_ok == bool(re.fullmatch(pattern, candidate, re.DOTALL))


def test_last_pair_wins_even_without_a_number():
    assert answers.parse_response("<answer>2</answer><answer>4.5</answer>").score == 4.5
    assert answers.parse_response("<answer>2</answer><answer>good</answer>").score is None
    # The opening tag is closed by the nearest closing tag, so the pair spans the second opening.
    assert answers.parse_response("<answer>1<answer>2</answer>").score == 1
    assert answers.parse_response("<answer>1</answer><answer>2").score == 1


def test_format_and_parseability_are_independent():
    good, bad = (
        answers.parse_response("<think>a</think><answer>good</answer>"),
        answers.parse_response("<answer>3.2</answer>"),
    )
    assert (good.format_ok, good.score) == (True, None)
    assert (bad.format_ok, bad.score) == (False, 3.2)


@pytest.mark.parametrize(
    ("content", "written", "trimmed"),
    [
        ("3.50", 2, 1),
        ("4.00", 2, 0),
        ("3", 0, 0),
        ("2.005", 3, 3),
        ("0.00001", 5, 5),
        ("1000000000000000000000000.5", 1, 0),
        ("-3.25", 2, 2),
        ("good", 0, 0),
    ],
)
def test_decimals(content, written, trimmed):
    parsed = answers.parse_response(f"<answer>{content}</answer>")
    assert (parsed.decimals, parsed.decimals_trimmed) == (written, trimmed)


def test_trimmed_decimals_of_the_reference_quirk():
    """Of the 400 two-decimal values from 1.00 to 4.99, 40 count as coarse in the published code."""
    texts = [f"<answer>{value / 100:.2f}</answer>" for value in range(100, 500)]
    parsed = [answers.parse_response(text) for text in texts]
    assert all(answer.decimals == 2 for answer in parsed)
    assert sum(answer.decimals_trimmed < 2 for answer in parsed) == 40


def test_whole_text_fallback():
    text = "<think>Frame 4 is bad"
    assert answers.parse_response(text).score is None
    assert answers.parse_response(text, fallback="whole_text").score == 4
    # Only when there is no answer pair at all.
    text = "Frame 4 <answer>good</answer>"
    assert answers.parse_response(text, fallback="whole_text").score is None
    with pytest.raises(ValueError, match="whole_text"):
        answers.parse_response(text, fallback="random")


def test_multi_scores():
    parsed = answers.parse_multi(f"{THINK}<answer>1\n2\n3.5</answer>", 2)
    assert parsed == answers.MultiAnswer(format_ok=False, scores=[2.0, 3.5])
    parsed = answers.parse_multi(f"{THINK}\n<answer>\n 3. \r\n\n4.25\n</answer>", 2)
    assert parsed == answers.MultiAnswer(format_ok=True, scores=[3.0, 4.25])
    assert answers.parse_multi(f"{THINK}<answer>3</answer>", 2).scores is None
    assert answers.parse_multi("7 8 9", 2).scores is None
    overflow = f"<answer>{'9' * 400}\n3\n4</answer>"
    assert answers.parse_multi(overflow, 2).scores == [3, 4]
    assert answers.parse_multi(overflow, 3).scores is None


def test_reference_quirk_video_answer_needs_a_last_line_break():
    text = f"{THINK}<answer>3\n4</answer>"
    assert answers.parse_multi(text, 2).format_ok
    assert not answers.parse_multi(text, 2, "official_code").format_ok
    assert answers.parse_multi(f"{THINK}<answer>3\n4\n</answer>", 2, "official_code").format_ok
    five = f"{THINK}<answer>1\n2\n3\n4\n5</answer>"
    assert answers.parse_multi(five, 5, "official_code").format_ok


def test_multi_refuses():
    with pytest.raises(ValueError, match="official_code"):
        answers.parse_multi("", 2, "paper")
    with pytest.raises(ValueError, match="at least 1"):
        answers.parse_multi("", 0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"rating": 3.52}', 3.52),
        ('{"rating" :\n 4}', 4),
        ('{"rating": -3}', None),
        ('{"rating": 3.4.1}', None),
        ('{"rating": .}', None),
        ('{"rating": "3"}', None),
        ('{"rating": 2} {"rating": 3}', 2),
        ("3.5", None),
    ],
)
def test_rating(content, expected):
    assert answers.parse_rating(f"<answer>{content}</answer><answer>9</answer>") == expected


def test_degradation_and_choice():
    text = '<answer>{"distortion_class": " noise ", "x": 1,\n "severity": "slight"}</answer>'
    assert answers.parse_degradation(text) == answers.Degradation("noise", "slight")
    assert answers.parse_degradation('<answer>{"severity": "a", "distortion_class": "b"}') is None
    swapped = '<answer>{"severity": "a", "distortion_class": "b"}</answer>'
    assert answers.parse_degradation(swapped) is None
    assert answers.parse_degradation("no pair") is None
    assert answers.parse_choice("<answer>\n Image A </answer><answer>Image B</answer>") == "Image A"
    assert answers.parse_choice("Image A") is None


def test_reasoning():
    assert answers.reasoning_text("<think> Sharp.\n </think><answer>4</answer>") == "Sharp."
    assert answers.reasoning_text("<answer>4</answer>") is None
    assert answers.reasoning_text("<think>cut off") is None


QI_PIECES = ["<think>", "</think>", "<answer>", "</answer>", "\n", "\n", " ", "{", "}", "a"]
QI_BRACED = (
    r"<think>\s*\n.*?\n\s*</think>\s*\n<answer>\s*\n\{[^\{\}]*\}\s*\n\s*</answer>\s*",
    ["<think>", "\n", "a", "\n", "</think>", "\n", "<answer>", "\n", "{a}", "\n", "</answer>"],
)
QI_OPEN = (
    r"<think>\s*\n.*?\n\s*</think>\s*\n<answer>\s*\n.*?\n\s*</answer>\s*",
    ["<think>", "\n", "a", "\n", "</think>", "\n", "<answer>", "\n", "a", "\n", "</answer>"],
)


@settings(max_examples=1500, deadline=None)
@given(st.data(), st.sampled_from(["score", "degradation", "comparison"]))
def test_qinsight_format_equals_the_pattern(data, task):
    pattern, base = QI_OPEN if task == "comparison" else QI_BRACED
    pieces = list(base)
    for _ in range(data.draw(st.integers(0, 4))):
        where = data.draw(st.integers(0, len(pieces)))
        piece = data.draw(st.sampled_from([*QI_PIECES, None]))
        if piece is None:
            del pieces[where : where + 1]
        else:
            pieces.insert(where, piece)
    text = "".join(pieces)
    expected = bool(re.fullmatch(pattern, text, re.DOTALL))
    assert answers.qinsight_format_ok(text, task) == expected, text


def test_qinsight_format_examples():
    text = '<think>\nblurred\n</think>\n<answer>\n{"rating": 3}\n</answer>'
    assert answers.qinsight_format_ok(text)
    assert answers.qinsight_format_ok(text + " \n")
    assert not answers.qinsight_format_ok("x" + text)
    assert not answers.qinsight_format_ok(text.replace('{"rating": 3}', "3"))
    assert answers.qinsight_format_ok(text.replace('{"rating": 3}', "Image A"), "comparison")
    with pytest.raises(ValueError, match="degradation"):
        answers.qinsight_format_ok(text, "dist")


MILLION = 1_000_000
SEAM = "</think>\n<answer>x"
ADVERSARIAL = [
    "<think>" * (MILLION // 7),
    "<answer>" * (MILLION // 8),
    "<answer></answer>" * (MILLION // 17),
    "<think>" + "</think>" * (MILLION // 8) + "</answer>",
    "<think>" + "</think> " * (MILLION // 9) + "</answer>",
    "<think></think>" + " " * MILLION,
    "<think></think>" + "\n" * MILLION + "<answer>" + "\n" * MILLION + "</answer>",
    "<answer>" + "-" * MILLION + "</answer>",
    "<answer>" + "9" * MILLION + "</answer>",
    "<answer>1." + "3" * MILLION + "</answer>",
    "<answer>" + "3\n" * (MILLION // 2) + "</answer>",
    "<answer>" + '"distortion_class":"a"' * (MILLION // 22) + "</answer>",
    "<answer>" + '"distortion_class":"' * (MILLION // 20) + "</answer>",
    "<answer>" + '"rating"' + " " * MILLION + "</answer>",
    "<think>" + " " * (MILLION // 2) + "\n" + SEAM * (MILLION // 34) + "\n</answer>",
    "<think>\n" + "a" * (MILLION // 2) + SEAM * (MILLION // 34) + "\n</answer>",
    "<think>\n\n" + "</think>\n<answer>" * (MILLION // 17) + "{" * 9 + "\n</answer>",
    "<think>\n" + "{}" * (MILLION // 2) + "\n</answer>",
]


@pytest.mark.parametrize("index", range(len(ADVERSARIAL)))
def test_parsing_time_is_linear(index):
    text = ADVERSARIAL[index]
    start = time.process_time()
    answers.parse_response(text, fallback="whole_text")
    answers.parse_multi(text, 5)
    answers.parse_rating(text)
    answers.parse_degradation(text)
    answers.reasoning_text(text)
    for task in answers.QINSIGHT_TASKS:
        answers.qinsight_format_ok(text, task)
    # About 0.1 s here; a quadratic search would take minutes.
    assert time.process_time() - start < 5


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text):
    for candidate in (text, f"{THINK}<answer>{text}</answer>"):
        parsed = answers.parse_response(candidate, fallback="whole_text")
        assert parsed.score is None or math.isfinite(parsed.score)
        answers.parse_multi(candidate, 2)
        answers.parse_rating(candidate)
        answers.parse_degradation(candidate)
        answers.parse_choice(candidate)
        answers.qinsight_format_ok(candidate)
