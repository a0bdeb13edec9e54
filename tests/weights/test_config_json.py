"""config.json: the published fields both ways, our own facts, and what is refused."""

import copy
import dataclasses
import json

import pytest

from tests.weights.small_model import SMALL
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.spec import INFERENCE, TRAINING
from vqathinker_jax.weights.config_fields import make_config, own_facts, write_config
from vqathinker_jax.weights.config_json import (
    FolderConfig,
    load_config_json,
    parse_config,
    read_config,
)
from vqathinker_jax.weights.errors import WeightsError

HEAD = "language_model.lm_head.weight"
MOTION = "motion_mlp.0.weight"
NAMES = {HEAD, MOTION}


def config_json(layout="official", **facts) -> dict:
    folder = FolderConfig(dataclasses.replace(SMALL), **facts)
    return copy.deepcopy(make_config(folder, layout, "bfloat16", 137))


@pytest.mark.parametrize("layout", ["official", "plain", "hf"])
def test_what_is_written_is_read(layout, tmp_path):
    folder = FolderConfig(
        SMALL, layout, video=TRAINING, prompt_style="train", kind="nano", aggregate="soft"
    )
    write_config(tmp_path / "config.json", make_config(folder, layout, "bfloat16", 137))
    names = NAMES if layout == "official" else {HEAD}
    assert parse_config(load_config_json(tmp_path), names, "config.json") == folder


def test_a_published_folder_carries_no_facts_of_ours():
    assert own_facts(FolderConfig(VQAThinkerConfig())) == {}
    data = make_config(FolderConfig(VQAThinkerConfig()), "official", "bfloat16", 151667)
    assert "vqathinker_jax" not in data
    read = parse_config(data, NAMES, "config.json")
    assert read == FolderConfig(VQAThinkerConfig()) and read.video == INFERENCE


def test_the_published_fields_are_the_published_ones():
    data = make_config(FolderConfig(VQAThinkerConfig()), "official", "bfloat16", 151667)
    assert data["architectures"] == ["InternVLChatModel"]
    assert data["model_type"] == "internvl_chat" and data["template"] == "internvl2_5"
    assert data["llm_config"]["rope_scaling"]["type"] == "dynamic"
    assert data["llm_config"]["vocab_size"] == 151674 and data["select_layer"] == -1
    assert data["vision_config"]["qkv_bias"] is True


def test_a_folder_speaks_of_details_only_where_there_are_some():
    facts = own_facts(FolderConfig(SMALL, video=TRAINING))
    assert facts["video"].keys() == {"num_frames", "image_size", "slow_divisor", "motion_repeat"}
    for changes in ({"num_extras": 2}, {"num_extras": 3, "fragment_size": 14}):
        video = dataclasses.replace(TRAINING, **changes)
        data = config_json(video=video)
        assert {**data["vqathinker_jax"]["video"], "has_motion": True} == dataclasses.asdict(video)
        assert parse_config(data, NAMES, "config.json").video == video


def test_a_folder_remembers_what_its_model_was_trained_without():
    video = dataclasses.replace(TRAINING, has_motion=False)
    data = config_json(video=video, reasoning=False)
    facts = data["vqathinker_jax"]
    assert facts["video"]["has_motion"] is False and facts["reasoning"] is False
    read = parse_config(data, NAMES, "config.json")
    assert read.video == video and not read.reasoning
    # And with both it says nothing of either.
    facts = own_facts(FolderConfig(SMALL, video=dataclasses.replace(TRAINING, num_extras=2)))
    assert "reasoning" not in facts and "has_motion" not in facts["video"]


def test_json_of_everything_comes_back():
    folder = FolderConfig(
        SMALL, "plain", TRAINING, "train", "nano", reasoning=False, aggregate="soft"
    )
    again = json.loads(json.dumps(folder.to_json()))
    assert FolderConfig.from_json(again, "facts") == folder
    with pytest.raises(WeightsError, match="not a folder description"):
        FolderConfig.from_json({"model": 3}, "facts")
    again["surprise"] = 1
    with pytest.raises(WeightsError, match="facts: unknown field surprise"):
        FolderConfig.from_json(again, "facts")


def test_the_layout_follows_the_tensors():
    data = config_json()
    assert parse_config(data, NAMES, "c").layout == "official"
    assert parse_config(data, {HEAD}, "c").layout == "plain"


def test_missing_fields_of_the_vision_tower_take_the_published_defaults():
    data = config_json()
    for name in ("norm_type", "qk_normalization", "qkv_bias"):
        del data["vision_config"][name]
    vision = parse_config(data, NAMES, "c").model.vision
    assert (vision.norm_type, vision.qk_normalization, vision.qkv_bias) == ("rms_norm", True, False)


def test_both_spellings_of_the_rotation_are_read():
    data = config_json("hf")
    text = data["text_config"]
    del text["rope_theta"], text["rope_scaling"]
    text["rope_parameters"] = {"rope_theta": 5000.0, "rope_type": "default"}
    decoder = parse_config(data, {HEAD}, "c").model.decoder
    assert (decoder.rope_theta, decoder.rope_type) == (5000.0, "default")


class TestTiedEmbeddings:
    """Reference quirk: the flag in the file does not decide, the stored head does."""

    def read(self, layout, names, *flags):
        data = config_json(layout)
        inner = "text_config" if layout == "hf" else "llm_config"
        for section, flag in zip((data, data[inner]), flags, strict=True):
            section.pop("tie_word_embeddings")
            if flag is not None:
                section["tie_word_embeddings"] = flag
        return parse_config(data, names, "c").model.decoder.tie_word_embeddings

    @pytest.mark.parametrize("layout", ["official", "hf"])
    def test_a_stored_head_is_used_whatever_the_file_says(self, layout):
        assert self.read(layout, {HEAD}, True, True) is False

    @pytest.mark.parametrize("layout", ["official", "hf"])
    def test_without_head_either_flag_ties(self, layout):
        assert self.read(layout, {"x"}, True, False) is True
        assert self.read(layout, {"x"}, False, True) is True

    def test_without_head_and_flag_only_the_native_layout_ties(self):
        assert self.read("hf", {"x"}, None, None) is True
        with pytest.raises(WeightsError, match="no language_model"):
            self.read("official", {"x"}, None, None)


def changed(data: dict, path: str, value) -> dict:
    *parents, last = path.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    return data


REFUSED = {
    "other architecture": ("architectures", ["Qwen2_5_VLForConditionalGeneration"],
                           r"describes Qwen2_5_VLFor.*supported: InternVLChatModel.*-hf"),
    "no vision config": ("vision_config", KeyError, "c: field 'vision_config' is missing"),
    "no llm config": ("llm_config", KeyError, "c: field 'llm_config' is missing"),
    "no hidden size": ("llm_config.hidden_size", KeyError,
                       "c: llm_config: field 'hidden_size' is missing"),
    "text as number": ("vision_config.patch_size", "14",
                       "c: vision_config: field 'patch_size' must be int or list, got '14'"),
    "no heads": ("llm_config.num_attention_heads", 0, "'num_attention_heads' must be at least 1"),
    "no patches": ("vision_config.patch_size", 0, "patch_size must be at least 1, got 0"),
    "architectures as number": ("architectures", 5, "'architectures' must be list or NoneType"),
    "bool as number": ("llm_config.vocab_size", True, "'vocab_size' must be int, got True"),
    "list as section": ("llm_config", [], "llm_config: expected an object, found list"),
    "other decoder": ("llm_config.architectures", ["InternLM2ForCausalLM"],
                      "language model InternLM2ForCausalLM is not supported"),
    "other template": ("template", "Hermes-2", "template 'Hermes-2' is not supported"),
    "other activation": ("vision_config.hidden_act", "relu", "hidden_act 'relu'"),
    "sliding window": ("llm_config.use_sliding_window", True, "use_sliding_window True"),
    "yarn": ("llm_config.rope_scaling", {"type": "yarn"}, "c: llm_config: rope_scaling type .yarn"),
    "oblong": ("vision_config.image_size", [448, 224], r"image_size \[448, 224\] is not square"),
    "indivisible": ("llm_config.num_attention_heads", 7, "c: llm_config: hidden_size 48"),
    "v3": ("ps_version", "v3", "c: ps_version must be v1 or v2"),
    "unknown fact": ("vqathinker_jax", {"vidoe": {}}, "unknown field vidoe; known: .*video"),
    "impossible fact": ("vqathinker_jax", {"video": {"num_frames": 0}}, "num_frames must be"),
    "unknown geometry": ("vqathinker_jax", {"video": {"frames": 3}}, "unknown field frames"),
    "no claim": ("vqathinker_jax", {"reasoning": 0}, "'reasoning' must be bool, got 0"),
    "unknown prompt": ("vqathinker_jax", {"prompt_style": "x"}, "prompt_style must be one of"),
    "unknown aggregate": ("vqathinker_jax", {"aggregate": "mode"}, "aggregate must be one of mean"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_we_cannot_run_is_refused_by_name(case):
    path, value, message = REFUSED[case]
    with pytest.raises(WeightsError, match=message) as error:
        parse_config(changed(config_json(), path, value), NAMES, "c")
    assert "\n" not in str(error.value)


def test_a_config_without_architecture_is_named():
    with pytest.raises(WeightsError, match="'architectures' is missing; supported"):
        parse_config({}, NAMES, "c")


def test_unreadable_files_are_named(broken):
    path = broken / "config.json"
    text = path.read_text()
    for content, message in (
        (text[:200], "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "not valid JSON"),
    ):
        path.write_text(content)
        with pytest.raises(WeightsError, match=message):
            read_config(broken)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(WeightsError, match="not a text file"):
        read_config(broken)
    path.unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        read_config(broken)
