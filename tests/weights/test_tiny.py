"""The small random folder and its tokenizer."""

import json
import shutil

import numpy as np
import pytest
from transformers import Qwen2Tokenizer

from tests.weights.small_model import SMALL, all_tensors
from vqathinker_jax.models.slowfast import check_geometry
from vqathinker_jax.weights.config_json import read_config
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.readers import abstract_model, count_parameters, parameter_shapes
from vqathinker_jax.weights.small_tokenizer import ADDED_TOKENS, PUBLISHED_TOKENS
from vqathinker_jax.weights.tiny import TINY_MODEL, TINY_VIDEO, make_tiny
from vqathinker_jax.weights.tokenizer import load_tokenizer

SYSTEM = "你是书生·万象，英文名是InternVL"


def test_the_same_seed_gives_the_same_bytes(official, tmp_path):
    for seed in (3, 4):
        make_tiny(tmp_path / str(seed), seed, model=SMALL)
    names = sorted(path.name for path in official.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "3").iterdir())
    for name in names:
        assert (official / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name
    weights = "model-00001-of-00002.safetensors"
    assert (tmp_path / "4" / weights).read_bytes() != (official / weights).read_bytes()


def test_it_has_what_a_published_folder_has(official):
    names = {path.name for path in official.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
        "tokenizer_config.json", "tokenizer.json",
    }  # fmt: skip
    assert "auto_map" not in json.loads((official / "config.json").read_text())
    assert read_config(official).kind == "random"


def test_values_keep_activations_in_range(official):
    tensors = all_tensors(official)
    assert all(np.isfinite(value.astype(np.float64)).all() for value in tensors.values())
    variances = [v for name, v in tensors.items() if name.endswith("running_var")]
    assert all((value.astype(np.float32) > 0.5).all() for value in variances)


def test_the_default_is_small_and_its_geometry_fits():
    shapes = parameter_shapes(abstract_model(TINY_MODEL)[1])
    shapes = {k: v for k, v in shapes.items() if "embed.embedding" not in k and "lm_head" not in k}
    assert 2e6 < count_parameters(shapes) < 5e6
    check_geometry(TINY_MODEL.slowfast, TINY_VIDEO)
    assert TINY_MODEL.tokens_per_frame(TINY_VIDEO.image_size) == 64


def test_a_used_folder_is_kept(official):
    with pytest.raises(WeightsError, match="not an empty folder"):
        make_tiny(official)


class TestTokenizer:
    def test_text_comes_back(self, official):
        tokenizer = load_tokenizer(official)
        text = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\nWhat is the quality? 3.42 <think>ünï</think>"
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert max(ids) < read_config(official).model.decoder.vocab_size

    def test_added_tokens_are_one_id_each_in_published_order(self, official):
        tokenizer = load_tokenizer(official)
        first = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        for number, token in enumerate(ADDED_TOKENS):
            assert tokenizer.encode(token) == [first + number]
        published = 151643
        assert ADDED_TOKENS[: len(PUBLISHED_TOKENS)] == PUBLISHED_TOKENS
        assert published + PUBLISHED_TOKENS.index("<IMG_CONTEXT>") == 151667
        assert published + len(PUBLISHED_TOKENS) == 151674
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")

    def test_special_tokens_vanish_in_decoding_and_others_do_not(self, official):
        tokenizer = load_tokenizer(official)
        ids = tokenizer.encode("<IMG_CONTEXT><think>ok</think><tool_call><|im_end|>")
        assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>ok</think><tool_call>"

    def test_the_older_files_alone_say_the_same(self, broken):
        text = f"{SYSTEM}<img><IMG_CONTEXT></img> rating 1.25"
        ids = load_tokenizer(broken).encode(text)
        (broken / "tokenizer.json").unlink()
        tokenizer = load_tokenizer(broken)
        assert tokenizer.encode(text) == ids and isinstance(tokenizer, Qwen2Tokenizer)

    def test_code_in_the_folder_is_not_asked_for(self, broken):
        config = json.loads((broken / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
        (broken / "config.json").write_text(json.dumps(config))
        (broken / "configuration_internvl_chat.py").write_text("raise SystemExit('was run')")
        assert load_tokenizer(broken).encode("<img>")

    def test_missing_and_damaged_files_are_named(self, broken):
        for name in ("tokenizer.json", "merges.txt"):
            (broken / name).unlink()
        with pytest.raises(WeightsError, match="has no tokenizer"):
            load_tokenizer(broken)
        (broken / "tokenizer.json").write_text('{"version": "1.0", "model')
        with pytest.raises(WeightsError, match="its tokenizer cannot be read") as error:
            load_tokenizer(broken)
        assert "\n" not in str(error.value)

    def test_missing_special_tokens_are_named(self, broken):
        (broken / "tokenizer.json").unlink()
        for name in ("added_tokens.json", "special_tokens_map.json"):
            (broken / name).unlink()
        path = broken / "tokenizer_config.json"
        config = json.loads(path.read_text())
        config["additional_special_tokens"] = []
        config["added_tokens_decoder"] = {
            number: token
            for number, token in config["added_tokens_decoder"].items()
            if token["content"] not in ("<img>", "<IMG_CONTEXT>")
        }
        path.write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="does not know <img>, <IMG_CONTEXT>"):
            load_tokenizer(broken)

    def test_a_folder_without_tokenizer(self, tmp_path, official):
        shutil.copy(official / "config.json", tmp_path)
        with pytest.raises(WeightsError, match="has no tokenizer"):
            load_tokenizer(tmp_path)
