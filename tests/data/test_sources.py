"""Turning what was named into files."""

import os
from pathlib import Path

import pytest

from vqathinker_jax.data.sources import expand_sources


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "c.txt", ".hidden.mp4", "sub/d.webm", "sub/e.doc", ".git/f.mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "clips" / "p.JPG").write_bytes(b"x")
    return tmp_path / "clips"


def names(paths, folder):
    return [os.path.relpath(path, folder) for path in paths]


def test_a_folder_gives_its_media_sorted_without_hidden_ones(folder):
    assert names(expand_sources([folder]), folder) == ["a.MKV", "b.mp4", "p.JPG", "sub/d.webm"]


def test_files_are_kept_as_named_even_when_missing(folder):
    found = expand_sources([folder / "sub/e.doc", "no such [file.mp4", folder / ".hidden.mp4"])
    assert found == [str(folder / "sub/e.doc"), "no such [file.mp4", str(folder / ".hidden.mp4")]


def test_duplicates_go_and_the_order_stays(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = expand_sources(["b.mp4", folder, "./b.mp4", "sub/../a.MKV"])
    assert names(found, folder) == ["b.mp4", "a.MKV", "p.JPG", "sub/d.webm"]


def test_patterns(folder):
    assert names(expand_sources([f"{folder}/*.mp4"]), folder) == ["b.mp4"]
    assert "sub/d.webm" in names(expand_sources([f"{folder}/**/*.webm"]), folder)
    assert names(expand_sources([f"{folder}/*.xyz"]), folder) == ["*.xyz"]


def test_a_name_with_pattern_characters_is_itself_when_it_exists(folder):
    (folder / "x[1].mp4").write_bytes(b"x")
    (folder / "x1.mp4").write_bytes(b"x")
    assert expand_sources([folder / "x[1].mp4"]) == [str(folder / "x[1].mp4")]


def test_a_list_is_relative_to_itself(folder, tmp_path):
    listing = folder / "list.txt"
    absolute = tmp_path / "other.mp4"
    listing.write_bytes(
        b"\xef\xbb\xbfb.mp4\r\n\r\n# not this.mp4\n  \nsub\n"
        + os.fsencode(absolute)
        + b"\nmissing.mp4\nhttp://x/y.mp4"
    )
    found = expand_sources([listing])
    files = [folder / "b.mp4", folder / "sub/d.webm", absolute, folder / "missing.mp4"]
    assert found == [*map(str, files), "http://x/y.mp4"]


def test_a_list_in_a_list_is_refused(folder):
    (folder / "list.txt").write_text("c.txt\n")
    with pytest.raises(ValueError, match="must not name another list"):
        expand_sources([folder / "list.txt"])


def test_an_address_is_kept_as_named():
    assert expand_sources(["http://x/y.mp4"]) == ["http://x/y.mp4"]


def test_names_that_are_not_utf8_survive(tmp_path):
    raw = b"caf\xe9 'quoted'\nline.mp4"
    try:
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), raw)))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    (found,) = expand_sources([tmp_path])
    assert os.path.basename(os.fsencode(found)) == raw
    assert os.fsencode(expand_sources([os.fsencode(found)])[0]) == os.fsencode(found)
