"""A file is written whole or not at all."""

import pytest

from vqathinker_jax.whole_file import write_whole


def test_it_replaces_what_was_there_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one\r\n")
    write_whole(path, "caf\u00e9 \udcff\n")
    assert path.read_bytes() == "caf\u00e9 ".encode() + b"\xff\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\udcff", errors="strict")
    assert path.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", "x")
    with pytest.raises(OSError):
        write_whole(path / "inside.txt", "x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.txt", "folder"]
