"""Adapters in PEFT's layout: written, read under every name, merged, and refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from tests.weights.small_model import SMALL, all_tensors
from vqathinker_jax import cli
from vqathinker_jax.models.lora import LoraConfig
from vqathinker_jax.spec import TRAINING
from vqathinker_jax.weights.adapter import open_adapter, save_adapter
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.convert import convert
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.folder_writer import ModelSource
from vqathinker_jax.weights.readers import abstract_model, parameter_shapes

INNER = "base_model.model.language_model.model.layers."
LAYERS, RANK, ALPHA = 3, 5, 7.0
SIZES = {"self_attn.q_proj": (48, 48), "self_attn.v_proj": (48, 12), "mlp.down_proj": (56, 48)}
"""Inputs and outputs of the adapted layers."""
BASE = FolderConfig(SMALL)


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    return parameter_shapes(abstract_model(SMALL)[1])


def factors(layers=range(LAYERS)) -> dict[str, np.ndarray]:
    """Tensors as PEFT names them; values whose sums of products are exact in float32."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(-8, 9, shape).astype(np.float32) / 64

    tensors = {}
    for layer in layers:
        for name, (ins, outs) in SIZES.items():
            tensors[f"{INNER}{layer}.{name}.lora_A.weight"] = draw(RANK, ins)
            tensors[f"{INNER}{layer}.{name}.lora_B.weight"] = draw(outs, RANK)
    return tensors


def write(folder: Path, tensors: dict[str, np.ndarray], **fields) -> Path:
    """An adapter as PEFT writes one."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05, "bias": "none",
        "target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {},
        "alpha_pattern": {}, "use_rslora": False, "layers_to_transform": None, **fields,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def same_values(first, second, paths) -> bool:
    return all(
        np.array_equal(first.region(path, (layer,)), second.region(path, (layer,)))
        for path in paths
        for layer in range(LAYERS)
    )


PATHS = [
    f"decoder.layers.{part}.adapter.{factor}"
    for part in ("attn.q", "attn.v", "mlp.down")
    for factor in "ab"
]


def test_convert_merges_an_adapter_of_peft(official, tmp_path):
    tensors = factors()
    projector = np.full(48, 0.375, np.float32)
    tensors |= {
        f"base_model.model.{name}": np.float32(value)
        for name, value in all_tensors(official).items()
        if name.startswith("mlp1.")
    }
    tensors["base_model.model.mlp1.1.bias"] = projector
    adapter = write(tmp_path / "adapter", tensors, modules_to_save=["mlp1"])
    report = convert(official, tmp_path / "merged", "hf", adapter=adapter, verify=True)
    assert "merged" in str(report) and "LoRA of rank 5, alpha 7, on q_proj, v_proj, down_proj" in (
        report.merged
    )
    before, after = all_tensors(official), all_tensors(tmp_path / "merged")
    assert before.keys() == after.keys()
    for name, value in before.items():
        inner, stem = f"base_model.model.{name}", name.removesuffix("weight")
        a = tensors.get(f"base_model.model.{stem}lora_A.weight")
        if a is not None:
            b = tensors[f"base_model.model.{stem}lora_B.weight"]
            wanted = value.astype(np.float32) + np.float32(ALPHA / RANK) * (b @ a)
            assert np.array_equal(after[name], wanted.astype(value.dtype))
            assert not np.array_equal(after[name], value)
        elif inner in tensors:
            assert np.array_equal(after[name], tensors[inner]) and after[name].dtype == np.float32
        else:
            assert after[name].tobytes() == value.tobytes()
    said = json.loads((tmp_path / "merged" / "config.json").read_text())["vqathinker_jax"]
    assert said["kind"].startswith("trained from")


@pytest.mark.parametrize("prefix", ["model.layers.", "model.language_model.layers."])
def test_names_inside_other_classes_are_read(prefix, shapes, tmp_path):
    renamed = {
        name.replace(INNER, f"base_model.model.{prefix}"): value
        for name, value in factors().items()
    }
    first = open_adapter(write(tmp_path / "a", factors()), BASE, shapes)
    second = open_adapter(write(tmp_path / "b", renamed), BASE, shapes)
    assert first.lora == second.lora == LoraConfig(RANK, ALPHA, ("q_proj", "v_proj", "down_proj"))
    assert same_values(first.values, second.values, PATHS)
    a = first.values.region("decoder.layers.attn.v.adapter.a", (2,))
    b = first.values.region("decoder.layers.attn.v.adapter.b", (2,))
    assert np.array_equal(a.T, factors()[f"{INNER}2.self_attn.v_proj.lora_A.weight"])
    assert np.array_equal(
        b.reshape(RANK, 12).T, factors()[f"{INNER}2.self_attn.v_proj.lora_B.weight"]
    )


def test_some_layers_and_another_scale(shapes, tmp_path):
    folder = write(tmp_path / "a", factors([1]), layers_to_transform=[1], use_rslora=True)
    adapter = open_adapter(folder, BASE, shapes)
    np.testing.assert_allclose(adapter.lora.scale, ALPHA / RANK**0.5)
    assert adapter.values.region(PATHS[0], (1,)).any()
    assert not adapter.values.region(PATHS[0], (0,)).any()


def test_what_is_saved_is_read_again(shapes, tmp_path):
    lora = LoraConfig(RANK, ALPHA, ("q_proj", "v_proj", "down_proj"))
    first = open_adapter(write(tmp_path / "first", factors()), BASE, shapes)
    rng = np.random.default_rng(1)
    values = {path: first.values.read(path, (slice(None),) * len(shape), np.dtype(np.float32))
              for path, shape in first.values.shapes.items()}  # fmt: skip
    values |= {
        path: rng.standard_normal(shape, np.float32)
        for path, shape in shapes.items()
        if path.startswith("motion_projector.")
    }
    state = nnx.from_flat_state(
        {tuple(path.split(".")): nnx.Param(jnp.asarray(value)) for path, value in values.items()}
    )
    config = FolderConfig(SMALL, video=TRAINING, prompt_style="train", kind="trained")
    save_adapter(
        tmp_path / "second", ModelSource(state), lora, {"motion_projector"}, config, "owner/base"
    )
    stored = load_file(tmp_path / "second" / "adapter_model.safetensors")
    for name, value in factors().items():
        assert np.array_equal(stored[name], value)
    assert {name.split(".")[2] for name in stored} == {"language_model", "motion_mlp"}
    said = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["peft_type"]) == (RANK, 7, "LORA")
    assert said["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert said["modules_to_save"] == ["motion_mlp"]
    assert said["base_model_name_or_path"] == "owner/base"
    second = open_adapter(tmp_path / "second", BASE, shapes)
    assert second.lora == lora and same_values(first.values, second.values, PATHS)
    assert second.config == dataclasses.replace(config, layout=BASE.layout)
    assert second.replaced == {path for path in shapes if path.startswith("motion_projector.")}


class TestRefused:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
            ({"use_dora": True}, "use_dora True is not supported"),
            ({"rank_pattern": {"q_proj": 2}}, "rank_pattern .* is not supported"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is not supported"),
            ({"r": None}, "r and lora_alpha must be numbers, got None"),
            ({"r": 0}, "rank must be at least 1, got 0"),
            ({"r": 4}, r"18 of another shape .*lora_A.weight \[5, 48\] where .* \[4, 48\]"),
        ],
    )
    def test_settings(self, shapes, tmp_path, fields, message):
        with pytest.raises(WeightsError, match=message) as error:
            open_adapter(write(tmp_path / "a", factors(), **fields), BASE, shapes)
        assert "\n" not in str(error.value)

    def test_an_adapter_of_another_model(self, shapes, tmp_path):
        tensors = factors(range(4))
        with pytest.raises(WeightsError, match=r"6 unexpected \(.*layers\.3\.mlp\.down_proj"):
            open_adapter(write(tmp_path / "a", tensors), BASE, shapes)
        tensors = factors([0, 2])
        with pytest.raises(WeightsError, match=r"6 missing \(.*layers\.1\.self_attn\.q_proj"):
            open_adapter(write(tmp_path / "b", tensors), BASE, shapes)
        tensors = factors() | {"base_model.model.vision_model.x.lora_A.weight": np.zeros((2, 3))}
        with pytest.raises(WeightsError, match="unexpected"):
            open_adapter(write(tmp_path / "c", tensors), BASE, shapes)

    def test_no_adapter(self, official, shapes, tmp_path):
        with pytest.raises(WeightsError, match=r"is no adapter: it has no adapter_config\.json"):
            open_adapter(official, BASE, shapes)
        folder = write(tmp_path / "a", factors())
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(WeightsError, match="adapters are read from safetensors"):
            open_adapter(folder, BASE, shapes)
        other = {"base_model.model.lm_head.lora_A.weight": np.zeros((5, 48), np.float32)}
        with pytest.raises(WeightsError, match="no tensors beside it adapt q_proj"):
            open_adapter(write(tmp_path / "b", other), BASE, shapes)

    def test_on_the_command_line(self, official, tmp_path, capsys):
        line = ["convert", str(official), str(tmp_path / "out"), "--merge-lora", str(official)]
        assert cli.main([*line, "--to", "jax"]) == 1
        assert "with --to hf only" in capsys.readouterr().err
        assert cli.main([*line, "--to", "hf"]) == 1
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert "is no adapter" in said and not (tmp_path / "out").exists()


def test_what_the_adapter_was_trained_on_is_told_by_its_facts(shapes, tmp_path):
    folder = write(tmp_path / "a", factors())
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "vqathinker_jax_adapter.json").write_text('{"prompt_style": "train"}')
    assert open_adapter(folder, BASE, shapes).config == dataclasses.replace(BASE, kind="trained")
    assert open_adapter(copy, BASE, shapes).config.prompt_style == "train"
