"""From files to results: batches, errors, samples, resume and the command itself."""

import contextlib
import dataclasses
import io
import json
import os

import jax
import numpy as np
import pytest

import vqathinker_jax as vqt
from tests.data.clips import pictures, write_clip
from vqathinker_jax import asking, cli, parallel, scoring
from vqathinker_jax.asking import representative
from vqathinker_jax.data.clip import FrameRequest
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.inference import encode, normalize, prompt_prefix, respond
from vqathinker_jax.score_settings import ScoreSettings

SHORT = ScoreSettings(max_new_tokens=5, workers=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Four clips, one of them unreadable."""
    folder = tmp_path_factory.mktemp("clips")
    paths = []
    for number, (count, width, height) in enumerate([(9, 64, 48), (3, 40, 72), (17, 96, 56)]):
        path = folder / f"clip {number}.mp4"
        write_clip(path, pictures(count, width, height, seed=number))
        paths.append(str(path))
    broken = folder / "broken.mp4"
    broken.write_text("no video\n")
    return [*paths[:1], str(broken), *paths[1:]]


def answers(results) -> list[tuple]:
    return [(result.path, result.status, result.responses) for result in results]


def test_every_file_has_its_row_in_order(small_model, clips):
    results = list(small_model.score_many(clips, SHORT))
    assert [result.path for result in results] == clips
    assert [result.status for result in results] == ["ok", "error", "ok", "ok"]
    first, broken = results[:2]
    assert first.frames == (1, 3, 5, 7)
    assert first.video["num_frames"] == 9 and first.video["codec"] == "h264"
    assert first.model_kind == "random" and first.mode == "greedy" and first.seed is None
    assert first.parseable == (first.score is not None)
    assert first.size == os.stat(clips[0]).st_size
    assert broken.score is None and broken.error.startswith("cannot be read as a video")
    assert "\n" not in broken.error
    assert "random weights" in small_model.warning


def test_answers_do_not_depend_on_the_batch(small_model, clips):
    one_by_one = answers(small_model.score_many(clips, SHORT))
    settings = dataclasses.replace(SHORT, batch_size=2)
    assert answers(small_model.score_many(clips, settings)) == one_by_one


def test_answers_do_not_depend_on_the_devices_that_share_a_batch(small_folder, small_model, clips):
    settings = dataclasses.replace(SHORT, samples=2, seed=3)
    mesh = parallel.make_mesh(data=2)
    shared = vqt.from_pretrained(small_folder, dtype="float32", mesh=mesh)
    assert answers(shared.score_many(clips, settings)) == answers(
        small_model.score_many(clips, settings)
    )
    assert shared.settings_fingerprint(settings) == small_model.settings_fingerprint(settings)
    # Each device has a copy of the model, and the cache of its own videos alone.
    model = shared.loaded
    frames = np.zeros((2, model.video.num_images, 56, 56, 3), np.uint8)
    pixels = normalize(model.placed(frames), model.dtype)
    encoded = encode(model.graphdef, model.state, pixels, model.video)
    prompt = model.build_prompt()
    prefix = prompt_prefix(model, np.broadcast_to(prompt, (2, len(prompt))), encoded)
    keys = jax.tree.leaves(prefix.cache)[0]
    assert {shard.data.shape[1] for shard in keys.addressable_shards} == {1}
    assert len(keys.addressable_shards) == 2


def test_sampled_answers_depend_on_seed_and_file_alone(small_model, clips):
    settings = dataclasses.replace(SHORT, samples=3, seed=4)
    together = list(small_model.score_many(clips, settings))
    alone = small_model.score(clips[2], settings)
    assert alone.responses == together[2].responses
    assert len(set(alone.responses)) > 1
    assert (alone.mode, alone.seed, alone.samples) == ("sampled", 4, 3)
    other = small_model.score(clips[2], dataclasses.replace(settings, seed=5))
    assert other.responses != alone.responses


def test_score_is_the_answer_of_the_model_to_the_frames(small_model, clips):
    """The pipeline adds nothing: the same as its stages called by hand."""
    result = small_model.score(clips[0], SHORT)
    loaded, video = small_model.loaded, small_model.video
    clip = read_clip(clips[0], FrameRequest.of(video))
    pixels = normalize(clip.frames[None], "float32")
    ids = small_model.build_prompt()
    tokens = small_model.generate(ids, np.asarray(pixels), max_new_tokens=5)
    assert small_model.decode(tokens[0]) == result.response
    encoded = encode(loaded.graphdef, loaded.state, pixels, video)
    sampling = SHORT.sampling(loaded.end_id, loaded.pad_id, loaded.suppressed_ids)
    generation = respond(loaded, ids[None], encoded, None, 1, sampling)
    np.testing.assert_array_equal(generation.tokens[0, 0, : len(tokens[0])], tokens[0])


def test_reading_of_answers(small_model, clips, monkeypatch):
    """Mean, spread, chosen response and warnings from known answers."""
    texts = iter(
        [
            "<think>Blurred.</think><answer>2.00</answer>",
            "<think>Sharp.</think><answer>4.00</answer>",
            "<think>Fine.</think><answer>3.10</answer>",
            "I cannot say",
        ]
    )
    monkeypatch.setattr(asking, "decode_text", lambda *_: next(texts))
    result = small_model.score(clips[0], dataclasses.replace(SHORT, samples=4))
    np.testing.assert_allclose(result.score, (2 + 4 + 3.1) / 3)
    np.testing.assert_allclose(result.std, np.std([2, 4, 3.1], ddof=1))
    assert result.reasoning == "Fine."
    assert result.scores == (2.0, 4.0, 3.1, None)
    assert result.warnings == ("1 of 4 answers hold no number",)

    monkeypatch.setattr(asking, "decode_text", lambda *_: "<answer>good</answer>")
    result = small_model.score(clips[0], SHORT)
    assert (result.status, result.score, result.parseable) == ("ok", None, False)
    assert "no score" in result.warnings[0]

    monkeypatch.setattr(asking, "decode_text", lambda *_: "The quality is 2.5 of 5.")
    assert small_model.score(clips[0], SHORT).score is None
    other = dataclasses.replace(SHORT, fallback="whole_text")
    assert small_model.score(clips[0], other).score == 2.5
    assert small_model.settings_fingerprint(other) != small_model.settings_fingerprint(SHORT)

    monkeypatch.setattr(asking, "decode_text", lambda *_: "<answer>7.5</answer>")
    result = small_model.score(clips[0], SHORT)
    assert result.score == 7.5 and "outside 1-5" in result.warnings[0]


def test_representative():
    assert representative((1.0, None, 3.0, 5.0), 3.2) == 2
    assert representative((None, 2.0, 2.0), 2.0) == 1
    assert representative((None, None), None) == 0


def test_nothing_recompiles_for_a_short_last_batch(small_model, clips):
    settings = dataclasses.replace(SHORT, batch_size=2)
    list(small_model.score_many(clips, settings))
    compiled = []
    with jax.log_compiles(False):
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: compiled.append(event)
        )
        try:
            list(small_model.score_many(clips[:1] + clips[2:], settings))
        finally:
            jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "backend_compile" in event]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"samples": 2, "temperature": 0.0}, "same answer"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"decoder": "opencv"}, "pyav or decord"),
        ({"fallback": "all"}, "fallback must be one of"),
        ({"timeout_s": 0.0}, "positive"),
    ],
)
def test_refused_settings(changes, said):
    with pytest.raises(ValueError, match=said):
        ScoreSettings(**changes)


def run(*argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(argv))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, *texts


def test_the_command_scores_resumes_and_says_what_failed(small_folder, clips, tmp_path):
    folder = os.path.dirname(clips[0])
    output = tmp_path / "out.jsonl"
    line = ["score", folder, "--model", str(small_folder), "--output", str(output)]
    line += ["--max-new-tokens", "5", "--workers", "1"]
    code, out, err = run(*line)
    assert code == 1
    assert "random weights" in err and "1 failed" in err
    assert len(out.splitlines()) == 4 and "error\t" in out
    assert out.count("[random]\t") == 3  # labelled even where stderr is not looked at
    rows = [json.loads(row) for row in output.read_text().splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(clips)
    assert {row["model_kind"] for row in rows} == {"random"}

    os.remove(os.path.join(folder, "broken.mp4"))
    code, out, err = run(*line)
    assert (code, out) == (0, "")
    assert "3 of 3 already in" in err
    code, out, _ = run(*line, "--json", "--samples", "2", "--quiet")
    assert code == 0
    assert [json.loads(row)["mode"] for row in out.splitlines()] == ["sampled"] * 3


def test_geometry_on_the_command_line(small_folder, clips):
    line = ["score", clips[0], "--max-new-tokens", "3", "--workers", "1"]
    line += ["--model", str(small_folder), "--json", "--num-frames", "8"]
    code, out, _ = run(*line)
    assert code == 0
    assert len(json.loads(out)["frames"]) == 8
    # Three frames would not pass through SlowFast.
    code, out, _ = run(*line[:-1], "3", "--no-motion")
    assert code == 0
    assert len(json.loads(out)["frames"]) == 3


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("nothing", (), "no such folder"),
        (".", (), "has no config.json"),
        (None, ("--image-size", "57"), "57"),
        (None, ("--num-frames", "6"), "slow_divisor=4 gives 1 slow frames"),
        (None, ("--temperature", "-1"), "temperature must be"),
        (None, ("--output", "scores.xlsx"), "must end in .jsonl"),
    ],
)
def test_mistakes_are_one_line(model, options, said, small_folder, clips, tmp_path, capfd):
    folder = small_folder if model is None else tmp_path / model
    with contextlib.suppress(SystemExit):
        assert cli.main(["score", clips[0], "--model", str(folder), *options]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_real_clips(small_model, real_clips, tmp_path):
    """Every clip that is there gets its row, whatever its codec, rotation or frame rate."""
    paths = sorted(str(path) for path in real_clips.rglob("*") if path.is_file())
    results = list(small_model.score_many(paths, dataclasses.replace(SHORT, batch_size=4)))
    assert [(result.path, result.status) for result in results] == [(path, "ok") for path in paths]
    facts = {os.path.basename(result.path): result.video for result in results}
    assert facts["with-gps.mov"]["rotation"] == -90
    assert facts["hdr10-video-with-sdr-container.mp4"]["bit_depth"] == 10
    warned = {os.path.basename(r.path) for r in results if any("HDR" in w for w in r.warnings)}
    assert warned == {"hdr10-video-with-sdr-container.mp4"}


def test_batches_are_even():
    assert [scoring.even_batch_size(count, 8) for count in (1, 8, 9, 16, 17)] == [1, 8, 5, 8, 6]


def test_sampling_needs_something_to_draw_from(small_model):
    asker = asking.Asker(small_model.loaded, dataclasses.replace(SHORT, samples=2), 1)
    size = small_model.video.image_size
    frames = np.zeros((1, small_model.video.num_images, size, size, 3), np.uint8)
    with pytest.raises(ValueError, match="sampled answers need an id"):
        asker.ask(frames)
