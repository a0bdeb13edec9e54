"""Figures of somebody else."""

import json

import pytest

from vqathinker_jax.evaluation.benchmarks import BenchmarkError
from vqathinker_jax.evaluation.beside import read_beside


def test_reads_figures_under_their_published_names(tmp_path):
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"konvid_1k": {"srcc": 0.5}, "ood": {"plcc": 0.25, "srcc": None}}))
    assert read_beside(f"paper={file}") == (
        "paper",
        {"KoNViD-1k": {"srcc": 0.5}, "ood": {"plcc": 0.25}},
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not JSON"),
        ("[]", "holds no figures"),
        ('{"a": 1}', "holds no figures"),
        ('{"a": {"srcc": 80}}', "srcc of a is 80, not a correlation"),
        ('{"a": {"srocc": 0.8}}', "a has 'srocc', not srcc or plcc"),
        ('{"outcomes": 3}', "holds no figures"),
    ],
)
def test_refuses(content, said, tmp_path):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(BenchmarkError) as caught:
        read_beside(f"paper={tmp_path / 'f.json'}")
    assert said in str(caught.value)


def test_refuses_other_forms():
    for text in ("f.json", "=f.json", "a=", "a=none.json"):
        with pytest.raises(BenchmarkError):
            read_beside(text)
