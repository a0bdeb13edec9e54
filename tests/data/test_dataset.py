"""The stream of training batches: order, resume, sharding over processes, unreadable clips."""

import dataclasses
import itertools
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.data.clips import pictures, write_clip
from vqathinker_jax.data import reader
from vqathinker_jax.data.augment import augment, draw_view
from vqathinker_jax.data.cache import CacheError
from vqathinker_jax.data.clip import VideoError
from vqathinker_jax.data.dataset import (
    FEWEST_SEEN,
    DataConfig,
    LabelSource,
    StreamState,
    UnreadableVideosError,
    VideoStream,
    prefetch_to_device,
)
from vqathinker_jax.data.labels import LabelError, LabelledVideo
from vqathinker_jax.spec import VideoSpec

SPEC = VideoSpec(num_frames=3, image_size=28, slow_divisor=3, motion_repeat=2)
SOURCE = LabelSource("labels.csv", "videos", "1-5")
COUNT, BROKEN = 7, 3
"""Clips of the folder, and which of them is broken."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven labelled clips, the fourth of them cut off."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(COUNT):
        path = write_clip(folder / f"{i}.mp4", pictures(5, 64, 48, seed=i))
        if i == BROKEN:
            path.write_bytes(path.read_bytes()[:40])
    return tuple(
        LabelledVideo(f"clip-{i}", str(folder / f"{i}.mp4"), 1 + i / 2, "test", i + 1)
        for i in range(COUNT)
    )


@pytest.fixture(scope="module")
def readable(videos):
    return videos[:BROKEN] + videos[BROKEN + 1 :]


def config(**changes):
    changes = {"num_workers": 0, "max_unreadable": 0.5, **changes}
    return DataConfig(SOURCE, **changes)


def take(videos, count, cfg=None, batch_size=2, state=None, **options):
    options = {"seed": 5, **options}
    with VideoStream(videos, batch_size, SPEC, cfg or config(), **options) as stream:
        if state is not None:
            stream.restore(state)
        return list(itertools.islice(stream, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.ids == other.ids and batch.state == other.state
        np.testing.assert_array_equal(batch.frames, other.frames)
        np.testing.assert_array_equal(batch.gt, other.gt)
        np.testing.assert_array_equal(batch.indices, other.indices)


def ids(batches):
    return [name for batch in batches for name in batch.ids]


def test_batches_hold_the_videos_and_scores_that_they_name(videos):
    batches = take(videos, 5, batch_size=3)
    for batch in batches:
        assert batch.frames.shape == (3, 3, 28, 28, 3) and batch.frames.dtype == np.uint8
        assert batch.gt.dtype == np.float32 and batch.indices.dtype == np.int64
        assert batch.ids == tuple(f"clip-{i}" for i in batch.indices)
        np.testing.assert_array_equal(batch.gt, 1 + batch.indices / 2)
    frames = {}
    for batch in batches:
        for name, clip in zip(batch.ids, batch.frames, strict=True):
            np.testing.assert_array_equal(frames.setdefault(name, clip), clip)
    assert len({clip.tobytes() for clip in frames.values()}) == COUNT - 1


def test_every_epoch_has_every_video_once_in_a_new_order(readable):
    names = ids(take(readable, 9))
    epochs = [names[i : i + 6] for i in range(0, 18, 6)]
    assert all(sorted(epoch) == sorted(video.id for video in readable) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_seed_decides_the_order(readable):
    assert ids(take(readable, 3)) == ids(take(readable, 3))
    assert ids(take(readable, 3)) != ids(take(readable, 3, seed=6))
    in_order = ids(take(readable, 3, config(shuffle=False)))
    assert in_order == [video.id for video in readable]


def test_videos_of_one_content_follow_each_other(readable):
    contents = ["a", "b", None, "a", "b", "b"]
    videos = [
        dataclasses.replace(video, content=content)
        for video, content in zip(readable, contents, strict=True)
    ]
    names = ids(take(videos, 12, config(by_content=True)))
    epochs = [names[i : i + 6] for i in range(0, 24, 6)]
    content_of = {video.id: video.content for video in videos}
    for epoch in epochs:
        assert sorted(epoch) == sorted(content_of)
        runs = [key for key, _ in itertools.groupby(epoch, content_of.get)]
        assert len(runs) == 3
    b_orders = {tuple(name for name in epoch if content_of[name] == "b") for epoch in epochs}
    assert len(b_orders) > 1
    assert len({tuple(map(content_of.get, epoch)) for epoch in epochs}) > 1
    later = ids(take(videos, 9, config(by_content=True), state=StreamState(next_record=6)))
    assert later == names[6:]
    halves = [
        take(videos, 6, config(by_content=True), batch_size=1, process_index=i, process_count=2)
        for i in range(2)
    ]
    assert [ids(half) for half in halves] == [names[:12:2], names[1:12:2]]


def test_an_order_by_content_needs_contents(tmp_path):
    (tmp_path / "mine.csv").write_text("a.mp4,3\n")
    source = LabelSource(str(tmp_path / "mine.csv"), "videos", "1-5")
    assert len(DataConfig(source).read_training()) == 1
    with pytest.raises(LabelError, match=r"mine\.csv: no line has a content"):
        DataConfig(source, by_content=True).read_training()
    with pytest.raises(ValueError, match="by_content needs shuffle"):
        config(by_content=True, shuffle=False)


def test_the_number_of_workers_changes_nothing(videos):
    alone = take(videos, 6)
    for num_workers in (1, 2):
        assert_same(take(videos, 6, config(num_workers=num_workers)), alone)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_equals_the_uninterrupted_run(videos, num_workers):
    whole = take(videos, 7)
    for done in (1, 4):
        state = StreamState(**dataclasses.asdict(whole[done - 1].state))
        rest = take(videos, 7 - done, config(num_workers=num_workers), state=state)
        assert_same(rest, whole[done:])


def test_state_is_that_of_the_batch_handed_out_not_of_what_was_decoded_ahead(videos):
    with VideoStream(videos, 2, SPEC, config(num_workers=2), seed=5) as stream:
        assert stream.state().next_record == 0
        batches = [next(stream) for _ in range(2)]
        assert stream.state() == batches[-1].state
        stream.restore(batches[0].state)
        assert_same([next(stream)], batches[1:])


def test_restoring_refuses_other_labels(videos):
    state = take(videos, 1)[0].state
    moved = tuple(dataclasses.replace(video, path=video.path + "x") for video in videos)
    for change in ({"score": 4.25}, {"content": "a"}):
        changed = (dataclasses.replace(videos[0], **change), *videos[1:])
        with VideoStream(changed, 2, SPEC, config(), seed=5) as stream:
            with pytest.raises(ValueError, match="labels have changed"):
                stream.restore(state)
    with VideoStream(moved, 2, SPEC, config(), seed=5) as stream:
        stream.restore(state)


def test_a_broken_clip_is_skipped_counted_and_logged(videos, caplog):
    with caplog.at_level(logging.WARNING):
        batches = take(videos, 6, config(shuffle=False))
    assert ids(batches)[:8] == [f"clip-{i}" for i in (0, 1, 2, 4, 5, 6, 0, 1)]
    assert [batch.state.unreadable for batch in batches] == [0, 1, 1, 1, 2, 2]
    assert [batch.state.next_record for batch in batches] == [2, 4, 6, 8, 10, 12]
    assert [batch.state.skipped for batch in batches] == [(n,) for n in (0, 1, 1, 1, 2, 2)]
    assert f"{BROKEN}.mp4" in caplog.messages[0]
    assert caplog.messages[0].endswith("(1 of 4 clips unreadable)")


def test_too_many_unreadable_clips_stop_the_run(videos):
    cfg = config(max_unreadable=0.1, shuffle=False)
    with VideoStream(videos, 2, SPEC, cfg, seed=5) as stream:
        with pytest.raises(
            UnreadableVideosError, match=r"4 of 25 .*max_unreadable = 0\.1 .*3\.mp4"
        ):
            list(itertools.islice(stream, 20))
        # 3 of the first 18 are above the share as well, but fewer than 20 say little.
        assert FEWEST_SEEN <= stream.state().next_record + stream.state().unreadable < 25


def test_a_folder_without_a_readable_clip_ends(videos):
    with pytest.raises(UnreadableVideosError, match="20 of 20 clips unreadable"):
        take(videos[BROKEN : BROKEN + 1], 1, config(max_unreadable=0.99))


def test_processes_together_read_the_batches_of_one(readable):
    alone = take(readable, 4, batch_size=4)
    parts = [take(readable, 4, batch_size=2, process_index=i, process_count=2) for i in range(2)]
    for whole, left, right in zip(alone, *parts, strict=True):
        assert whole.ids == left.ids + right.ids


def taken_by(videos, count, num_batches, state=None, **changes):
    """Batches of four videos in all, read by `count` processes."""
    return [
        take(videos, num_batches, config(**changes), 4 // count, state, process_index=i,
             process_count=count)
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_position_fits_another_number_of_processes(readable, count):
    whole = take(readable, 5, batch_size=4)
    state = taken_by(readable, 2, 2)[0][-1].state
    rest = taken_by(readable, count, 3, state)
    assert [
        tuple(itertools.chain(*(batch.ids for batch in parts))) for parts in zip(*rest, strict=True)
    ] == [batch.ids for batch in whole[2:]]
    assert rest[0][-1].state.next_record == 20


def test_with_unreadable_clips_the_same_number_of_processes_goes_on_exactly(videos):
    whole = taken_by(videos, 2, 9)
    skipped = [parts[4].state.skipped[i] for i, parts in enumerate(whole)]
    state = whole[0][4].state.with_skipped(skipped)
    assert sum(skipped) == state.unreadable > 0
    rest = taken_by(videos, 2, 4, state)
    for parts, others in zip(rest, whole, strict=True):
        assert ids(parts) == ids(others[5:])
    # On another number every process begins at the same place; what was skipped stays counted.
    (alone,) = taken_by(videos, 1, 1, state)
    (fresh,) = taken_by(videos, 1, 6)
    assert alone[0].state.unreadable >= state.unreadable
    assert alone[0].state.next_record == fresh[-1].state.next_record


def test_what_is_kept_is_not_decoded_again(videos, tmp_path, monkeypatch):
    plain, cfg = take(videos, 6), config(cache=str(tmp_path / "frames"))
    assert_same(take(videos, 6, cfg), plain)
    decoded = []

    def refuse(path, *_, **__):
        decoded.append(path)
        raise VideoError.of(path, "was decoded again")

    monkeypatch.setattr(reader, "read_clip", refuse)
    assert_same(take(videos, 6, cfg), plain)
    assert set(decoded) == {videos[BROKEN].path}


def test_workers_may_share_the_kept_images(videos, tmp_path):
    cfg = config(cache=str(tmp_path / "frames"), num_workers=2)
    plain = take(videos, 6)
    for _ in range(2):
        assert_same(take(videos, 6, cfg), plain)
    assert len(list((tmp_path / "frames").iterdir())) == COUNT - 1


def test_a_cache_that_cannot_be_written_stops_the_stream(videos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be written to as a cache of frames"):
        take(videos, 1, config(cache=str(tmp_path / "file")))


def test_augmentation_shows_the_drawn_view_of_every_record(readable, tmp_path):
    plain, shown = take(readable, 9), take(readable, 9, config(augment=True))
    assert ids(shown) == ids(plain)
    views = [draw_view(5, record) for record in range(18)]
    for i, view in enumerate(views):
        clip = plain[i // 2].frames[i % 2]
        np.testing.assert_array_equal(shown[i // 2].frames[i % 2], augment(clip, view))
    assert len(set(views)) > 10
    # Kept images are those of the file, not of a view.
    cfg = config(augment=True, cache=str(tmp_path / "frames"))
    for _ in range(2):
        assert_same(take(readable, 9, cfg), shown)
    assert_same(take(readable, 9, config(cache=cfg.cache)), plain)


def test_augmentation_resumes_and_does_not_depend_on_workers(videos):
    whole = take(videos, 7, config(augment=True))
    for num_workers in (0, 2):
        cfg = config(augment=True, num_workers=num_workers)
        assert_same(take(videos, 3, cfg, state=whole[3].state), whole[4:])


def test_augmentation_does_not_depend_on_the_number_of_processes(readable):
    cfg = config(augment=True)
    alone = take(readable, 4, cfg, batch_size=4)
    parts = [
        take(readable, 4, cfg, batch_size=2, process_index=i, process_count=2) for i in range(2)
    ]
    for whole, left, right in zip(alone, *parts, strict=True):
        assert whole.ids == left.ids + right.ids
        np.testing.assert_array_equal(whole.frames, np.concatenate([left.frames, right.frames]))


def test_unusable_arguments_are_refused(videos):
    for arguments in ((videos, 0), ((), 2)):
        with pytest.raises(ValueError, match="a stream needs"):
            VideoStream(*arguments, SPEC, config(), seed=0)
    with pytest.raises(ValueError, match="2 of 2"):
        VideoStream(videos, 2, SPEC, config(), seed=0, process_index=2, process_count=2)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_style": "trian"},
        {"decoder": "ffmpeg"},
        {"num_workers": -1},
        {"timeout_s": 0.0},
        {"max_unreadable": 1.0},
        {"cache": ""},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        config(**change)


def test_a_source_knows_its_scale(tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("a.mp4, 0\nb.mp4, 10\nc.mp4, 11\n")
    with pytest.raises(ValueError, match="1-6"):
        LabelSource("labels.csv", "videos", "1-6")
    with pytest.raises(ValueError, match="low < high"):
        LabelSource("labels.csv", "videos", (5.0, 1.0))
    with pytest.raises(ValueError, match="on_bad"):
        LabelSource("labels.csv", "videos", "1-5", on_bad="ignore")
    source = LabelSource(str(tmp_path / "labels.csv"), "videos", (0.0, 10.0), on_bad="skip")
    with caplog.at_level(logging.WARNING):
        assert [video.score for video in source.read()] == [1, 5]
    assert "line 3" in caplog.text


def test_prefetching_runs_one_batch_ahead_and_keeps_the_order():
    asked, second_asked = [], threading.Event()

    def batches():
        for i in range(4):
            asked.append(i)
            if i == 1:
                second_asked.set()
            yield i

    pairs = prefetch_to_device(batches(), lambda batch: batch * 10)
    assert next(pairs) == (0, 0)
    assert second_asked.wait(5) and 2 not in asked
    assert list(pairs) == [(1, 10), (2, 20), (3, 30)]


def test_prefetching_raises_where_it_belongs_and_can_be_closed():
    def put(batch):
        if batch == 2:
            raise OSError("no room")
        return batch

    pairs = prefetch_to_device(iter([1, 2, 3]), put)
    assert next(pairs) == (1, 1)
    with pytest.raises(OSError, match="no room"):
        next(pairs)
    closed = prefetch_to_device(itertools.count(), lambda batch: batch)
    assert next(closed) == (0, 0)
    closed.close()
    assert list(closed) == []


def test_importing_does_not_import_jax():
    code = "import sys, vqathinker_jax.data.dataset; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
