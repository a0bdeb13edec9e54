"""Images are decoded once, come back as they were, and nothing stale or damaged is believed."""

import dataclasses
import errno
import logging
import os

import numpy as np
import pytest

from vqathinker_jax.data import cache as cache_module
from vqathinker_jax.data.cache import CacheError, FrameCache
from vqathinker_jax.data.clip import FrameRequest, VideoError

REQUEST = FrameRequest(num_frames=3, image_size=14, num_extras=2, fragment_size=7)


class Source:
    """Counts how often it is read; every reading gives other images."""

    def __init__(self):
        self.paths = []

    def read(self, path):
        self.paths.append(path)
        if path.endswith("broken"):
            raise VideoError.of(path, "is broken")
        return np.random.default_rng(len(self.paths)).integers(0, 256, (5, 14, 14, 3), np.uint8)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a clip")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "frames"


def make(folder, source, request=REQUEST, decoder="pyav"):
    return FrameCache(folder, request, decoder, source.read)


def test_a_hit_gives_the_same_bytes_without_decoding(folder, source, clip):
    first = make(folder, source).read(clip)
    for cache in (make(folder, source), make(folder, source)):
        again = cache.read(clip)
        assert again.dtype == np.uint8 and again.flags.writeable and type(again) is np.ndarray
        np.testing.assert_array_equal(again, first)
    assert source.paths == [clip]
    (kept,) = folder.iterdir()
    np.testing.assert_array_equal(np.load(kept, allow_pickle=False), first)


def test_a_relative_path_is_the_same_clip(folder, source, clip, monkeypatch):
    first = make(folder, source).read(clip)
    monkeypatch.chdir(os.path.dirname(clip))
    np.testing.assert_array_equal(make(folder, source).read("clip.mp4"), first)
    assert len(source.paths) == 1


def test_names_that_are_not_valid_unicode_are_kept(folder, source, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/clip\xff.mp4")
    with open(path, "wb") as file:
        file.write(b"a clip")
    for _ in range(2):
        make(folder, source).read(path)
    assert len(source.paths) == 1


def test_a_changed_file_misses(folder, source, clip):
    cache = make(folder, source)
    cache.read(clip)
    facts = os.stat(clip)
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    cache.read(clip)
    with open(clip, "ab") as file:
        file.write(b"!")
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    cache.read(clip)
    assert len(source.paths) == 3
    os.truncate(clip, facts.st_size)
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    np.testing.assert_array_equal(cache.read(clip), make(folder, source).read(clip))
    assert len(source.paths) == 3


def test_everything_that_decides_the_images_is_part_of_the_name(folder, source, clip, monkeypatch):
    make(folder, source).read(clip)
    changes = {
        "num_frames": 4,
        "image_size": 21,
        "bound": (0.5, 1.0),
        "num_extras": 1,
        "fragment_size": 2,
        "view": "fragments",
        "burst": 3,
        "num_slices": 2,
    }
    names = {field.name for field in dataclasses.fields(FrameRequest)}
    assert set(changes) == names - {"bounds"}, "several stretches are never cached"
    for name, value in changes.items():
        make(folder, source, dataclasses.replace(REQUEST, **{name: value})).read(clip)
    make(folder, source, decoder="decord").read(clip)
    monkeypatch.setattr(cache_module, "VERSION", cache_module.VERSION + 1)
    make(folder, source).read(clip)
    assert len(source.paths) == len(list(folder.iterdir())) == len(changes) + 3


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "long", "header", "key", "zip", "huge"])
def test_a_damaged_file_is_decoded_anew_and_replaced(folder, source, clip, damage, caplog):
    make(folder, source).read(clip)
    (kept,) = folder.iterdir()
    data = kept.read_bytes()
    bad = {
        "empty": b"",
        "text": b"no array here",
        "cut": data[:-1],
        "long": data + b"0",
        "header": data[:10] + b"{'descr': (((" + data[23:],
        "key": data.replace(b" 'fortran_order'", b"b'fortran_order'"),
        "zip": b"PK\x03\x04" + data,
        "huge": data.replace(b"(5, 14, 14, 3)", b"(999999999, 9)"),
    }[damage]
    assert bad != data
    kept.write_bytes(bad)
    with caplog.at_level(logging.WARNING):
        second = make(folder, source).read(clip)
    assert len(source.paths) == 2
    assert len(caplog.messages) == 1 and str(kept) in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    np.testing.assert_array_equal(make(folder, source).read(clip), second)
    assert len(source.paths) == 2 and list(folder.iterdir()) == [kept]


@pytest.mark.parametrize(
    "array", [np.zeros((4, 14, 14, 3), np.uint8), np.zeros((5, 14, 14, 3), np.float32)]
)
def test_another_array_is_decoded_anew_and_replaced(folder, source, clip, array, caplog):
    first = make(folder, source).read(clip)
    (kept,) = folder.iterdir()
    np.save(kept, array)
    with caplog.at_level(logging.WARNING):
        assert make(folder, source).read(clip).shape == first.shape
    assert len(source.paths) == 2 and "no uint8 [5, 14, 14, 3]" in caplog.text
    make(folder, source).read(clip)
    assert len(source.paths) == 2


def test_no_objects_are_unpickled(folder, source, clip):
    make(folder, source).read(clip)
    (kept,) = folder.iterdir()
    np.save(kept, np.array([print], object), allow_pickle=True)
    assert make(folder, source).read(clip).dtype == np.uint8
    assert len(source.paths) == 2


def test_a_truth_about_clips_that_cannot_be_read_is_not_kept(folder, source, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"x")
    cache = make(folder, source)
    for path in (str(broken), str(broken), str(tmp_path / "missing broken"), "\0broken"):
        with pytest.raises(VideoError, match="is broken"):
            cache.read(path)
    assert len(source.paths) == 4 and not list(folder.iterdir())


def test_a_full_disk_is_logged_once_and_read_on_without(folder, source, clip, monkeypatch, caplog):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = make(folder, source)
    monkeypatch.setattr(os, "fsync", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.read(clip).shape == (5, 14, 14, 3)
    assert len(source.paths) == 3 and not list(folder.iterdir())
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.messages[0]


def test_what_was_kept_before_the_disk_was_full_is_still_read(folder, source, clip, monkeypatch):
    cache = make(folder, source)
    cache.read(clip)
    cache._is_writing = False
    cache.read(clip)
    assert len(source.paths) == 1


def test_a_folder_that_cannot_be_written_to_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file: cannot be .* cache of frames \(File exists\)"):
        make(tmp_path / "file", source)
    with pytest.raises(OSError, match="Not a directory") as caught:
        make(tmp_path / "file" / "inside", source)
    assert "\n" not in str(caught.value)
