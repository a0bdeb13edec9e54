"""The timeline: its worst moments marked, its gaps shaded, its words true."""

from xml.etree import ElementTree

from vqathinker_jax.reports.timeline_chart import described, moments, timeline_chart
from vqathinker_jax.results import Segment

TIMELINE = (
    Segment(0.0, 4.0, 3.5, 0.2),
    Segment(4.0, 8.0, 1.5, 0.1),
    Segment(8.0, 12.0, error="cannot be decoded"),
    Segment(12.0, 14.5, 4.0),
)


def test_worst_moments_and_gaps_are_drawn():
    svg = timeline_chart(TIMELINE)
    ElementTree.fromstring(svg)
    # Of three segments with a score at most half are worst.
    assert svg.count('class="low"') == 1 and svg.count('class="line"') == 2
    assert svg.count('class="lost"') == 1 and svg.count('class="band"') == 2


def test_it_is_told_in_words():
    said = described(TIMELINE)
    assert "0:14.5 in 4 segments" in said and "from 1.50 to 4.00" in said
    assert moments(TIMELINE) == "0:04–0:08 (1.50)"
    longer = (*TIMELINE, Segment(14.5, 19.0, 2.0))
    assert moments(longer) == "0:04–0:08 (1.50), 0:14.5–0:19 (2.00)"
    equal = (Segment(0.0, 4.0, 2.0), Segment(4.0, 8.0, 2.0))
    assert moments(equal) == "" and described(equal).endswith("from 2.00 to 2.00.")
    nothing = (Segment(0.0, 4.0, error="no"),)
    assert "none has a score" in described(nothing)
    assert moments(nothing) == moments(()) == ""
    assert 'class="lost"' in timeline_chart(nothing)
