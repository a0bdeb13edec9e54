"""Decoding in worker processes gives the same clips, and nothing that hangs or dies spreads."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.clips import pictures, write_clip
from vqathinker_jax.data import pool as pool_module
from vqathinker_jax.data.clip import FrameRequest, Limits
from vqathinker_jax.data.pool import DecodePool, read_clip_bounded
from vqathinker_jax.data.video import VideoError, read_clip
from vqathinker_jax.data.worker import Job, read_reply, write_job

BROKEN = (sys.executable, str(Path(__file__).parents[1] / "faults" / "broken_worker.py"))
S = 28


@pytest.fixture
def clip_path(tmp_path):
    return write_clip(tmp_path / "fine.mp4", pictures(13, 64, 48))


def test_clips_equal_those_of_read_clip(clip_path, tmp_path):
    other = write_clip(tmp_path / "b.mkv", pictures(5, 32, 24), "ffv1", "bgr0")
    paths = [clip_path, tmp_path / "missing.mp4", other, clip_path]
    with DecodePool(2, FrameRequest(7, S)) as pool:
        futures = [pool.submit(path) for path in paths]
        with pytest.raises(VideoError, match=r"missing\.mp4: there is no such file"):
            futures[1].result()
        for path, future in zip(paths, futures, strict=True):
            if path.exists():
                expected = read_clip(path, FrameRequest(7, S), limits=Limits(threads=1))
                found = future.result()
                np.testing.assert_array_equal(found.frames, expected.frames)
                np.testing.assert_array_equal(found.indices, expected.indices)
                assert found.facts == expected.facts and found.warnings == expected.warnings


def test_a_request_reaches_the_worker_whole(clip_path):
    request = FrameRequest(4, S, bound=(0.1, 0.3), num_extras=3, fragment_size=7)
    expected = read_clip(clip_path, request, limits=Limits(threads=1))
    found = read_clip_bounded(clip_path, request)
    assert found.frames.shape == (7, S, S, 3) and found.indices.shape == (4,)
    np.testing.assert_array_equal(found.frames, expected.frames)
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_faults_stay_with_their_own_file(clip_path, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "GRACE_S", 1.0)
    names = ["hang.mp4", "crash.mp4", "greedy.mp4", "wrong.mp4", "chatty.mp4", "last.mp4"]
    for name in names:
        shutil.copy(clip_path, tmp_path / name)
    messages = {}
    start = time.monotonic()
    with DecodePool(1, FrameRequest(3, S), timeout_s=2.0, command=BROKEN) as pool:
        futures = {name: pool.submit(tmp_path / name) for name in names}
        for name, future in futures.items():
            error = future.exception()
            assert error is None or isinstance(error, VideoError)
            messages[name] = str(error)
    assert time.monotonic() - start < 60
    assert all(str(tmp_path / name) in messages[name] for name in names[:4])
    assert "took longer than 2 s" in messages["hang.mp4"]
    assert "crashed or ran out of memory (signal 11)" in messages["crash.mp4"]
    assert "more memory than allowed" in messages["greedy.mp4"]
    assert "RuntimeError: two lines" in messages["wrong.mp4"]
    assert messages["chatty.mp4"] == messages["last.mp4"] == "None"


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux only")
def test_memory_is_bounded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (4000, 4000)).save(path)
    assert read_clip_bounded(path, FrameRequest(1, S)).facts.width == 4000
    with pytest.raises(VideoError, match=r"large\.png: .*memory"):
        read_clip_bounded(path, FrameRequest(1, S), memory_bytes=330 << 20)


def test_a_worker_gives_up_at_its_own_deadline(tmp_path):
    path = write_clip(tmp_path / "long.mp4", pictures(200, 320, 240))
    with pytest.raises(VideoError, match=r"took longer than 0\.001 s"):
        read_clip(path, FrameRequest(3, S), limits=Limits(seconds=0.001))
    with pytest.raises(VideoError, match=r"took longer than 0\.001 s"):
        read_clip_bounded(path, FrameRequest(3, S), timeout_s=0.001)


def test_what_asks_a_run_to_end_does_not_end_its_workers(clip_path):
    job = Job(str(clip_path), FrameRequest(3, S), "pyav", Limits())
    with subprocess.Popen(
        [*pool_module.WORKER, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        replies = []
        for wish in (signal.SIGTERM, signal.SIGINT):
            write_job(worker.stdin, job)
            replies.append(read_reply(worker.stdout))
            worker.send_signal(wish)
        write_job(worker.stdin, job)
        replies.append(read_reply(worker.stdout))
        worker.stdin.close()
        assert worker.wait(30) == 0
    for reply in replies[1:]:
        np.testing.assert_array_equal(reply.frames, replies[0].frames)


def test_leaving_early_ends_the_workers_and_cancels_the_rest(clip_path, tmp_path):
    hang = shutil.copy(clip_path, tmp_path / "hang.mp4")
    start = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        DecodePool(1, FrameRequest(3, S), timeout_s=60.0, command=BROKEN) as pool,
    ):
        futures = [pool.submit(hang) for _ in range(3)]
        while not futures[0].running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert time.monotonic() - start < 30
    assert futures[2].cancelled()
    assert isinstance(futures[0].exception(), VideoError)


def test_the_main_script_is_not_run_again(clip_path, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('main')\n"
        "from vqathinker_jax.data.clip import FrameRequest\n"
        "from vqathinker_jax.data.pool import read_clip_bounded\n"
        f"print(read_clip_bounded({str(clip_path)!r}, FrameRequest(3, 28)).frames.shape)\n"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split("\n")[:2] == ["main", "(3, 28, 28, 3)"]


def test_names_of_any_bytes_reach_the_worker(clip_path, tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9 '\"\n.mp4")
    try:
        shutil.copy(os.fsencode(clip_path), raw)
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    assert read_clip_bounded(os.fsdecode(raw), FrameRequest(3, S)).facts.num_frames == 13


def test_bad_requests():
    with pytest.raises(ValueError, match="num_workers=0"):
        DecodePool(0, FrameRequest(3, S))
    with pytest.raises(ValueError, match="positive"):
        DecodePool(1, FrameRequest(3, S), timeout_s=0.0)
