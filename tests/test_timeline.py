"""Segments, worst moments, their rows and their picture."""

import dataclasses
import itertools
import json
import math

import pytest

from tests.data.clips import pictures, write_clip
from tests.test_scoring import run
from vqathinker_jax import cli, scoring
from vqathinker_jax.data.clip import FrameRequest, VideoError
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.results import ScoreResult, Segment, result_from_json
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.terminal import shown_moments
from vqathinker_jax.timeline import (
    clip_seconds,
    clock,
    segment_bounds,
    why_no_timeline,
    worst_moments,
)
from vqathinker_jax.timeline_plot import PlotError, check_plot, write_timeline_plot

AT_ONCE = ScoreSettings(aggregate="soft", at_once=True, workers=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """55 frames at 25 per second: 2.2 s."""
    path = tmp_path_factory.mktemp("timeline") / "long $clip.mp4"
    write_clip(path, pictures(55, 64, 48), rate=25)
    return str(path)


@pytest.mark.parametrize("duration", [0.04, 1.0, 9.99, 10.0, 12.4999, 12.5, 3600.0])
def test_segments_cover_a_video(duration):
    bounds = segment_bounds(duration, 5.0)
    assert bounds[0][0] == 0 and bounds[-1][1] == duration
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(bounds))
    lengths = [end - start for start, end in bounds]
    assert all(length == 5 for length in lengths[:-1])
    assert lengths[-1] < 7.5 and (len(bounds) == 1 or lengths[-1] >= 2.5)


def test_every_frame_of_a_segment_is_its_own(clip, small_model):
    facts = read_clip(clip, FrameRequest.of(small_model.video)).facts
    assert clip_seconds(facts) == 55 / 25
    still = dataclasses.replace(facts, container="image")
    assert clip_seconds(still) is None
    assert clip_seconds(dataclasses.replace(facts, fps=0.0)) is None
    assert clip_seconds(dataclasses.replace(facts, duration=0.0)) == 55 / 25
    seen = []
    for start, end in segment_bounds(55 / 25, 0.5):
        request = dataclasses.replace(FrameRequest.of(small_model.video), bound=(start, end))
        indices = read_clip(clip, request).indices
        assert start * 25 - 1 <= indices.min() and indices.max() <= end * 25
        seen += indices.tolist()
    assert seen == sorted(set(seen)), "segments show frames of their own, in order"


def test_a_timeline_adds_to_the_row(small_model, clip):
    settings = dataclasses.replace(AT_ONCE, segment_s=0.5, batch_size=2)
    plain, result = small_model.score(clip, AT_ONCE), small_model.score(clip, settings)
    assert result.score == pytest.approx(plain.score, abs=1e-5) and plain.timeline == ()
    assert [(one.start, one.end) for one in result.timeline] == [
        (0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.2),
    ]  # fmt: skip
    assert all(1 <= one.score <= 5 and one.std > 0 for one in result.timeline)
    assert len({one.score for one in result.timeline}) == 4
    assert result_from_json(result.to_json()) == result
    assert small_model.settings_fingerprint(settings) != small_model.settings_fingerprint(AT_ONCE)
    by_one = small_model.score(clip, dataclasses.replace(settings, batch_size=1))
    for one, other in zip(result.timeline, by_one.timeline, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
    whole = small_model.score(clip, dataclasses.replace(settings, segment_s=60.0))
    assert [one.score for one in whole.timeline] == pytest.approx([plain.score], abs=0.05)


def test_segments_that_fail_are_recorded(small_model, clip, monkeypatch):
    class Pool(scoring.DecodePool):
        def submit(self, path, request=None):
            if request is not None and (0.5, 1.0) in request.bounds:
                return super().submit("no such file")
            return super().submit(path, request)

    monkeypatch.setattr(scoring, "DecodePool", Pool)
    result = small_model.score(clip, dataclasses.replace(AT_ONCE, segment_s=0.5))
    assert result.status == "ok"
    bad = result.timeline[1]
    assert bad.score is None and "no such file" in bad.error
    assert [one.error is None for one in result.timeline] == [True, False, True, True]
    assert "1 of 4 segments have no score" in result.warnings
    assert bad not in worst_moments(result.timeline)


def test_what_has_no_timeline(small_model, clip, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "still.png")
    settings = dataclasses.replace(AT_ONCE, segment_s=1.0)
    still = small_model.score(tmp_path / "still.png", settings)
    assert still.score is not None and still.timeline == ()
    assert "a still image has no timeline" in still.warnings
    facts = read_clip(clip, FrameRequest.of(small_model.video)).facts
    assert why_no_timeline(facts, 0.1) is None
    assert "fewer than 2 frames" in why_no_timeline(dataclasses.replace(facts, fps=15.0), 0.1)
    assert "rate is unknown" in why_no_timeline(dataclasses.replace(facts, fps=0.0), 5.0)
    missing = small_model.score(tmp_path / "none.mp4", settings)
    assert missing.status == "error" and missing.timeline == ()


def test_worst_moments():
    line = [Segment(t, t + 1, score) for t, score in enumerate([3.0, 1.5, None, 2.0, 1.5])]
    assert [one.start for one in worst_moments(line)] == [1, 4]
    assert worst_moments(line[:1]) == []
    assert [one.start for one in worst_moments(line, 1)] == [1]
    assert worst_moments([Segment(0, 1, None, error="x")]) == []
    assert [clock(s) for s in (0, 59.96, 61.25, 7325.5)] == ["0:00", "1:00", "1:01.2", "2:02:05.5"]
    line = [Segment(0, 1, 2.0, reasoning="Blurred\nand dark."), Segment(1, 2, 3.0)]
    shown = shown_moments(ScoreResult("a.mp4", "ok", timeline=tuple(line), model_kind="nano"))
    assert shown == [("2.00 [nano]", "a.mp4 @ 0:00-0:01", "worst of 2 segments: Blurred and dark.")]


def test_the_command_names_and_draws_them(small_folder, clip, tmp_path):
    output, plot = tmp_path / "rows.csv", tmp_path / "plot.svg"
    line = ["score", clip, "--model", str(small_folder), "--at-once", "--workers", "1"]
    line += ["--segment", "0.5", "--timeline-plot", str(plot), "--output", str(output)]
    code, out, err = run(*line)
    assert code == 0
    first, *moments = out.splitlines()
    assert first.startswith(("1", "2", "3", "4")) and "[random]" in first
    assert [row.split("\t")[2] for row in moments] == [
        "worst of 4 segments", "2nd worst of 4 segments",
    ]  # fmt: skip
    assert "4 segments" in err and "timelines of 1 videos" in err
    drawn = plot.read_text()
    assert drawn.lstrip().startswith("<?xml") and "DejaVu" not in drawn[:200]

    plot.unlink()
    code, out, err = run(*line)  # nothing left to score: the plot comes from the rows
    assert (code, out) == (0, "") and plot.exists()
    code, out, _ = run(*line[:-4], "--json", "--quiet")
    assert len(json.loads(out)["timeline"]) == 4


def test_a_picture_of_every_case(tmp_path):
    line = tuple(
        Segment(5.0 * t, 5.0 * t + 5, score, std)
        for t, (score, std) in enumerate([(3.0, 0.2), (6.2, None), (None, None), (1.1, 0.5)])
    )
    rows = [
        ScoreResult("a$b_\n.mp4", "ok", score=3.1, timeline=line, model_kind="random"),
        ScoreResult("b.mp4", "error", error="broken"),
        ScoreResult("c.mp4", "ok", timeline=line[2:3], model_kind="published"),
    ]
    assert write_timeline_plot(rows, str(tmp_path / "plot.png")) == 2
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert write_timeline_plot(rows[1:2], str(tmp_path / "none.png")) == 0
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--segment", "0"), "at least 0.1 seconds"),
        (("--segment", "nan"), "at least 0.1 seconds"),
        (("--segment", "soon"), "invalid float"),
        (("--timeline-plot", "x.png"), "needs --segment"),
        (("--segment", "1", "--timeline-plot", "x.pdf"), "must end in .png or .svg"),
        (("--segment", "1", "--timeline-plot", "no/where/x.png"), "no such folder"),
        (("--segmnt", "1"), "did you mean '--segment'"),
    ],
)
def test_mistakes_are_one_line(options, said, small_folder, clip, capfd):
    with pytest.raises(SystemExit) as end:
        cli.main(["score", clip, "--model", str(small_folder), *options])
    printed = capfd.readouterr()
    assert end.value.code == 2 and printed.out == "" and said in printed.err


def test_too_many_panels():
    with pytest.raises(PlotError, match="at most 20"):
        check_plot("x.png", 21)
    with pytest.raises(ValueError, match="must be positive"):
        segment_bounds(0.0, math.inf)
    assert issubclass(VideoError, ValueError)
