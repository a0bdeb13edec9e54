"""What pages share: numbers, policies, and writing in one step."""

import base64
import hashlib

import pytest

from vqathinker_jax.reports.page import (
    ReportError,
    check_writable,
    decimals,
    environment,
    script_hashes,
    write_page,
)


def test_decimals_have_a_minus_and_a_dash():
    assert [decimals(0.125, 3), decimals(-2.5, 1), decimals(None)] == ["0.125", "−2.5", "–"]
    assert decimals(float("nan")) == decimals(float("inf")) == "–"


def test_templates_escape_and_know_every_name():
    templates = environment("vqathinker_jax.reports")
    assert templates.from_string("{{ a }}").render(a="<b>") == "&lt;b&gt;"
    with pytest.raises(Exception, match="undefined"):
        templates.from_string("{{ missing }}").render()


def test_the_policy_allows_the_scripts_of_a_page_alone():
    digest = base64.b64encode(hashlib.sha256(b"\nlet a = 1;\n").digest()).decode()
    assert script_hashes("<p></p><script>\nlet a = 1;\n</script>") == f"'sha256-{digest}'"
    assert script_hashes("<p></p>") == "'none'"


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.html"
    write_page("one \udcff", path)
    write_page("two", path)
    assert path.read_text() == "two"
    assert [one.name for one in path.parent.iterdir()] == ["a.html"]
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ReportError, match="cannot write"):
        write_page("three", tmp_path / "folder.html")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.html", "new"]


def test_a_bad_place_is_named_before_the_work(tmp_path):
    check_writable(tmp_path / "new" / "a.html")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for name, said in (
        ("a.pdf", "must end in .html"),
        ("folder.html", "is a folder"),
        ("file/a.html", "is not a folder"),
    ):
        with pytest.raises(ReportError, match=said):
            check_writable(tmp_path / name)
