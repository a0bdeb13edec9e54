"""Fitting, refusing, keeping and applying a map to opinion scores."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

import vqathinker_jax as vqt
from tests.data.clips import pictures, write_clip
from tests.test_scoring import run
from vqathinker_jax.calibration import (
    CALIBRATION_NAME,
    CalibrationError,
    calibration_from_json,
    fit_calibration,
    isotonic,
    logistic,
    read_calibration,
    write_calibration,
)
from vqathinker_jax.score_settings import ScoreSettings, calibration_settings
from vqathinker_jax.weights.folder_writer import copied_files
from vqathinker_jax.weights.load import folder_fingerprint

AT_ONCE = ScoreSettings(aggregate="soft", at_once=True, workers=1)


def made(count: int = 40, noise: float = 4.0):
    """Scores, opinions of 0 to 100 that rise with them, and the map between the two."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(1.5, 4.5, count)
    opinions = 20 * np.sqrt(scores) * 2 + rng.normal(0, noise, count)
    return scores, opinions, fit_calibration(scores, opinions, source="mine.csv", settings="abc")


def test_isotonic_has_the_least_squares():
    """Against the quadratic program solved by SciPy, ties included."""
    rng = np.random.default_rng(0)
    x, y = np.round(rng.uniform(1, 5, 30), 1), rng.normal(size=30)
    y += x
    knots, levels = isotonic(x, y)
    assert (np.diff(knots) > 0).all() and (np.diff(levels) > 0).all()
    places, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, y) / counts
    best = scipy.optimize.isotonic_regression(means, weights=counts)
    blocks = np.split(places, best.blocks[1:-1])
    expected = [np.average(b, weights=counts[np.isin(places, b)]) for b in blocks]
    np.testing.assert_allclose(knots, expected, atol=1e-12)
    np.testing.assert_allclose(levels, best.x[best.blocks[:-1]], atol=1e-12)


def test_the_map_rises_and_helps():
    scores, opinions, found = made()
    grid = np.linspace(0, 6, 200)
    mapped = [found(score) for score in grid]
    assert (np.diff(mapped) >= 0).all()
    assert mapped[0] == min(found.opinions) and mapped[-1] == max(found.opinions)
    assert found.errors.after < found.errors.constant < found.errors.before
    assert 3 < found.errors.after < 8  # the noise is 4: an error far below it would be a leak
    assert found.is_useful and found.num_videos == 40
    smooth = fit_calibration(scores, opinions, source="mine.csv", settings="abc", method="logistic")
    assert smooth.is_useful and smooth.describe().startswith("logistic, fitted on 40 videos")
    mapped = [smooth(score) for score in grid]
    assert (np.diff(mapped) >= 0).all() and calibration_from_json(smooth.to_json()) == smooth
    shuffled = np.random.default_rng(1).permutation(opinions)
    noise = fit_calibration(scores, shuffled, source="x", settings="abc")
    assert not noise.is_useful
    already = fit_calibration(scores, scores, source="x", settings="abc")
    assert already.errors.after < already.errors.constant and not already.is_useful


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_the_error_told_is_that_on_new_videos(method):
    """Over 25 sets of 40 videos the mean of what is told is within 6 % of the truth."""
    told, true = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)

        def opinion(score):
            return 10 + 80 / (1 + np.exp(-(score - 3) / 0.7))

        scores, new = rng.uniform(1.5, 4.5, 40), rng.uniform(1.5, 4.5, 1000)
        opinions = opinion(scores) + rng.normal(0, 10, 40)
        found = fit_calibration(scores, opinions, source="x", settings="y", method=method)
        told.append(found.errors.after)
        missed = np.array([found(score) for score in new]) - opinion(new)
        true.append(np.sqrt(np.mean(missed**2) + 10**2))
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.06)


def test_a_logistic_is_found_again():
    rng = np.random.default_rng(2)
    x = rng.uniform(1, 5, 300)
    truth = lambda at: 10 + 70 / (1 + np.exp(-(at - 3.2) / 0.4))  # noqa: E731
    knots, values = logistic(x, truth(x) + rng.normal(0, 0.5, 300))
    np.testing.assert_allclose(values, truth(knots), atol=0.5)
    # The limits of the family: a line, and nearly a step.
    knots, values = logistic(x, 20 * x)
    np.testing.assert_allclose(values, 20 * knots, atol=0.5)
    knots, values = logistic(x, np.where(x > 3, 4.0, 2.0))
    assert values[0] == pytest.approx(2, abs=0.2) and values[-1] == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
@pytest.mark.parametrize(
    ("scores", "opinions", "said"),
    [
        (range(19), range(19), "at least 20"),
        (range(30), range(29), "30 scores for 29"),
        ([3.0] * 25, range(25), "all scores of the model are 3"),
        (range(25), [2.0] * 25, "all opinion scores are 2"),
        (range(25), [*range(24), float("nan")], "not a finite number"),
        (range(25), range(25, 0, -1), r"do not rise .*\(rank correlation -1.00\)"),
    ],
)
def test_what_cannot_be_fitted(scores, opinions, said, method):
    with pytest.raises(CalibrationError, match=said):
        fit_calibration(list(scores), list(opinions), source="x", settings="y", method=method)


def test_files(tmp_path):
    *_, found = made()
    path = tmp_path / "map.json"
    write_calibration(found, path)
    assert read_calibration(path) == found
    data = json.loads(found.to_json())
    for broken in (
        "[]",
        "{",
        json.dumps({**data, "method": "magic"}),
        json.dumps({**data, "extra": 1}),
        json.dumps({**data, "opinions": data["opinions"][::-1]}),
        json.dumps({**data, "opinions": data["opinions"][1:]}),
        json.dumps({**data, "scores": [1.0], "opinions": [2.0]}),
    ):
        path.write_text(broken)
        with pytest.raises(CalibrationError, match=r"map\.json: is not a calibration"):
            read_calibration(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="cannot write"):
        write_calibration(found, tmp_path / "no" / "map.json")
    with pytest.raises((ValueError, KeyError)):
        calibration_from_json("{}")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, small_model):
    """Twenty-two clips, and opinions of 0 to 100 that follow the small model's own scores."""
    folder = tmp_path_factory.mktemp("labelled")
    paths = []
    for number in range(22):
        path = folder / f"{number:02d}.mp4"
        write_clip(path, pictures(3, 48, 40, seed=number))
        paths.append(str(path))
    scores = [result.score for result in small_model.score_many(paths, AT_ONCE)]
    place = np.argsort(np.argsort(scores))
    rows = [f"{number:02d}.mp4,{20 + 2.5 * rank}" for number, rank in enumerate(place)]
    (folder / "mine.csv").write_text("path,score\n" + "\n".join(rows) + "\n")
    return folder, paths, scores


def test_calibrate_and_score(labelled, small_folder, tmp_path):
    folder, paths, scores = labelled
    place = tmp_path / "map.json"
    line = ["--model", str(small_folder), "--at-once", "--workers", "1"]
    code, out, err = run(
        "calibrate", "--labels", str(folder / "mine.csv"), "--video-root", str(folder),
        "--scale", "0", "100", "--out", str(place), *line,
    )  # fmt: skip
    assert code == 0, err
    assert "fitted on 22 videos of mine.csv" in out and "left out of the fit" in out
    assert "random weights" in err

    code, out, err = run("score", paths[3], *line, "--calibration", str(place), "--json")
    assert code == 0
    row = json.loads(out)
    found = read_calibration(place)
    assert row["score"] == pytest.approx(scores[3], abs=1e-5)
    assert row["calibrated"] == pytest.approx(found(row["score"]))
    assert "fitted on 22 videos of mine.csv" in row["calibration"]
    assert "fitted on 22 videos" in err
    other = ("--question", "How sharp?")
    code, _, err = run("score", paths[3], *line, "--calibration", str(place), *other)
    assert code == 0 and "scores are not calibrated" in err and "arrow" not in err
    code, out, _ = run("score", paths[3], *line, "--calibration", str(place), "--quiet")
    assert f"→ {row['calibrated']:.2f} [random]\t" in out


def test_a_folder_keeps_its_calibration(labelled, small_model, small_folder):
    """The model stays the same model; resume does not, and other settings are not mapped."""
    _, paths, _ = labelled
    before = folder_fingerprint(small_folder)
    *_, found = made()
    found = dataclasses.replace(found, settings=calibration_settings(small_model.loaded, AT_ONCE))
    own = small_folder / CALIBRATION_NAME
    write_calibration(found, own)
    try:
        model = vqt.from_pretrained(small_folder, dtype="float32")
        copied = copied_files(small_folder)
        plain = vqt.from_pretrained(small_folder, dtype="float32", calibration="none")
        own.write_text("{}")
        with pytest.raises(ValueError, match="is not a calibration"):
            vqt.from_pretrained(small_folder, dtype="float32")
    finally:
        own.unlink()
    assert model.calibration == found and plain.calibration is None
    assert Path(CALIBRATION_NAME) not in copied
    assert folder_fingerprint(small_folder) == before == model.loaded.fingerprint
    assert model.settings_fingerprint(AT_ONCE) != plain.settings_fingerprint(AT_ONCE)
    assert plain.settings_fingerprint(AT_ONCE) == small_model.settings_fingerprint(AT_ONCE)

    result, without = model.score(paths[0], AT_ONCE), plain.score(paths[0], AT_ONCE)
    assert result.score == without.score and without.calibrated is None
    assert result.calibrated == pytest.approx(found(result.score))
    other = dataclasses.replace(AT_ONCE, question="How sharp is it?")
    result = model.score(paths[0], other)
    assert result.score is not None and result.calibrated is None
    assert any(warning.startswith("not calibrated") for warning in result.warnings)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("path,score\na.mp4,3\n", (), "has 1 usable lines"),
        ("path,score\na.mp4,x\n", (), "--skip-bad-lines"),
        ("path,score\na.mp4,300\n", ("--scale", "5", "1"), "--scale needs LOW below HIGH"),
        (None, (), "labels.csv: No such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(
    text, options, said, small_folder, tmp_path, capfd
):
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SystemExit) as end:
        run_line = ["calibrate", "--model", str(small_folder)]
        run_line += ["--labels", str(tmp_path / "labels.csv"), *options]
        from vqathinker_jax import cli

        cli.main(run_line)
    printed = capfd.readouterr()
    assert end.value.code == 2 and said in printed.err and printed.out == ""
    assert not (small_folder / CALIBRATION_NAME).exists()
