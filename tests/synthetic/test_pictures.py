"""Photographs of one's own: one split each, none twice, their paths in no record."""

import json

import numpy as np
import pytest
from PIL import Image

from vqathinker_jax.cli import main
from vqathinker_jax.synthetic.clips import Recipe, SynthesisError, choose_scene
from vqathinker_jax.synthetic.collection import synthesize
from vqathinker_jax.synthetic.pictures import find_pictures
from vqathinker_jax.synthetic.scenes import LARGEST_SIDE, picture


def write_picture(path, seed, size=(400, 300)):
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "own"
    for seed in range(12):
        write_picture(folder / f"{seed}.png", seed)
    return folder


def test_each_picture_has_one_split_that_stays_when_others_come(folder):
    before, left_out = find_pictures(folder, "CC0-1.0")
    assert len(before) == 12 and not left_out
    assert {scene.licence for scene in before} == {"CC0-1.0"}
    write_picture(folder / "sub" / "new.png", 99)
    after, _ = find_pictures(folder, "CC0-1.0")
    splits = {scene.id: scene.split for scene in after}
    assert len(splits) == 13 and all(splits[scene.id] == scene.split for scene in before)


def test_what_shows_the_same_is_used_once_and_what_cannot_be_used_is_named(folder):
    write_picture(folder / "larger.jpg", 3, (800, 600))
    write_picture(folder / "small.png", 50, (200, 150))
    write_picture(folder / ".hidden.png", 51)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    scenes, left_out = find_pictures(folder)
    used = {scene.file for scene in scenes}
    assert str(folder / "larger.jpg") in used and str(folder / "3.png") not in used
    assert len(left_out) == 3
    assert any("3.png: shows the same as" in line for line in left_out)
    assert any("small.png: 200 x 150 pixels, too few" in line for line in left_out)
    assert any("broken.jpg: the image is damaged" in line for line in left_out)


def test_pictures_are_upright_and_not_larger_than_needed(tmp_path):
    (tmp_path / "own").mkdir()
    turned = Image.linear_gradient("L").resize((3000, 1500)).convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "own" / "turned.jpg", exif=exif)
    (scene,), _ = find_pictures(tmp_path / "own")
    assert picture(scene).size == (LARGEST_SIDE // 2, LARGEST_SIDE)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="no picture in it can be used"):
        find_pictures(tmp_path)
    with pytest.raises(SynthesisError, match="is not a folder"):
        find_pictures(tmp_path / "nothing")


def test_views_show_pictures_of_their_split_in_their_share(folder):
    pictures, _ = find_pictures(folder)
    recipe = Recipe(photograph_share=1.0, pictures=pictures)
    chosen = [choose_scene(recipe, ("train", number)) for number in range(200)]
    assert {scene.split for scene in chosen} == {"train"}
    shown = {scene.id for scene in chosen}
    assert shown >= {scene.id for scene in pictures if scene.split == "train"}


def test_a_collection_of_pictures_names_them_and_no_path(folder, tmp_path, capsys):
    out = tmp_path / "clips"
    line = ["synth", str(out), "--clips", "10", "--workers", "1", "--pictures", str(folder)]
    line += ["--licence", "CC BY 4.0", "--photograph-share", "1", "--worn-share", "0.5"]
    assert main(line) == 0
    assert "12 pictures of" in capsys.readouterr().err
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    assert str(folder) not in text
    assert manifest["settings"]["pictures"].startswith("12 of digest ")
    assert "12 pictures of a folder" in manifest["content"]
    options = "--pictures DIR --licence 'CC BY 4.0' --photograph-share 1.0 --worn-share 0.5"
    assert options in manifest["command"]
    licences = {scene["licence"] for scene in manifest["scenes"] if "picture/" in scene["id"]}
    assert licences == {"CC BY 4.0"}

    # The same line again keeps all; other pictures are other clips.
    assert main(line) == 0
    assert "0 clips written, 10 kept" in capsys.readouterr().out
    write_picture(folder / "new.png", 77)
    assert main(line) == 1
    assert "pictures 12 of digest" in capsys.readouterr().err


def test_a_picture_that_is_gone_is_one_line(folder, tmp_path):
    pictures, _ = find_pictures(folder)
    recipe = Recipe(photograph_share=1.0, pictures=pictures)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(SynthesisError, match=r"can no longer be read.*\.png"):
        synthesize(tmp_path / "clips", 10, workers=2, recipe=recipe)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--pictures", "nowhere"], 1, "nowhere: is not a folder"),
        (["--photograph-share", "1.5"], 1, "photograph_share must be 0 to 1, got 1.5"),
        (["--worn-share", "-1"], 1, "worn_share must be 0 to 1, got -1.0"),
        (["--licence", "CC0-1.0"], 2, "--licence goes with --pictures"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, options, code, said):
    assert main(["synth", str(tmp_path / "x"), "--clips", "1", *options]) == code
    assert said in capsys.readouterr().err


def test_the_help_names_the_share_that_is_used(capsys):
    with pytest.raises(SystemExit):
        main(["synth", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"(default {Recipe().photograph_share})" in said
