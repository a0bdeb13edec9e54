"""The folder of a demonstration: anew every time, and never over somebody's files."""

import pytest

from vqathinker_jax.demo.folder import MANIFEST, DemoError, DemoFolder


def begun(path, names):
    """A folder with a demonstration of these files."""
    folder = DemoFolder(path)
    folder.begin(names)
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return folder


def names_in(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))


def test_writes_into_new_and_empty_folders_and_writes_anew(tmp_path):
    begun(tmp_path / "new" / "deep", ["a.txt"])
    path = tmp_path / "empty"
    path.mkdir()
    begun(path, ["clips/1.mp4", "page.html"]).claim(["trained/model/x.json"])
    (path / "trained" / "model").mkdir(parents=True)
    (path / "trained" / "model" / "x.json").write_text("{}")
    begun(path, ["page.html"])
    assert names_in(path) == [MANIFEST, "page.html"]


def test_a_run_that_was_stopped_early_is_no_obstacle(tmp_path):
    folder = DemoFolder(tmp_path)
    folder.begin(["clips/1.mp4", "page.html"])  # and not one of them is there yet
    begun(tmp_path, ["page.html"])
    assert names_in(tmp_path) == [MANIFEST, "page.html"]


@pytest.mark.parametrize("name", ["mine.txt", "clips/mine.mp4", "demo.json", "demo.html"])
def test_refuses_a_folder_with_a_file_of_someone_else(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"files": ["demo.json", "demo.html"]}')
    with pytest.raises(DemoError, match=f"not of a demonstration .'{name}'"):
        DemoFolder(tmp_path)
    assert (tmp_path / name).read_text().startswith('{"files"')


def test_refuses_a_file_put_beside_an_earlier_demonstration(tmp_path):
    begun(tmp_path, ["clips/1.mp4"])
    (tmp_path / "clips" / "mine.mp4").write_text("mine")
    with pytest.raises(DemoError, match=r"clips/mine.mp4"):
        DemoFolder(tmp_path)
    assert names_in(tmp_path) == ["clips", "clips/1.mp4", "clips/mine.mp4", MANIFEST]


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "page.html").write_text("theirs")
    path = tmp_path / "demo"
    begun(path, ["page.html", "clips/1.mp4"])
    (path / "page.html").unlink()
    (path / "page.html").symlink_to(outside / "page.html")
    begun(path, ["page.html"])
    assert (outside / "page.html").read_text() == "theirs"
    (path / "link").symlink_to(outside)
    with pytest.raises(DemoError, match="'link'"):
        DemoFolder(path)


def test_refuses_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match="is not a folder"):
        DemoFolder(tmp_path / "file")


def test_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DemoError, match="cannot be"):
        DemoFolder(tmp_path / "file" / "demo").begin(["a"])
