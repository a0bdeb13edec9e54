"""Validation: its numbers from known answers, its batches, and the clips it reads."""

import dataclasses
import math

import numpy as np
import pytest

from tests.rl.train_runs import make_config, write_data
from vqathinker_jax.asking import Asker
from vqathinker_jax.data import reader
from vqathinker_jax.data.clip import FrameRequest, VideoError
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.rl.validation import merit, validate


@pytest.fixture
def labels(tmp_path):
    return write_data(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """Answers come from `texts`; what was asked about is kept."""

    class Asked:
        texts: tuple[str, ...] = ()
        frames: list[np.ndarray]

    found = Asked()
    found.frames = []

    def ask(self, frames):
        first = sum(map(len, found.frames))
        found.frames.append(frames)
        assert len(frames) <= self.batch_size
        return [(text,) for text in found.texts[first : first + len(frames)]]

    monkeypatch.setattr(Asker, "ask", ask)
    return found


def answer(score):
    return f"<think>Seen.</think><answer>{score:.2f}</answer>"


def test_numbers_of_known_answers(small_model, small_folder, labels, asked):
    config = make_config(small_folder, labels)
    videos = config.data.train.read()
    broken = dataclasses.replace(videos[1], path=videos[1].path + ".gone")
    asked.texts = (answer(1.5), answer(5), answer(2.3), "I cannot say", answer(4.6))
    row = validate(small_model.loaded, (videos[0], broken, *videos[2:]), config)
    said, truth = [1.5, 2.3, 4.6], [1.0, 2.8, 4.6]
    np.testing.assert_allclose(row["plcc"], np.corrcoef(said, truth)[0, 1])
    np.testing.assert_allclose(row["mae"], (0.5 + 0.5 + 0.0) / 3)
    assert row["srcc"] == pytest.approx(1)
    assert (row["parse_rate"], row["videos"], row["unreadable"]) == (0.75, 5, 1)
    # Two videos a step: batches of at most two, and the unreadable one is a black clip in them.
    assert [len(frames) for frames in asked.frames] == [2, 2, 1]
    spec = small_model.video
    clips = [read_clip(videos[i].path, FrameRequest.of(spec)).frames for i in (0, 2, 3, 4)]
    frames = np.concatenate(asked.frames)
    assert not frames[1].any()
    np.testing.assert_array_equal(frames[[0, 2, 3, 4]], clips)


def test_nothing_readable_or_nothing_said_is_undefined(small_model, small_folder, labels, asked):
    config = make_config(small_folder, labels)
    videos = config.data.train.read()[:2]
    asked.texts = ("no", "no")
    row = validate(small_model.loaded, videos, config)
    assert all(math.isnan(row[name]) for name in ("srcc", "plcc", "mae"))
    assert (row["parse_rate"], row["unreadable"]) == (0.0, 0)
    gone = [dataclasses.replace(video, path=video.path + ".gone") for video in videos]
    row = validate(small_model.loaded, gone, config)
    assert math.isnan(row["srcc"]) and (row["parse_rate"], row["unreadable"]) == (0.0, 2)


def test_clips_are_decoded_once_and_never_augmented(
    small_model, small_folder, labels, asked, tmp_path, monkeypatch
):
    changes = {"cache": str(tmp_path / "frames"), "augment": True}
    config = make_config(small_folder, labels, data=changes)
    videos = config.data.train.read()
    asked.texts = tuple(answer(1 + i) for i in range(10))
    validate(small_model.loaded, videos, make_config(small_folder, labels))
    plain, asked.frames = np.concatenate(asked.frames), []
    validate(small_model.loaded, videos, config)

    def refuse(path, *_, **__):
        raise VideoError.of(path, "was decoded again")

    monkeypatch.setattr(reader, "read_clip", refuse)
    row = validate(small_model.loaded, videos, config)
    assert row["unreadable"] == 0
    np.testing.assert_array_equal(np.concatenate(asked.frames), [*plain, *plain])


def test_a_stage_with_random_scores_is_judged_by_its_words(small_folder, labels):
    row = {"srcc": 0.25, "words_f1": 0.75}
    for mode, random_scores, wanted in (
        ("grpo", False, 0.25),
        ("sft", False, 0.25),
        ("sft", True, 0.75),
    ):
        config = make_config(small_folder, labels, run={"mode": mode})
        config = dataclasses.replace(
            config, sft=dataclasses.replace(config.sft, random_scores=random_scores)
        )
        assert merit(row, config) == wanted
    assert math.isnan(merit({"srcc": 0.25}, config))
