"""What a run with adapters leaves: the same model, merged by it or by `convert`."""

import json

import numpy as np

from tests.rl.lora_states import flat, moved
from tests.weights.small_model import all_tensors, same_tensors
from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.rl.export import export, export_adapter
from vqathinker_jax.rl.start import load_start
from vqathinker_jax.weights.convert import convert


def test_the_model_that_is_left_is_its_base_with_the_adapter_merged(
    lora_start, lora_config, small_folder, tmp_path
):
    trained = moved(lora_start.trained)
    export(lora_start, trained, lora_config, tmp_path / "model")
    export_adapter(lora_start, trained, lora_config, tmp_path / "adapter")
    convert(small_folder, tmp_path / "merged", "hf", adapter=tmp_path / "adapter", verify=True)
    model, merged, base = (
        all_tensors(f) for f in (tmp_path / "model", tmp_path / "merged", small_folder)
    )
    assert same_tensors(model, merged)
    changed = {name for name in base if not np.array_equal(base[name], model[name])}
    assert {name.split(".")[-2] for name in changed if name.startswith("language_model")} == {
        "q_proj", "o_proj", "down_proj"
    }  # fmt: skip
    assert {name.split(".")[0] for name in changed} == {"language_model", "mlp1", "motion_mlp"}
    for name in ("model", "merged"):
        own = json.loads((tmp_path / name / "config.json").read_text())["vqathinker_jax"]
        assert (own["kind"], own["prompt_style"]) == ("trained from random", "train")


def test_without_training_the_model_is_its_base(lora_start, lora_config, small_folder, tmp_path):
    # What is stored as zero may come back with its other sign.
    export(lora_start, lora_start.trained, lora_config, tmp_path / "model")
    base = all_tensors(small_folder)
    for name, value in all_tensors(tmp_path / "model").items():
        assert value.dtype == base[name].dtype and np.array_equal(value, base[name])


def test_on_a_mesh_the_same_is_left(lora_start, lora_config, tmp_path):
    mesh = make_mesh(fsdp=4)
    split = load_start(lora_config, mesh, (), tmp_path)
    one, other = flat(lora_start.trained), flat(split.trained)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    down = other["decoder.layers.attn.q.adapter.a"]
    assert down.sharding.shard_shape(down.shape) == (2, 8, 3)
    folders = []
    for begun, name in ((lora_start, "one"), (split, "two")):
        export_adapter(begun, moved(begun.trained), lora_config, tmp_path / name)
        folders.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert folders[0] == folders[1]
