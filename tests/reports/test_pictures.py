"""The very frames that were seen, small; or why there are none."""

import base64
import io

import numpy as np
from PIL import Image

from tests.reports.records import result_of, write_clip
from vqathinker_jax.data.frames import burst_indices
from vqathinker_jax.reports.pictures import frame_strips, seen_request


def open_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_the_frames_seen_in_the_shape_of_the_video(tmp_path):
    wide = result_of(write_clip(tmp_path / "wide.mp4"), 3.0)
    tall = result_of(write_clip(tmp_path / "tall.mp4", size=(48, 96)), 2.0)
    strips = frame_strips([wide, tall], most=3, longest=80)
    assert [len(strip.pictures) for strip in strips] == [3, 3]
    assert [(p.width, p.height) for p in strips[0].pictures] == [(80, 60)] * 3
    assert open_uri(strips[1].pictures[0].uri).size == (40, 80)
    for strip, result in zip(strips, (wide, tall), strict=True):
        assert strip.num_seen == 6 and strip.why_none is None
        for picture in strip.pictures:
            assert picture.index in result.frames
            # Frame i was painted with the grey 20 i.
            assert abs(np.asarray(open_uri(picture.uri)).mean() - 20 * picture.index) < 6


def test_frames_in_bursts_are_found_again(tmp_path):
    result = result_of(write_clip(tmp_path / "a.mp4"), 3.0)
    facts = result.video
    frames = tuple(burst_indices(facts["num_frames"], facts["fps"], 6, 3).tolist())
    import dataclasses

    seen = dataclasses.replace(result, frames=frames)
    assert seen_request(seen).burst == 3
    (strip,) = frame_strips([seen], most=6)
    assert [picture.index for picture in strip.pictures] == list(dict.fromkeys(frames))
    odd = dataclasses.replace(result, frames=(0, 7, 1, 3, 2, 5))
    assert seen_request(odd) is None
    assert "cannot be told" in frame_strips([odd], most=6)[0].why_none


def test_a_changed_or_missing_file_has_no_pictures(tmp_path):
    results = [result_of(write_clip(tmp_path / f"{name}.mp4"), 3.0) for name in "abc"]
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mp4").write_bytes(b"something else")
    failed = type(results[0])("nowhere.mp4", "error", error="is damaged")
    strips = frame_strips([*results, failed], most=2)
    assert [bool(strip.pictures) for strip in strips] == [False, False, True, False]
    assert "gone, or has changed" in strips[0].why_none
    assert "gone, or has changed" in strips[1].why_none
    assert strips[3].why_none == "no frames were seen"
    assert frame_strips([], most=2) == []
