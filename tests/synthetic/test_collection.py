"""Synthetic data sets: files, labels, manifest; the same for the same seed, resumable."""

import dataclasses
import errno
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from vqathinker_jax.data.prompt import QUESTION
from vqathinker_jax.synthetic import clips, collection
from vqathinker_jax.synthetic.collection import Recipe, SynthesisError, synthesize
from vqathinker_jax.synthetic.distortions import DISTORTIONS
from vqathinker_jax.synthetic.encoding import read_video
from vqathinker_jax.synthetic.opinions import pseudo_score
from vqathinker_jax.synthetic.scenes import SPLITS
from vqathinker_jax.synthetic.variants import write_variants

SHORT = Recipe(scenes_per_family=10, seconds=(0.4, 0.6), largest_side=384)


def make(folder, num_clips, seed=0, **options):
    return synthesize(folder, num_clips, seed, **{"workers": 1, "recipe": SHORT, **options})


def rows(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "videos").iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set"
    return folder, make(folder, 13, seed=7, command="vqathinker synth set --clips 13 --seed 7")


def test_counts_and_files(made):
    folder, result = made
    assert result.counts == {"train": 9, "validation": 2, "test": 2}
    assert (result.num_written, result.num_kept) == (13, 0)
    listed = [row["image"][0] for split in SPLITS for row in rows(folder, split)]
    assert sorted(listed) == sorted(f"videos/{name}" for name in contents(folder))


def test_labels_have_the_published_form_and_follow_from_the_severities(made):
    folder, _ = made
    for row in (row for split in SPLITS for row in rows(folder, split)):
        human, gpt = row["conversations"]
        assert human == {"from": "human", "value": QUESTION}
        assert gpt["from"] == "gpt" and 1 <= gpt["value"] <= 5
        named = [(one["name"], one["severity"]) for one in row["distortions"]]
        assert gpt["value"] == pytest.approx(pseudo_score(named), abs=1e-3)
        assert {name for name, _ in named} <= set(DISTORTIONS)
        assert row["scene"] and row["licence"] and row["dataset_name"]


def test_clips_of_one_view_say_that_they_show_the_same(made):
    folder, _ = made
    views = {}
    for row in rows(folder, "train"):
        shown = (row["scene"], row["width"], row["height"], row["fps"], row["num_frames"])
        views.setdefault(row["content"], []).append(shown)
    assert [len(shown) for shown in views.values()] == [Recipe().clips_per_view] * 3
    assert all(len(set(shown)) == 1 for shown in views.values())
    assert len({shown[0] for shown in views.values()}) == 3
    assert list(views) == [f"synth-7-train-{number}" for number in range(3)]


def test_files_are_what_the_labels_say(made):
    folder, _ = made
    for row in rows(folder, "test") + rows(folder, "validation"):
        frames = list(read_video(folder / row["image"][0]))
        assert len(frames) == row["num_frames"]
        assert frames[0].shape == (row["height"], row["width"], 3)


def test_manifest_documents_everything(made):
    folder, _ = made
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == "vqathinker synth set --clips 13 --seed 7"
    assert manifest["is_complete"] and manifest["settings"]["seed"] == 7
    assert sum(manifest["score"]["histogram"]["counts"]) == 13
    assert "product" in manifest["score"]["mapping"]
    used = {row["scene"] for split in SPLITS for row in rows(folder, split)}
    assert {scene["id"] for scene in manifest["scenes"]} == used
    assert all(scene["licence"] for scene in manifest["scenes"])


def test_no_scene_is_in_two_splits_over_many_clips():
    seen = {}
    for seed in (0, 1):
        for index in range(1800):
            recipe = Recipe(seed=seed)
            scene = clips.choose_scene(recipe, clips.view_of(recipe, index))
            assert scene.split == clips.split_of(index)
            seen.setdefault(scene.id, set()).add(scene.split)
    assert all(len(splits) == 1 for splits in seen.values())
    assert len([name for name in seen if not name.startswith("photograph/")]) >= 200


def test_clips_of_a_view_show_the_same_and_differ_in_what_is_done(made):
    recipe = dataclasses.replace(SHORT, seed=7)
    train = [index for index in range(40) if clips.split_of(index) == "train"]
    views = [clips.view_of(recipe, index) for index in train]
    assert views == [("train", place // 3) for place in range(len(train))]
    for split, number in (("train", 0), ("train", 5), ("validation", 1), ("test", 2)):
        members = clips._clips_of(recipe, (split, number))
        assert [clips.view_of(recipe, index) for index in members] == [(split, number)] * 3
    shown = [(row["scene"], row["width"], row["num_frames"]) for row in rows(made[0], "train")]
    assert len(set(shown[:3])) == len(set(shown[3:6])) == 1 and shown[0] != shown[3]
    assert len({clips.choose_distortions(recipe, index)[0] for index in train[:3]}) == 3


def test_scores_are_spread_over_one_to_five():
    # Strengths are drawn for even scores with DRAWN_WEIGHTS; exposure and colour then cost less
    # in the labels, which leaves a fifth fewer at the bottom and as many more at the top.
    recipe = Recipe(seed=3)
    scores = [pseudo_score(clips.choose_distortions(recipe, index)) for index in range(2400)]
    counts, _ = np.histogram(scores, 8, (1, 5))
    assert counts.min() > 0.75 * 300 and counts.max() < 1.25 * 300
    for split, index in (("train", 0), ("validation", 1), ("test", 2)):
        assert clips.split_of(index) == split


def test_worn_clips_are_compressed_before_the_last_that_is_done_to_them():
    worn, others = Recipe(seed=3, worn_share=0.5), Recipe(seed=3)
    targets, counts = [], {True: 0, False: 0}
    for index in range(1200):
        chosen, plain = (clips.choose_distortions(recipe, index) for recipe in (worn, others))
        names = [name for name, _ in chosen]
        assert len(set(names)) == len(names)
        is_worn = "compression" in names[:-1]
        counts[is_worn] += 1
        if is_worn:
            targets.append(pseudo_score(chosen))
        else:
            assert chosen == plain
    assert 0.4 < counts[True] / 1200 < 0.5
    histogram, _ = np.histogram(targets, 7, (1, 4.5))
    assert histogram.min() > 0.6 * np.mean(histogram)


def test_what_comes_after_a_compression_is_in_the_file():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), 8, axis=0)
    planned = [("compression", 0.3), ("freeze", 0.9), ("blur", 0.8)]
    data, applied = clips.distort_and_encode(frames, 25.0, planned, rng)
    assert [one.name for one in applied] == ["compression", "freeze", "blur"]
    written = np.stack(list(read_video(io.BytesIO(data))))
    before, after = (np.abs(np.diff(x.astype(float), axis=2)).mean() for x in (frames, written))
    # Measured: 0.12, and 0.65 after the compression alone.
    assert after < 0.2 * before


def test_same_bytes_whatever_the_workers_and_the_number_of_clips(made, tmp_path):
    folder, _ = made
    make(tmp_path / "two", 3, seed=7, workers=2)
    all_of_them = contents(folder)
    few = contents(tmp_path / "two")
    assert len(few) == 3 and few.items() <= all_of_them.items()
    assert rows(tmp_path / "two", "test") == rows(folder, "test")[:1]


def test_another_seed_gives_other_clips(made, tmp_path):
    make(tmp_path, 1, seed=8)
    assert not set(contents(tmp_path).values()) & set(contents(made[0]).values())


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    make(tmp_path / "whole", 4)
    calls = []
    real = collection.make_clip

    def stops(recipe, index, folder):
        if index == 2:
            raise KeyboardInterrupt
        return real(recipe, index, folder)

    def counted(recipe, index, folder):
        calls.append(index)
        return real(recipe, index, folder)

    monkeypatch.setattr(collection, "make_clip", stops)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts", 4)
    assert not json.loads((tmp_path / "parts" / "manifest.json").read_text())["is_complete"]
    with open(tmp_path / "parts" / collection.JOURNAL, "a") as journal:
        journal.write('{"index": 2, "id": "to')
    (tmp_path / "parts" / "videos" / "synth-0-000001.mp4").write_bytes(b"cut short")
    monkeypatch.setattr(collection, "make_clip", counted)
    told = []
    result = make(tmp_path / "parts", 4, progress=lambda done, total: told.append((done, total)))
    # Clips 0 and 3 show one view and are made first.
    assert calls == [1, 2] and result.num_kept == 2
    assert told == [(3, 4), (4, 4)]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    for split in SPLITS:
        assert rows(tmp_path / "parts", split) == rows(tmp_path / "whole", split)
    assert make(tmp_path / "parts", 4).num_written == 0


def test_a_folder_made_differently_is_refused(made):
    with pytest.raises(SynthesisError, match=r"made differently \(seed 7 not 8\)"):
        make(made[0], 2, seed=8)


def test_a_foreign_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(SynthesisError, match="not the manifest of synthetic clips"):
        make(tmp_path, 2)


def test_an_unwritable_place_is_one_error_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(collection, "make_clip", lambda *_: pytest.fail("work began"))
    with pytest.raises(SynthesisError, match="cannot be written to"):
        make(tmp_path / "file" / "set", 2)


def test_no_room_is_one_error_before_work(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(collection.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SynthesisError, match=r"5000 clips need about .* GB, and only 0.0 GB"):
        make(tmp_path, 5000)


def test_a_disk_that_fills_up_is_one_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(collection, "make_clip", full)
    with pytest.raises(SynthesisError, match="disk is full; make room and run the same command"):
        make(tmp_path, 2)


@pytest.mark.parametrize(
    ("num_clips", "options", "message"),
    [
        (0, {}, "number of clips must be at least 1, got 0"),
        (2, {"seed": -1}, "seed must be 0 or more"),
        (2, {"workers": 0}, "number of workers must be at least 1"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, num_clips, options, message):
    with pytest.raises(SynthesisError, match=message):
        make(tmp_path, num_clips, **options)


def test_without_photographs_only_procedural_content_and_the_manifest_says_so(tmp_path):
    result = make(tmp_path, 3, with_photographs=False)
    assert not result.has_photographs
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "procedural scenes only" in manifest["content"]
    assert all(scene["family"] != "photograph" for scene in manifest["scenes"])


def test_jax_is_not_imported():
    code = (
        "import sys, vqathinker_jax.synthetic.collection, vqathinker_jax.synthetic.variants;"
        "sys.exit('jax' in sys.modules or 'skimage' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["compression", "blur", "noise", "downscaling", "freeze"])
def test_variants_get_worse_in_steps(name, made, tmp_path):
    folder, _ = made
    source = folder / rows(folder, "validation")[0]["image"][0]
    steps = write_variants(source, tmp_path, name, levels=3, max_frames=9, max_side=200)
    assert [step.level for step in steps] == [1, 2, 3]
    assert [round(step.strength, 3) for step in steps] == [0.167, 0.5, 0.833]
    clips = [np.stack(list(read_video(step.path))).astype(int) for step in steps]
    assert {clip.shape for clip in clips} == {clips[0].shape}
    assert len(clips[0]) == 9 and max(clips[0].shape[1:3]) == 200
    if name in ("blur", "downscaling"):
        detail = [np.abs(np.diff(clip, axis=2)).mean() for clip in clips]
        assert detail[0] > detail[1] > detail[2]
    if name == "compression":
        sizes = [step.path.stat().st_size for step in steps]
        assert sizes[0] > sizes[1] > sizes[2]


def test_unknown_variants_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"distortion must be one of .*got 'sepia'"):
        write_variants("clip.mp4", tmp_path, "sepia")
