"""`vqathinker score --report`."""

import re

from tests.reports.reading import Reader
from tests.reports.records import write_clip
from vqathinker_jax import cli


def test_a_folder_is_scored_into_a_page_and_resumed_into_the_same(small_folder, tmp_path, capsys):
    write_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "clips" / "b.mp4").write_bytes(b"no video")
    argv = ["score", str(tmp_path / "clips"), "--model", str(small_folder)]
    argv += ["--max-new-tokens", "4", "--workers", "1", "--quiet"]
    argv += ["--report", str(tmp_path / "r.html"), "--output", str(tmp_path / "o.jsonl")]
    for _ in range(2):
        (tmp_path / "r.html").unlink(missing_ok=True)
        assert cli.main(argv) == 1
        text = Reader((tmp_path / "r.html").read_text()).text
        assert "2 files judged by" in text and "random weights" in text
        assert "cannot be read as a video" in text
        assert re.search(r"Frame \d+ of a.mp4", (tmp_path / "r.html").read_text())


def test_a_bad_place_is_said_before_anything_is_scored(tmp_path, capsys):
    write_clip(tmp_path / "a.mp4")
    argv = ["score", str(tmp_path / "a.mp4"), "--model", "nowhere", "--report", "r.pdf"]
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and "r.pdf: a report must end in .html" in capsys.readouterr().err
