"""The page in a real browser: a person drops videos and watches."""

import dataclasses
import threading
import time

import pytest

from tests.app.fakes import REASONING, WARNING, FakeJudge, serve
from tests.reports.records import write_clip
from tests.reports.test_in_browser import CONTRAST
from vqathinker_jax.results import Segment
from vqathinker_jax.score_settings import ScoreSettings
from vqathinker_jax.scoring import StreamEvent

STATE = "document.querySelector('#lane-{}').dataset.state === '{}'"


def text_of(browser, selector: str) -> str:
    return browser.run(f"document.querySelector('{selector}').innerText")


class TwoOpinions:
    """The first file is good, the second is not."""

    def __init__(self):
        self.count = 0

    def __call__(self, path):
        self.count += 1
        return FakeJudge((4.0, 4.2) if self.count % 2 else (2.0, 2.2), pause=0.01)(path)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True])
def test_two_videos_side_by_side(browser, tmp_path, width, is_dark):
    clips = [write_clip(tmp_path / name) for name in ("one & <b>two.mp4", "x" * 80 + ".mp4")]
    with serve(TwoOpinions()) as server:
        browser.show(width, dark=is_dark)
        browser.open(server.address)
        assert WARNING in browser.run("document.body.innerText")
        browser.choose_file("#file-A", clips[0])
        browser.wait(STATE.format("A", "judged"))
        assert browser.run("document.getElementById('versus').hidden")
        browser.choose_file("#file-B", clips[1])
        browser.wait(STATE.format("B", "judged"))
        assert text_of(browser, "#lane-A .number") == "4.10 ± 0.14"
        assert text_of(browser, "#lane-A .reason") == REASONING
        assert text_of(browser, "#lane-A .file-name") == "one & <b>two.mp4"
        assert "A is scored 2.00 above B." in text_of(browser, "#versus")
        shown = "[...document.querySelectorAll('#lane-{} .seen img')]"
        shown += ".filter((one) => one.naturalWidth).length"
        assert browser.run(shown.format("A")) == browser.run(shown.format("B")) == 6
        assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run(CONTRAST) == []
        assert WARNING in browser.run("document.body.innerText")
        browser.run("scrollTo(0, document.body.scrollHeight)")
        box = browser.run("document.querySelector('.warning').getBoundingClientRect().toJSON()")
        assert 0 <= box["top"] < box["bottom"] <= 900
        assert all(address.startswith(server.address) for address in browser.requests())
        assert list(server.uploads.folder.iterdir()) == []
        browser.run("document.querySelector('#lane-A .again').click()")
        assert browser.run(STATE.format("A", "empty"))
        assert browser.run("document.getElementById('versus').hidden")
    assert browser.complaints() == []


def test_reasons_appear_while_they_are_written(browser, tmp_path):
    gate = threading.Event()
    with serve(FakeJudge(gate=gate, num_before=4)) as server:
        browser.show(1280)
        browser.open(server.address)
        browser.choose_file("#file-A", write_clip(tmp_path / "a.mp4"))
        browser.wait("document.querySelector('#lane-A .reason').textContent.endsWith('sharp')")
        assert browser.run(STATE.format("A", "running"))
        assert "writing" in text_of(browser, "#lane-A .status")
        assert "1 being judged" in browser.wait(
            "document.getElementById('queue').innerText.includes('1 being') && "
            "document.getElementById('queue').innerText"
        )
        gate.set()
        browser.wait(STATE.format("A", "judged"))
        assert text_of(browser, "#lane-A .reason") == REASONING


def test_a_file_is_dropped_and_one_beside_the_lanes_is_not_opened(browser, tmp_path):
    clip = write_clip(tmp_path / "dropped.mp4")
    with serve(FakeJudge()) as server:
        browser.show(1280)
        browser.open(server.address)
        browser.drop_file("#lane-B .drop", clip, "dragEnter", "dragOver")
        browser.wait("document.querySelector('#lane-B').classList.contains('over')")
        browser.drop_file("#lane-B .drop", clip, "drop")
        browser.wait(STATE.format("B", "judged"))
        assert text_of(browser, "#lane-B .file-name") == "dropped.mp4"
        assert browser.run(STATE.format("A", "empty"))
        browser.drop_file("footer", clip)
        assert browser.run("location.href") == server.address
    assert browser.complaints() == []


def test_wrong_files_and_stopping_are_said(browser, tmp_path):
    broken, notes = tmp_path / "broken.mp4", tmp_path / "notes.txt"
    broken.write_bytes(b"no video " * 100)
    notes.write_text("hello")
    gate = threading.Event()
    with serve(FakeJudge(gate=gate)) as server:
        browser.show(1280)
        browser.open(server.address)
        browser.choose_file("#file-A", notes)
        assert "does not end like a video" in text_of(browser, "#lane-A .failure")
        browser.choose_file("#file-A", broken)
        browser.wait(STATE.format("A", "failed"))
        assert "Cannot be read as a video" in text_of(browser, "#lane-A .failure")
        browser.choose_file("#file-B", write_clip(tmp_path / "a.mp4"))
        browser.wait(STATE.format("B", "running"))
        browser.run("document.querySelector('#lane-B .stop').click()")
        browser.wait("document.querySelector('#lane-B .status').innerText.startsWith('Stopping')")
        while not any(job.is_cancelled for job in server.desk._jobs.values()):
            time.sleep(0.01)
        gate.set()
        browser.wait(STATE.format("B", "failed"))
        assert text_of(browser, "#lane-B .failure") == "Stopped."
        assert list(server.uploads.folder.iterdir()) == []


class OverTime:
    """Judges in two pieces, the second of which waits."""

    def __init__(self, gate: threading.Event):
        self.gate = gate

    def __call__(self, path):
        *events, last = FakeJudge()(path)
        said = dataclasses.replace(last.result, reasoning="Blurry.")
        yield from events
        pieces = (Segment(0.0, 1.0, 4.0, 0.1), Segment(1.0, 2.0, 2.0))
        yield StreamEvent("timeline", result=dataclasses.replace(said, timeline=pieces[:1]))
        self.gate.wait(30)
        whole = dataclasses.replace(said, timeline=pieces)
        yield StreamEvent("timeline", result=whole)
        yield StreamEvent("result", result=whole)


@pytest.mark.parametrize("width", [1280, 390])
def test_scores_over_time_are_drawn(browser, tmp_path, width):
    gate = threading.Event()
    with serve(OverTime(gate)) as server:
        browser.show(width, dark=True)
        browser.open(server.address)
        browser.choose_file("#file-A", write_clip(tmp_path / "a.mp4"))
        status = "document.querySelector('#lane-A .status').innerText"
        browser.wait(f"{status}.includes('piece by piece up to 0:01')")
        gate.set()
        browser.wait(STATE.format("A", "judged"))
        chart = "document.querySelector('#lane-A .over-time svg').getBoundingClientRect().width"
        assert browser.run(chart) > 200
        assert "worst: 0:01–0:02 (2.00)" in text_of(browser, "#lane-A .over-time")
        assert text_of(browser, "#lane-A .named .chip") == "blur"
        assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run(CONTRAST) == []
        browser.run("document.querySelector('#lane-A .again').click()")
        browser.choose_file("#file-A", write_clip(tmp_path / "b.mp4"))
        browser.wait(STATE.format("A", "judged"))
    assert browser.complaints() == []


def test_a_real_clip_and_a_model(browser, real_clips, small_model):
    """The model is random, so there may be no score; the page says what there is."""
    settings = ScoreSettings(samples=2, max_new_tokens=6, workers=1)
    judge = lambda path: small_model.stream(path, settings)  # noqa: E731
    with serve(judge, warning=small_model.warning) as server:
        browser.show(1280)
        browser.open(server.address)
        browser.choose_file("#file-A", real_clips / "ugc" / "test.avi")
        browser.wait(STATE.format("A", "judged"), 120)
        assert "random weights" in browser.run("document.body.innerText")
        images = browser.run("document.querySelectorAll('#lane-A .seen img').length")
        assert images == small_model.video.num_images
        assert "mpeg4 · 25" in text_of(browser, "#lane-A .facts")
        assert list(server.uploads.folder.iterdir()) == []
    assert browser.complaints() == []
