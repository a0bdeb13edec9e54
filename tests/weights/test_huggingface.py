"""Folders into models and back: values, shards on a mesh, dtypes, and every misfit."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.torch import load_file

from tests.weights.small_model import SMALL, all_tensors, same_tensors
from vqathinker_jax import parallel
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.huggingface import load_model, resolve_model, save_folder
from vqathinker_jax.weights.load import folder_fingerprint, load_any, read_any_config
from vqathinker_jax.weights.mapping import MOTION_MODULES
from vqathinker_jax.weights.readers import dotted
from vqathinker_jax.weights.tensor_files import NewTensor, open_folder, write_file
from vqathinker_jax.weights.tokenizer import load_tokenizer

COUNTER = "slowfast_model.feature_extraction.0.multipathway_blocks.0.norm.num_batches_tracked"


@pytest.fixture(scope="module")
def loaded(official):
    return load_model(official)


def parameters(model) -> dict[str, jax.Array]:
    return {dotted(path): v.get_value() for path, v in nnx.to_flat_state(nnx.state(model))}


def rewrite(folder, edit) -> None:
    """Puts edited tensors into one weight file."""
    tensors = all_tensors(folder)
    edit(tensors)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    new = [NewTensor(k, v.dtype, v.shape, lambda v=v: v) for k, v in tensors.items()]
    write_file(folder / "model.safetensors", new)


def same_folders(first, second) -> bool:
    names = sorted(path.name for path in first.iterdir())
    return names == sorted(path.name for path in second.iterdir()) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


def test_values_are_those_torch_reads(official, loaded):
    tensors = {}
    for path in official.glob("*.safetensors"):
        tensors |= load_file(path)
    ours = parameters(loaded.model)
    up = tensors["language_model.model.layers.2.mlp.up_proj.weight"].float().numpy()
    assert np.array_equal(np.float32(ours["decoder.layers.mlp.up.kernel"][2]), up.T)
    positions = tensors["vision_model.embeddings.position_embedding"].float().numpy()
    assert np.array_equal(np.float32(ours["vision.position_embedding"]), positions[0])
    assert all(value.dtype == jnp.bfloat16 for value in ours.values())
    assert loaded.config.kind == "random" and loaded.source_files == official


def test_a_saved_folder_is_the_same_bytes(official, loaded, tmp_path):
    left_out = save_folder(
        loaded.model,
        tmp_path / "out",
        loaded.config,
        counters=loaded.counters,
        source_files=official,
    )
    assert left_out == () and same_folders(official, tmp_path / "out")


def test_a_saved_folder_without_source_describes_itself(loaded, tmp_path):
    out = tmp_path / "out"
    save_folder(loaded.model, out, loaded.config, counters=loaded.counters, max_shard_bytes=100_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in open_folder(out).values())
    again = load_model(out)
    assert again.config == loaded.config
    first, second = parameters(loaded.model), parameters(again.model)
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_changed_facts_change_only_our_key(official, loaded, tmp_path):
    config = dataclasses.replace(loaded.config, kind="nano")
    out = tmp_path / "out"
    save_folder(loaded.model, out, config, counters=loaded.counters, source_files=official)
    before, after = (json.loads((f / "config.json").read_text()) for f in (official, out))
    assert after.pop("vqathinker_jax")["kind"] == "nano"
    assert before.pop("vqathinker_jax")["kind"] == "random" and before == after


def test_shards_on_a_mesh_are_the_parts_of_the_whole(official, loaded):
    mesh = parallel.make_mesh(1, 4, 2)
    sharded = parameters(load_model(official, mesh).model)
    whole = parameters(loaded.model)
    for path, value in sharded.items():
        assert isinstance(value.sharding, jax.sharding.NamedSharding)
        for shard in value.addressable_shards:
            assert np.array_equal(shard.data, whole[path][shard.index]), path
    up = sharded["decoder.layers.mlp.up.kernel"]
    assert up.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    assert up.addressable_shards[0].data.shape == (3, 12, 28)


def test_a_mesh_that_does_not_divide_is_an_error(official):
    with pytest.raises(WeightsError, match="cannot be split over mesh axes"):
        load_model(official, parallel.make_mesh(1, 5, 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_explicit_dtype_converts(official, loaded, dtype):
    ours = parameters(load_model(official, dtype=dtype).model)
    assert all(value.dtype == dtype for value in ours.values())
    path = "slowfast.stem.slow.norm.var"
    stored = np.asarray(parameters(loaded.model)[path]).astype(dtype)
    assert np.array_equal(ours[path], stored)


def test_an_unknown_dtype_is_an_error(official):
    with pytest.raises(WeightsError, match="dtype must be"):
        load_model(official, dtype="int8")


def test_mixed_dtypes_survive_and_counters_stay_64_bit(broken, tmp_path):
    def edit(tensors):
        for name, value in tensors.items():
            if "running_" in name or name.endswith("norm.weight"):
                tensors[name] = value.astype(np.float32) + np.float32(1e-6)
            elif name.startswith("mlp1."):
                tensors[name] = value.astype(np.float16)
        tensors[COUNTER] = np.array(2**40 + 1)

    rewrite(broken, edit)
    mixed = load_model(broken)
    ours = parameters(mixed.model)
    assert ours["slowfast.stem.slow.norm.var"].dtype == jnp.float32
    assert ours["slowfast.stem.slow.norm.bias"].dtype == jnp.bfloat16
    assert ours["projector.fc1.kernel"].dtype == jnp.float16
    assert mixed.counters[COUNTER] == 2**40 + 1
    out = tmp_path / "out"
    save_folder(mixed.model, out, mixed.config, counters=mixed.counters, source_files=broken)
    assert same_tensors(all_tensors(broken), all_tensors(out))


def test_layers_stored_differently_need_an_explicit_dtype(broken):
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    rewrite(broken, lambda tensors: tensors.update({name: tensors[name].astype(np.float32)}))
    with pytest.raises(WeightsError, match=r"mlp\.up\.kernel needs one dtype.*layers\.1.*float32"):
        load_model(broken)
    kernel = parameters(load_model(broken, dtype="float32").model)["decoder.layers.mlp.up.kernel"]
    assert kernel.dtype == jnp.float32


def test_all_misfits_are_listed(broken):
    def edit(tensors):
        tensors["language_model.model.layers.3.input_layernorm.weight"] = np.zeros(48, np.float32)
        tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"][:, :-1].copy()
        del tensors["vision_model.encoder.layers.1.ls2"], tensors[COUNTER]

    rewrite(broken, edit)
    with pytest.raises(WeightsError) as error:
        load_model(broken)
    message = str(error.value)
    assert "2 missing: vision_model.encoder.layers.1.ls2 [24]" in message and COUNTER in message
    assert "1 unexpected: language_model.model.layers.3.input_layernorm.weight [48]" in message
    assert "mlp1.1.weight: found [48, 95], config.json means [48, 96]" in message


def test_integers_are_no_weights(broken):
    rewrite(broken, lambda tensors: tensors.update({"mlp1.0.bias": np.zeros(96, np.int32)}))
    with pytest.raises(WeightsError, match=r"mlp1\.0\.bias: is stored as int32"):
        load_model(broken)
    rewrite(broken, lambda tensors: tensors.update({"mlp1.0.bias": np.zeros(96, np.float32)}))
    rewrite(broken, lambda tensors: tensors.update({COUNTER: np.zeros((), np.float32)}))
    with pytest.raises(WeightsError, match="num_batches_tracked is float32, expected an integer"):
        load_model(broken)


def test_a_plain_folder_gets_motion_parts_as_published(broken, tmp_path):
    def edit(tensors):
        for name in list(tensors):
            if name.startswith(("motion_mlp.", "slowfast_model.")):
                del tensors[name]

    rewrite(broken, edit)
    config = json.loads((broken / "config.json").read_text())
    del config["vqathinker_jax"]["kind"]
    (broken / "config.json").write_text(json.dumps(config))
    plain = load_model(broken, seed=5)
    ours = parameters(plain.model)
    kernel = np.float32(ours["motion_projector.fc2.kernel"])
    assert kernel.min() >= 0 and kernel.max() < 0.0101 and kernel.std() > 0.002  # in bfloat16
    assert plain.config.layout == "plain" and plain.config.kind == "motion encoder not pretrained"
    assert (
        len(plain.counters) == 44 and ours["slowfast.stem.slow.conv.kernel"].dtype == jnp.bfloat16
    )
    # Trained weights are complete: by default they are written with their motion parts.
    save_folder(plain.model, tmp_path / "full", plain.config, counters=plain.counters)
    assert load_model(tmp_path / "full").config.layout == "official"
    left_out = save_folder(
        plain.model, tmp_path / "plain", plain.config,
        counters=plain.counters, source_files=broken, layout="plain",
    )  # fmt: skip
    assert left_out == MOTION_MODULES and same_folders(broken, tmp_path / "plain")


def test_a_tied_folder_has_no_head(broken, tmp_path):
    rewrite(broken, lambda tensors: tensors.pop("language_model.lm_head.weight"))
    with pytest.raises(WeightsError, match=r"no language_model\.lm_head\.weight"):
        load_model(broken)
    config = json.loads((broken / "config.json").read_text())
    config["llm_config"]["tie_word_embeddings"] = True
    (broken / "config.json").write_text(json.dumps(config))
    tied = load_model(broken)
    assert tied.model.decoder.lm_head is None
    out = tmp_path / "out"
    save_folder(tied.model, out, tied.config, counters=tied.counters, source_files=broken)
    assert same_folders(broken, out)


def test_a_folder_in_use_is_not_overwritten_and_failures_leave_nothing(loaded, official, tmp_path):
    with pytest.raises(WeightsError, match="already exists and is not an empty folder"):
        save_folder(loaded.model, official, loaded.config, counters=loaded.counters)
    out = tmp_path / "out"
    with pytest.raises(WeightsError, match="no counter"):
        save_folder(loaded.model, out, loaded.config, counters={})
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    save_folder(loaded.model, out, loaded.config, counters=loaded.counters)
    assert load_model(out).config == loaded.config


def test_the_fingerprint_follows_the_bytes(official, broken):
    assert folder_fingerprint(official) == folder_fingerprint(broken)
    path = next(broken.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert folder_fingerprint(official) != folder_fingerprint(broken)


def test_any_kind_of_folder_is_recognised(official, native, checkpoint):
    for folder, layout in ((official, "official"), (native, "hf"), (checkpoint, "official")):
        assert read_any_config(folder).layout == layout
        model = load_any(folder).model
        assert model.cfg == read_any_config(folder).model


class TestResolveModel:
    def test_an_existing_path_wins(self, official, monkeypatch):
        monkeypatch.chdir(official.parent.parent)
        name = f"{official.parent.name}/{official.name}"
        assert resolve_model(name).samefile(official)
        assert resolve_model(official) == official

    @pytest.mark.parametrize("name", ["absent", "./owner/name", "/absent/folder", "a/b/c", "~/no"])
    def test_what_is_neither_is_an_error(self, name):
        with pytest.raises(WeightsError, match="no such folder, and not a hub id"):
            resolve_model(name)

    def test_a_file_is_an_error(self, official):
        with pytest.raises(WeightsError, match="is a file"):
            resolve_model(official / "config.json")

    def test_offline_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=r"owner/absent: no such folder.*hub") as error:
            resolve_model("owner/absent")
        assert "\n" not in str(error.value)

    def test_a_hub_id_is_fetched_without_pickles(self, tmp_path, monkeypatch):
        asked = {}

        def fetch(repo_id, allow_patterns):
            asked.update(repo_id=repo_id, patterns=allow_patterns)
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        assert resolve_model("owner/name-8B") == tmp_path
        assert asked["repo_id"] == "owner/name-8B" and "*.safetensors" in asked["patterns"]
        assert not any("bin" in pattern or "pt" in pattern for pattern in asked["patterns"])


def test_the_small_model_is_what_the_folder_says(loaded):
    vocab_size = len(load_tokenizer(loaded.source_files))
    decoder = dataclasses.replace(SMALL.decoder, vocab_size=vocab_size)
    assert loaded.config.model == dataclasses.replace(SMALL, decoder=decoder)
    assert all_tensors(loaded.source_files)[COUNTER].dtype == np.int64
    assert ml_dtypes.bfloat16 == all_tensors(loaded.source_files)["mlp1.0.bias"].dtype


def test_a_copy_through_links_is_read(official, tmp_path):
    """Hub snapshots are folders of links."""
    for path in official.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert same_tensors(all_tensors(official), all_tensors(tmp_path))
    shutil.rmtree(tmp_path)
