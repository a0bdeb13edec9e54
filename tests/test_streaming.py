"""What is seen while a video is judged, and that it changes nothing."""

import dataclasses

import numpy as np
import pytest

from tests.data.clips import pictures, write_clip
from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.score_settings import ScoreSettings

SHORT = ScoreSettings(max_new_tokens=21, workers=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("streaming") / "clip.mp4"
    write_clip(path, pictures(19, 64, 48), rate=10)
    return str(path)


@pytest.mark.parametrize(
    "settings",
    [
        SHORT,
        dataclasses.replace(SHORT, samples=3, seed=4, soft=True, fallback="whole_text"),
        ScoreSettings(aggregate="soft", at_once=True, workers=1, segment_s=0.5, batch_size=2),
    ],
    ids=["greedy", "sampled", "at once"],
)
def test_the_last_event_is_what_score_gives(small_model, clip, settings):
    first, *texts, last = small_model.stream(clip, settings)
    assert first.kind == "frames" and last.kind == "result"
    shown = read_clip(clip, FrameRequest.of(small_model.video)).frames
    np.testing.assert_array_equal(first.images, shown)
    assert last.result == small_model.score(clip, settings)
    assert {event.kind for event in texts} == {"timeline" if settings.segment_s else "text"}
    if not settings.at_once:
        assert len(texts) > 1, "the text is seen to grow"
        assert texts[-1].text == last.result.responses[0]
        lengths = [len(event.text) for event in texts]
        assert lengths == sorted(lengths)
    if settings.segment_s:
        assert [len(event.result.timeline) for event in texts] == [1, 2, 3, 4]
        assert texts[1].result.timeline == last.result.timeline[:2]


def test_a_broken_file_has_one_event(small_model, tmp_path):
    (event,) = small_model.stream(tmp_path / "none.mp4", SHORT)
    assert event.kind == "result" and event.images is None
    assert event.result == small_model.score(tmp_path / "none.mp4", SHORT)
    assert event.result.status == "error"


def test_a_stream_may_be_left(small_model, clip):
    """As a browser does that goes away; the decoding process ends, and scoring goes on."""
    stream = small_model.stream(clip, SHORT)
    assert next(stream).kind == "frames"
    stream.close()
    assert small_model.score(clip, SHORT).status == "ok"
