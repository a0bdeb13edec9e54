"""Distortions named in reasoning, against counts made by hand."""

import math

import pytest

from vqathinker_jax.data.labels import Distortion
from vqathinker_jax.rl.responses import NOTHING_WRONG, SUREST_FIRST, reasons
from vqathinker_jax.rl.words import NameCounts, named_distortions, words_agreement
from vqathinker_jax.synthetic.distortions import DISTORTIONS

NAMES = ("blur", "noise", "frame drop")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The video shows severe blur and mild noise.", {"blur": "severe", "noise": "mild"}),
        ("Frame drop is severe. Noise is mildly so.", {"frame drop": "severe", "noise": None}),
        ("Moderate Frame Drop.", {"frame drop": "moderate"}),
        ("blurred, noiseless, frame drops", {}),
        ("blur, then strong blur", {"blur": None}),
        ("strong, blur", {"blur": None}),
        ("unmild noise", {"noise": None}),
        ("", {}),
    ],
)
def test_names_are_whole_words_with_the_severity_beside_them(text, expected):
    assert named_distortions(text, NAMES) == expected


def test_of_two_names_the_longer_one_is_meant():
    names = ("frame", "frame drop", "drop")
    assert named_distortions("slight frame drop, a frame", names) == {
        "frame drop": "slight",
        "frame": None,
    }


def test_no_names_are_asked_about():
    assert named_distortions("severe blur", ()) == {}


def test_every_distortion_has_its_place_in_the_order():
    assert sorted(SUREST_FIRST) == sorted(DISTORTIONS)


def test_composed_texts_are_read_back_whole():
    truth = tuple(Distortion(name, 0.1 + 0.08 * i) for i, name in enumerate(DISTORTIONS))
    agreement = words_agreement([reasons(truth)], [truth], tuple(DISTORTIONS))
    assert agreement.macro_f1 == 1 and agreement.severity_exact == 1
    assert agreement.num_hits == len(DISTORTIONS)


def test_agreement_by_hand():
    truths = [
        (Distortion("blur", 0.9), Distortion("noise", 0.05)),  # the noise is too slight to name
        (Distortion("blur", 0.3),),
        (Distortion("noise", 0.5),),
        (Distortion("blur", 0.5), Distortion("sepia", 0.9)),  # sepia is not asked about
        (),
    ]
    texts = [
        "The video shows strong blur and slight noise.",  # severe: one word off; a false alarm
        "The video shows mild blur.",  # right
        None,  # a miss
        "It has blur.",  # a hit without a word of severity
        "It has blur.",  # a false alarm
    ]
    agreement = words_agreement(texts, truths, NAMES)
    assert agreement.counts == {
        "blur": NameCounts(hits=3, false_alarms=1, misses=0),
        "noise": NameCounts(hits=0, false_alarms=1, misses=1),
        "frame drop": NameCounts(hits=0, false_alarms=0, misses=0),
    }
    assert agreement.counts["blur"].f1 == pytest.approx(6 / 7)
    assert agreement.counts["noise"].f1 == 0
    assert math.isnan(agreement.counts["frame drop"].f1)
    assert agreement.macro_f1 == pytest.approx((6 / 7 + 0) / 2)
    assert (agreement.num_texts, agreement.num_distinct, agreement.num_hits) == (5, 3, 3)
    assert agreement.severity_exact == pytest.approx(1 / 3)
    assert agreement.severity_within_one == pytest.approx(2 / 3)


def test_undefined_where_nothing_is_wrong_and_nothing_said():
    agreement = words_agreement([NOTHING_WRONG, NOTHING_WRONG], [(), ()], NAMES)
    assert math.isnan(agreement.macro_f1) and math.isnan(agreement.severity_exact)
    assert agreement.num_distinct == 1


def test_a_text_for_each_video():
    with pytest.raises(ValueError, match="1 texts for 2 videos"):
        words_agreement(["x"], [(), ()], NAMES)
