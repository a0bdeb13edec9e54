"""Reading labels: the published files, and files that are wrong."""

import json

import pytest

from vqathinker_jax.evaluation.benchmarks import (
    PUBLISHED,
    BenchmarkError,
    BenchmarkSource,
    find_published,
    load_benchmark,
    parse_source,
)

FILES = {
    "LSVQ-test": "LSVQ_whole_test_ds_score.json",
    "LSVQ-1080p": "LSVQ_whole_test_1080p_ds_score.json",
    "KoNViD-1k": "Konvid-1k_total_ds_score.json",
    "LIVE-VQC": "LIVE-VQC_total_ds_score.json",
    "YouTube-UGC": "youtube_ugc_total.json",
    "LIVE-YT-Gaming": "LIVE-YT-Gaming_total_score.json",
    "CGVDS": "CGVDS_total_score.json",
    "LIVE-YT-HFR": "live_hfr_total_score.json",
    "Waterloo-IVC-4K": "Waterloo_IVC_4K_total_score.json",
    "VDPVE": "VDPVE_train_score.json",
}


def write(path, rows) -> BenchmarkSource:
    entries = [{"image_id": name, "ann_type": "score", "score": score} for name, score in rows]
    path.write_text(json.dumps({"annotations": entries}))
    return BenchmarkSource("mine", path, path.parent)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: one.name)
def test_published_files_load_without_a_remark(published, real_labels, tmp_path):
    file = real_labels / FILES[published.name]
    benchmark = load_benchmark(BenchmarkSource(published.name.lower(), file, tmp_path))
    assert len(benchmark.videos) == published.num_videos
    assert benchmark.name == published.name and benchmark.domain == published.domain
    assert benchmark.notes == ()
    video = benchmark.videos[0]
    assert video.path == str(tmp_path / video.id)


def test_labels_keep_their_unit(tmp_path):
    benchmark = load_benchmark(write(tmp_path / "l.json", [("a.mp4", "6.06"), ("b/c.mp4", "91.4")]))
    assert [video.score for video in benchmark.videos] == [6.06, 91.4]
    assert benchmark.domain == "custom"


def test_differences_from_the_published_file_are_said_not_refused(tmp_path):
    source = write(tmp_path / "l.json", [("a.mp4", "50"), ("b.mp4", "60")])
    notes = load_benchmark(BenchmarkSource("konvid_1K", source.labels, tmp_path)).notes
    assert "2 labels, the published file has 1200" in notes
    assert any("SHA-256 differs" in note for note in notes)
    (note,) = load_benchmark(BenchmarkSource("KoNVD-1k", source.labels, tmp_path)).notes
    assert "did you mean KoNViD-1k?" in note


@pytest.mark.parametrize(
    ("name", "score", "reason"),
    [
        ("a.mp4", "nan", "'nan' is not a number"),
        ("a.mp4", float("inf"), "not a finite number"),
        ("a.mp4", None, "NoneType, not a number"),
        ("a.mp4", "good", "'good' is not a number"),
        ("a.mp4", "", "'' is not a number"),
        ("../a.mp4", "3", "climbs out"),
        ("b/../../a.mp4", "3", "climbs out"),
        ("/etc/passwd", "3", "absolute"),
        ("ok.mp4", "3", "was given in line 1"),
    ],
)
def test_bad_rows_are_refused_with_number_and_reason(name, score, reason, tmp_path):
    source = write(tmp_path / "l.json", [("ok.mp4", "3.5"), (name, score)])
    with pytest.raises(BenchmarkError) as caught:
        load_benchmark(source)
    assert "line 2" in str(caught.value) and reason in str(caught.value)
    benchmark = load_benchmark(source, on_bad="skip")
    assert len(benchmark.videos) == 1
    assert any(note.startswith("row 2 left out") and reason in note for note in benchmark.notes)


def test_files_that_are_none(tmp_path):
    with pytest.raises(BenchmarkError, match="cannot be read"):
        load_benchmark(BenchmarkSource("mine", tmp_path / "none.json", tmp_path))
    with pytest.raises(BenchmarkError, match="is no folder"):
        load_benchmark(BenchmarkSource("mine", tmp_path / "none.json", tmp_path / "none"))
    (tmp_path / "l.json").write_text("[")
    with pytest.raises(BenchmarkError, match="not JSON"):
        load_benchmark(BenchmarkSource("mine", tmp_path / "l.json", tmp_path))


def test_sources(tmp_path):
    source = parse_source("a=l.json:videos/x")
    assert (source.name, str(source.labels), str(source.root)) == ("a", "l.json", "videos/x")
    labels = tmp_path / "with:colon.json"
    labels.write_text("")
    source = parse_source(f"a={labels}:{tmp_path}:x")
    assert source.labels == labels and str(source.root) == f"{tmp_path}:x"
    assert parse_source(f"a={labels}", needs_root=False).root is None
    for text in ("a", "a=", "=l:r", "a=l.json", "a/b=l:r", "..=l:r"):
        with pytest.raises(BenchmarkError):
            parse_source(text)
    assert find_published("lsvq test").name == "LSVQ-test"
