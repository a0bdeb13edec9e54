"""Label files: the three forms, every kind of bad line, and the published files' counts."""

import json
import math
import random

import pytest

from vqathinker_jax.data import labels

LINE = {
    "id": 1,
    "dataset_name": "LSVQ",
    "image": ["yfcc-batch1/1.mp4"],
    "conversations": [
        {"from": "human", "value": "<image>How good is it?"},
        {"from": "gpt", "value": 2.611842},
    ],
}


def write(folder, name, content):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def json_line(**changes):
    return json.dumps({**LINE, **changes})


def test_training_lines(tmp_path):
    other = json_line(
        id="b", image=["c d.mp4"], conversations=[{"from": "gpt", "value": "3.232857"}]
    )
    file = write(tmp_path, "train.jsonl", f"\ufeff{json_line()}\r\n\n{other}\n")
    read = labels.read_labels(file, scale="mos/20", video_root="/videos")
    assert read.bad_lines == ()
    assert read.videos == (
        labels.LabelledVideo("1", "/videos/yfcc-batch1/1.mp4", 2.611842, "LSVQ", 1),
        labels.LabelledVideo("b", "/videos/c d.mp4", 3.232857, "LSVQ", 3),
    )


def test_what_is_wrong_and_a_response_are_read_where_a_line_has_them(tmp_path):
    severe = {"name": "blur", "severity": 0.75, "strength": 0.8, "done": "sigma 3"}
    lines = [
        json_line(distortions=[severe], response="<think>a</think><answer>2</answer>"),
        json_line(id=2, image=["2.mp4"], distortions=[]),
        json_line(id=3, image=["3.mp4"], content="train/0"),
    ]
    file = write(tmp_path, "a.jsonl", "\n".join(lines))
    first, second, third = labels.read_labels(file, scale="mos/20").videos
    assert first.distortions == (labels.Distortion("blur", 0.75),)
    assert first.response == "<think>a</think><answer>2</answer>"
    assert (second.distortions, second.response) == ((), None)
    assert (third.distortions, third.response) == (None, None)
    assert (first.content, third.content) == (None, "train/0")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("response", 3, "response is 3"),
        ("content", " ", "content is ' ', not a text"),
        ("response", "\ud83d", "response .* holds half of a character"),
        ("id", "\ud83d", "id .* holds half of a character"),
        ("distortions", "blur", "distortions are str"),
        ("distortions", [{"name": "\udc00", "severity": 1}], "distortion .* holds half"),
        ("distortions", [{"severity": 1}], "not an object with name"),
        ("distortions", [{"name": "blur", "severity": 1.5}], "severity 1.5 of 'blur'"),
        ("distortions", [{"name": "blur"}], "not a number"),
    ],
)
def test_a_malformed_response_content_or_distortion_is_a_bad_line(tmp_path, key, value, reason):
    file = write(tmp_path, "a.jsonl", json_line(**{key: value}))
    with pytest.raises(labels.LabelError, match=f"line 1.*{reason}"):
        labels.read_labels(file, scale="mos/20")


def test_tables(tmp_path):
    file = write(tmp_path, "mine.csv", 'path,score\n"a,b.mp4", 80\nx/y.mp4,20.5\r\n')
    read = labels.read_labels(file, scale="0-100")
    assert [(v.id, v.path, v.score, v.dataset, v.line) for v in read.videos] == [
        ("a,b.mp4", "a,b.mp4", 4.0, "mine", 2),
        ("x/y.mp4", "x/y.mp4", 1.025, "mine", 3),
    ]
    file = write(tmp_path, "fast.txt", "a.mp4, -1, -1, 52.2368\n")
    assert labels.read_labels(file, scale="0-100").videos[0].score == pytest.approx(2.61184)


def test_benchmark(tmp_path):
    content = {"annotations": [{"image_id": "a.mp4", "ann_type": "score", "score": "50.0"}]}
    file = write(tmp_path, "bench.json", json.dumps(content))
    (video,) = labels.read_labels(file, scale=(0, 100), dataset="B").videos
    assert video == labels.LabelledVideo("a.mp4", "a.mp4", 3.0, "B", 1)


def test_scales():
    assert labels.linear_scale(0, 100) == labels.Scale(0, 100, 25, 1)
    scale = labels.linear_scale(-3, 5)
    assert (scale.offset - 3 / scale.divisor, scale.offset + 5 / scale.divisor) == (1, 5)
    for low, high in ((5, 1), (2, 2), (math.nan, 5)):
        with pytest.raises(ValueError, match="low < high"):
            labels.linear_scale(low, high)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.mp4,6", "score 6 is outside 1 to 5"),
        ("a.mp4,0.99", "outside"),
        ("a.mp4,nan", "not a number"),
        ("a.mp4,inf", "not a number"),
        ("a.mp4,1e999", "not a finite number"),
        ("a.mp4,1_0", "not a number"),
        ("a.mp4,", "not a number"),
        ("a.mp4", "1 cells"),
        ("a.mp4,3,4", "3 cells"),
        (",3", "no path"),
        ('"a.mp4,3', "not a row"),
        ("../a.mp4,3", "climbs"),
        ("x/../../a.mp4,3", "climbs"),
        ("x\\..\\..\\a.mp4,3", "climbs"),
        ("/etc/a.mp4,3", "absolute"),
        ("C:\\a.mp4,3", "absolute"),
        ("a\0.mp4,3", "null"),
        (b"\xff.mp4,3", "not UTF-8"),
        ("good.mp4,3", "'good.mp4' was given in line 1"),
    ],
)
def test_bad_rows(tmp_path, row, reason):
    row = row if isinstance(row, bytes) else row.encode()
    file = write(tmp_path, "t.csv", b"good.mp4,2.5\n" + row + b"\nlast.mp4,3\n")
    read = labels.read_labels(file, scale="1-5", on_bad="skip")
    assert [video.path for video in read.videos] == ["good.mp4", "last.mp4"]
    (bad,) = read.bad_lines
    assert bad.line == 2 and reason in bad.reason
    with pytest.raises(labels.LabelError, match=r"1 bad lines\n  line 2: "):
        labels.read_labels(file, scale="1-5")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": 2}', "without image, conversations"),
        (json_line(id=2, image=[]), "0 paths"),
        (json_line(id=2, image=["a", "b"]), "2 paths"),
        (json_line(id=2, image=[7]), "no path"),
        (json_line(id=2, image=["a"], conversations=[]), "0 gpt turns"),
        (json_line(id=2, image=["a"], conversations=7), "0 gpt turns"),
        (json_line(id=2, image=["a"], conversations=LINE["conversations"] * 2), "2 gpt turns"),
        (json_line(id=None, image=["a"]).replace("null", "true"), "id is True"),
        (json_line(id=2, image=["a"], dataset_name=7), "dataset_name"),
        (json_line(image=["a"]), "id '1' was given in line 1"),
        (json_line(id=2), "path 'yfcc-batch1/1.mp4' was given in line 1"),
        (json_line(id=2, image=["a"]).replace("2.611842", "NaN"), "finite"),
        (json_line(id=2, image=["a"]).replace("2.611842", "true"), "bool"),
        (json_line(id=2, image=["a"]).replace("2.611842", "1" + "0" * 400), "finite"),
    ],
)
def test_bad_training_lines(tmp_path, line, reason):
    file = write(tmp_path, "t.jsonl", f"{json_line()}\n{line}\n")
    read = labels.read_labels(file, scale="mos/20", on_bad="skip")
    assert len(read.videos) == 1
    (bad,) = read.bad_lines
    assert bad.line == 2 and reason in bad.reason


def test_bad_benchmarks(tmp_path):
    content = {
        "annotations": [
            {"image_id": "a.mp4", "ann_type": "text", "score": "3"},
            {"image_id": "b.mp4"},
            7,
            {"image_id": "c.mp4", "ann_type": "score", "score": "3"},
        ]
    }
    file = write(tmp_path, "b.json", json.dumps(content))
    read = labels.read_labels(file, scale="1-5", on_bad="skip")
    assert [bad.line for bad in read.bad_lines] == [1, 2, 3]
    for text in ("{", "[]", '{"annotations": 3}'):
        with pytest.raises(labels.LabelError):
            labels.read_labels(write(tmp_path, "c.json", text), scale="1-5", on_bad="skip")


def test_refuses(tmp_path):
    file = write(tmp_path, "a.csv", "a.mp4,3\n")
    with pytest.raises(ValueError, match="skip"):
        labels.read_labels(file, scale="1-5", on_bad="ignore")
    with pytest.raises(ValueError, match="mos/20"):
        labels.read_labels(file, scale="0-10")
    with pytest.raises(ValueError, match="suffix"):
        labels.read_labels(tmp_path / "a.xml", scale="1-5")
    with pytest.raises(labels.LabelError, match="no usable line"):
        labels.read_labels(write(tmp_path, "b.csv", ""), scale="1-5")
    many = "".join(f"{i}.mp4,9\n" for i in range(27))
    with pytest.raises(labels.LabelError, match=r"27 bad lines(.|\n)*and 7 more"):
        labels.read_labels(write(tmp_path, "c.csv", many), scale="1-5")


def test_damaged_files_never_raise_anything_else(tmp_path):
    rng = random.Random(5)
    bench = json.dumps({"annotations": [{"image_id": "a", "ann_type": "score", "score": "3"}]})
    for name, text in (("a.jsonl", json_line() + "\n"), ("a.json", bench), ("a.csv", "a.mp4,3\n")):
        for _ in range(150):
            data = bytearray(text.encode() * 2 if name != "a.json" else text.encode())
            for _ in range(rng.randint(1, 5)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                labels.read_labels(write(tmp_path, name, bytes(data)), scale="1-5", on_bad="skip")
            except labels.LabelError:
                pass


BENCHMARKS = {
    "LSVQ_whole_test_ds_score.json": (7182, 59.9096, "0-100"),
    "LSVQ_whole_test_1080p_ds_score.json": (3573, 66.3591, "0-100"),
    "Konvid-1k_total_ds_score.json": (1200, 60.5904, "0-100"),
    "LIVE-VQC_total_ds_score.json": (585, 63.2911, "0-100"),
    "youtube_ugc_total.json": (1020, 3.5365, "1-5"),
    "LIVE-YT-Gaming_total_score.json": (600, 66.6667, "0-100"),
    "live_hfr_total_score.json": (480, 49.9851, "0-100"),
    "Waterloo_IVC_4K_total_score.json": (1200, 54.6665, "0-100"),
    "VDPVE_train_score.json": (839, 49.5148, "0-100"),
}


def test_published_benchmarks(real_labels):
    for name, (count, mean, scale) in BENCHMARKS.items():
        read = labels.read_labels(real_labels / name, scale=scale)
        assert len(read.videos) == count and not read.bad_lines
        unit = 20 if scale == "0-100" else 1
        got = unit * sum(video.score for video in read.videos) / count
        assert got == pytest.approx(mean, abs=5e-5)


def test_published_benchmark_beyond_its_scale(real_labels):
    """CGVDS says 1 to 5, and 63 of its 357 scores are above."""
    file = real_labels / "CGVDS_total_score.json"
    read = labels.read_labels(file, scale="1-5", on_bad="skip")
    assert (len(read.videos), len(read.bad_lines)) == (357 - 63, 63)
    with pytest.raises(labels.LabelError, match="63 bad lines"):
        labels.read_labels(file, scale="1-5")
    assert len(labels.read_labels(file, scale=labels.Scale(1, 7)).videos) == 357


def test_published_tables(real_labels):
    read = labels.read_labels(real_labels / "LSVQ_train_labels_fastvqa.txt", scale="0-100")
    assert len(read.videos) == 28056
    mean = 20 * sum(video.score for video in read.videos) / 28056
    assert mean == pytest.approx(59.7783, abs=5e-5)
    folder = real_labels / "ground_truth"
    konvid = labels.read_labels(folder / "KoNViD_labels_cleaned.txt", scale="1-5")
    assert len(konvid.videos) == 1200
    assert konvid.videos[0].path.startswith("KoNViD_1k_videos/")
