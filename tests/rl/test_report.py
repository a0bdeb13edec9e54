"""Reports of run folders, whole and damaged, read as a browser would."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.rl.recorded_runs import (
    grpo_row,
    rollout_row,
    validation_row,
    write_lines,
    write_run,
)
from vqathinker_jax import cli
from vqathinker_jax.rl.figures import draw_phases, moving_mean
from vqathinker_jax.rl.recorded_run import NoRunError, Rows, read_run
from vqathinker_jax.rl.report import render_report


class Page(HTMLParser):
    """The elements of a page: which there are, their text, and whether they are nested well."""

    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.figures, self.ids, self.links, self.text = [], [], [], [], ""
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [value for name, value in attrs.items() if name in ("src", "href")]
        assert tag not in ("script", "link", "img", "iframe")
        if tag == "svg":
            self.figures.append(attrs["aria-label"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f"{data} "


def page(folder) -> Page:
    html = render_report(folder)
    assert "http://" not in html and "https://" not in html and "@import" not in html
    read = Page(html)
    assert len(set(read.ids)) == len(read.ids)
    assert not read.links
    return read


def test_a_grpo_run_shows_its_curves_numbers_and_responses(tmp_path):
    run = write_run(tmp_path / "run")
    write_lines(
        run / "validation.jsonl",
        [validation_row(2, 0.25), validation_row(4, 0.625), validation_row(7, 0.5)],
    )
    write_lines(
        run / "attempts.jsonl",
        [
            {
                "step": 0, "time": "2026-01-02T03:04:05+00:00", "steps": 7, "videos": 14,
                "kind": "trained from random", "device": "cpu", "num_devices": 3,
                "trained_parameters": 1200, "frozen_parameters": 30, "jax": "1.2.3",
                "vqathinker_jax": "0.0.7",
            }
        ],
    )  # fmt: skip
    shown = page(run)
    assert {
        "Agreement with the opinion scores", "Mean absolute error", "Total reward",
        "Ranking reward", "Groups without spread", "KL from the start", "Clipped tokens", "Entropy",
        "Length", "Answers with a score", "Gradient norm", "Learning rate", "Loss",
        "Seconds per step", "Tokens per second", "Compiled programs",
    } <= set(shown.figures)  # fmt: skip
    assert "Likelihood" not in shown.figures
    text = " ".join(shown.text.split())
    assert "model: trained from random" in text and "Steps done 7 of 7" in text
    assert "train.jsonl (14 videos)" in text and "3 x cpu" in text
    assert "2026-01-02 03:04 UTC" in text and "1,200 trained, 30 frozen" in text
    # SRCC: last, first and best; the ends of the reward.
    assert "SRCC, held-out 0.5 from 0.25 · best 0.625 at step 4" in text
    assert "Reward, training 4.07 from 4.01" in text
    for step in (1, 7):
        assert f"text of step {step}" in text
    assert "opinion score 4.125" in text and "no score" in text
    assert "rollout.num_generations 3" in text
    assert "was stopped" not in text and "no validation" not in text


def test_text_of_the_model_is_text(tmp_path):
    run = write_run(tmp_path / "run", steps=1)
    attack = "<script>alert(1)</script></pre><b onclick='x'>&amp;\ud800"
    write_lines(run / "rollouts.jsonl", [rollout_row(1, attack)])
    write_lines(run / "metrics.jsonl", [grpo_row(1) | {'"><script>x</script>': 0.5}])
    shown = page(run)
    assert attack[:-1] in shown.text.replace("\ufffd", "")
    assert '"><script>x</script>' in shown.figures
    assert cli.main(["report", str(run)]) == 0
    assert "<script" not in (run / "report.html").read_text("utf-8")


def test_sft_one_step_and_a_run_stopped_in_the_middle(tmp_path):
    sft = page(write_run(tmp_path / "sft", "sft", steps=5, planned=9))
    assert "Likelihood" in sft.figures and "Total reward" not in sft.figures
    assert "Step 5 is the last so far" in sft.text
    assert "There was no validation" in sft.text
    assert "Loss, training" in sft.text and "kind unknown" in sft.text

    one = page(write_run(tmp_path / "one", steps=1, planned=1))
    assert "Loss" in one.figures and "Seconds per step" in one.figures
    assert "is the last so far" not in one.text

    none = page(write_run(tmp_path / "none", steps=0))
    assert "No step is done yet." in none.text and not none.figures


def test_half_a_row_and_rows_that_are_none_are_left_out_and_counted(tmp_path):
    run = write_run(tmp_path / "run", steps=3)
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'[1]\n{"step": "4"}\n\xff\xfe\n{"step": 4, "loss"')
    (run / "rollouts.jsonl").write_text('{"step": 2}\n{"step": 3, "responses": [{"te')
    assert read_run(run).num_done == 3
    assert "4 unreadable lines of metrics.jsonl" in page(run).text
    for log in run.glob("*.jsonl"):
        log.unlink()
    assert "No step is done yet." in page(run).text


def test_the_stage_before_comes_first(tmp_path):
    run = write_run(tmp_path / "run")
    write_run(run / "before", "sft")
    text = page(run).text
    assert 0 < text.index("Stage 1 of 2: SFT") < text.index("Stage 2 of 2: GRPO")
    (run / "config.yaml").unlink()
    assert "Stage" not in page(run).text


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.yaml").write_text("a: [")
    for folder, said in (("none", "is no folder"), (".", "holds no run"), ("bad", "cannot be rea")):
        assert cli.main(["report", str(tmp_path / folder)]) == 1
        printed = capsys.readouterr()
        assert said in printed.err and len(printed.err.splitlines()) == 1
        assert printed.out == ""
    run = write_run(tmp_path / "run", steps=1)
    inside_a_file = tmp_path / "bad" / "config.yaml" / "r.html"
    assert cli.main(["report", str(run), "--output", str(inside_a_file)]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_every_figure_follows_the_page_into_the_dark(tmp_path):
    """No colour of a figure is its own: all are variables that the style sheet has twice."""
    html = render_report(write_run(tmp_path / "run"))
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", figures)
    used = set(re.findall(r"var\((--\w+)\)", figures))
    assert {"--s1", "--muted", "--line"} <= used
    assert all(html.count(f"{name}:") == 2 for name in used)


def test_sampled_steps_reach_from_the_first_to_the_last(tmp_path):
    run = read_run(write_run(tmp_path / "run", steps=7))
    assert [row["step"] for row in run.sampled(3)] == [1, 4, 7]
    assert [row["step"] for row in run.sampled(50)] == [1, 2, 3, 4, 5, 6, 7]


def test_rows_keep_the_last_of_a_step_and_read_no_number_as_nan():
    rows = Rows(({"step": 1, "a": None, "s": {"b": 2}}, {"step": 2, "a": True, "s": 3}))
    assert np.isnan(rows.values("a")).all() and not rows.has("a")
    np.testing.assert_array_equal(rows.values("s.b"), [2, np.nan])


def test_moving_mean_skips_gaps_and_shortens_at_the_ends():
    np.testing.assert_array_equal(
        moving_mean([2.0, 4.0, np.nan, 8.0, 16.0], 3), [3.0, 3.0, 6.0, 12.0, 12.0]
    )
    assert np.isnan(moving_mean([np.nan, np.nan], 1)).all()


@pytest.mark.parametrize("num_rows", [1, 2, 61, 1000])
def test_phases_of_any_number_of_steps(num_rows):
    drawn = draw_phases(Rows(tuple(grpo_row(i + 1) for i in range(num_rows))), "p")
    assert [label for _, label in drawn.legend] == ["rollout", "update", "data", "other"]
    # The first, which compiles, is named instead of hiding the others.
    assert ("40 s" in drawn.note) == (num_rows in (2, 61))


def test_no_stage_is_no_run(tmp_path):
    with pytest.raises(NoRunError, match="holds no run"):
        render_report(tmp_path)
