"""Labels with the scores of the bundled model."""

import json
import sys

import numpy as np
import pytest

from benchmarks import own_labels
from tests.data.clips import write_clip
from vqathinker_jax.bundled import bundled_model
from vqathinker_jax.synthetic.scenes import catalogue, of_split, render


def line(name: str, score: float) -> dict:
    return {
        "id": name,
        "dataset_name": "d",
        "image": [f"{name}.mp4"],
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": score}],
        "distortions": [{"name": "noise", "severity": 0.5}],
    }


def test_lines_get_the_models_scores_and_stay_as_they_are(tmp_path, monkeypatch, capsys):
    scene = next(one for one in of_split(catalogue(), "test") if one.family == "shards")
    clean = render(scene, 24, 240, 320, 25.0, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(0, 40, clean.shape)
    write_clip(tmp_path / "clean.mp4", clean)
    write_clip(tmp_path / "noisy.mp4", np.clip(clean + noise, 0, 255).astype(np.uint8))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lines = [line("noisy", 4.9), line("broken", 3.0), line("clean", 1.1)]
    labels, own = tmp_path / "train.jsonl", tmp_path / "own.jsonl"
    labels.write_text("".join(json.dumps(one) + "\n" for one in lines))
    settings = {
        "model.path": bundled_model(),
        "data.train.labels": own,
        "data.train.video_root": tmp_path,
        "data.cache": "null",
        "data.num_workers": 1,
    }
    command = ["own_labels", "configs/nano_distil.yaml", str(labels)]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", command)
    own_labels.main()
    written = [json.loads(text) for text in own.read_text().splitlines()]
    assert [one["id"] for one in written] == ["noisy", "clean"]
    noisy, whole = (one["conversations"][1]["value"] for one in written)
    assert 1 <= noisy < whole - 0.5 and whole <= 5
    for one, before in zip(written, [lines[0], lines[2]], strict=True):
        one["conversations"][1]["value"] = before["conversations"][1]["value"]
        assert one == before
    assert "2 of 3 clips; SRCC with their labels -1.000" in capsys.readouterr().out


def test_a_missing_label_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["own_labels", "configs/nano_distil.yaml", str(tmp_path / "none.jsonl")]
    )
    with pytest.raises(OSError, match=r"none\.jsonl"):
        own_labels.main()
