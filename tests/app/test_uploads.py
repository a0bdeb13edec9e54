"""Uploads: random names, limits, and nothing left of what is refused."""

import io
import stat

import pytest

from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.uploads import Refused, Uploads, shown_name


@pytest.fixture
def uploads():
    made = Uploads(Limits(upload_bytes=1000))
    yield made
    made.close()
    assert not made.folder.exists()


def test_a_file_has_a_random_name_and_is_ours_alone(uploads):
    data = b"\0" * 700
    paths = [uploads.receive("../../etc/my clip.MP4", 700, io.BytesIO(data)) for _ in range(2)]
    assert paths[0] != paths[1]
    for path in paths:
        assert path.parent == uploads.folder and path.suffix == ".mp4" and "clip" not in path.name
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700
    uploads.delete(paths[0])
    uploads.delete(paths[0])
    assert list(uploads.folder.iterdir()) == [paths[1]]


@pytest.mark.parametrize(
    ("name", "data", "length", "status", "said"),
    [
        ("a.txt", b"x", 1, 415, "not the ending of a video"),
        ("a", b"x", 1, 415, "not the ending of a video"),
        ("a.mp4/", b"x", 1, 415, "not the ending of a video"),
        ("a.mp4", b"", 0, 400, "empty"),
        ("a.mp4", b"x" * 1001, 1001, 413, "at most 1000 bytes"),
        ("a.mp4", b"x" * 20, 30, 400, "cut short"),
        ("a.mp4", b"x" * 3, 30, 400, "cut short"),
        ("a.mp4", b"#EXTM3U\nhttp://x/a.ts\n", 22, 415, "list of other files"),
        ("a.mp4", b"ffconcat version 1.0\n", 21, 415, "list of other files"),
        ("a.mp4", b"\x89PNG\r\n\x1a\n" + b"x" * 20, 28, 415, "still image"),
    ],
)
def test_what_is_refused_leaves_nothing(uploads, name, data, length, status, said):
    with pytest.raises(Refused, match=said) as caught:
        uploads.receive(name, length, io.BytesIO(data))
    assert caught.value.status == status
    assert list(uploads.folder.iterdir()) == []


def test_a_slow_or_silent_upload_is_given_up():
    class Silent(io.BytesIO):
        def read1(self, size=-1):
            raise TimeoutError

    slow = Uploads(Limits(upload_s=1e-9))
    try:
        with pytest.raises(Refused, match="longer than"):
            slow.receive("a.mp4", 30, io.BytesIO(b"x" * 30))
        with pytest.raises(Refused, match="stopped coming"):
            slow.receive("a.mp4", 30, Silent(b"x" * 16))
        assert list(slow.folder.iterdir()) == []
    finally:
        slow.close()


def test_names_are_shown_short_and_on_one_line():
    assert shown_name("C:\\clips\\a b.mp4") == "a b.mp4"
    assert shown_name("../x\n\x1b.mp4") == "x\\n\\x1b.mp4"
    assert len(shown_name("a" * 5000 + ".mp4")) <= 121
    assert shown_name("") == "video"


def test_limits_are_positive():
    with pytest.raises(ValueError, match="job_s must be positive"):
        Limits(job_s=0)
    with pytest.raises(ValueError, match="upload_s"):
        Limits(upload_s=float("inf"))
