"""Conversions there and back, streamed and verified; checkpoints on any mesh."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from tests.weights.small_model import all_tensors, same_tensors
from vqathinker_jax import parallel
from vqathinker_jax.weights import streaming
from vqathinker_jax.weights.checkpoint import load_checkpoint, save_checkpoint
from vqathinker_jax.weights.convert import convert, same_bits
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.huggingface import load_model
from vqathinker_jax.weights.readers import dotted
from vqathinker_jax.weights.streaming import chunk_shape


def parameters(model) -> dict[str, np.ndarray]:
    return {
        dotted(path): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(nnx.state(model))
    }


def same_parameters(first, second) -> bool:
    first, second = parameters(first), parameters(second)
    return first.keys() == second.keys() and all(
        same_bits(value, second[path]) for path, value in first.items()
    )


def same_folders(first, second) -> bool:
    names = sorted(path.name for path in first.iterdir())
    return names == sorted(path.name for path in second.iterdir()) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


@pytest.fixture
def streamed(monkeypatch):
    """Makes nearly every array count as large, in chunks and blocks that do not fit evenly."""
    monkeypatch.setattr(streaming, "LARGE_BYTES", 500)
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 700)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1500)


def test_official_there_and_back_is_the_same_files(official, checkpoint, tmp_path):
    report = convert(checkpoint, tmp_path / "back", "hf", verify=True)
    assert same_folders(official, tmp_path / "back")
    assert report.verified == report.tensors == len(all_tensors(official))
    assert report.left_out == () and report.initialised == ()
    assert report.bytes == sum(value.nbytes for value in all_tensors(official).values())
    assert "verified" in str(report) and "official layout" in str(report)


def test_streaming_gives_the_same_files(official, tmp_path, streamed):
    convert(official, tmp_path / "j", "jax", verify=True)
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    assert same_folders(official, tmp_path / "back")


def test_a_streamed_checkpoint_is_restored_by_orbax_itself(official, tmp_path, streamed):
    convert(official, tmp_path / "j", "jax")
    assert same_parameters(load_model(official).model, load_checkpoint(tmp_path / "j").model)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "j" / "params")
    kernel = tree["decoder"]["layers"]["attn"]["q"]["kernel"]
    expected = load_model(official).model.decoder.layers.attn.q.kernel
    assert np.array_equal(kernel, expected[...])


def test_a_missing_chunk_is_damage_not_zeros(official, tmp_path, streamed):
    convert(official, tmp_path / "j", "jax")
    chunks = (tmp_path / "j" / "params" / "decoder.layers.mlp.up.kernel" / "c").rglob("*")
    next(path for path in chunks if path.is_file()).unlink()
    with pytest.raises(WeightsError, match=r"decoder\.layers\.mlp\.up\.kernel is damaged"):
        convert(tmp_path / "j", tmp_path / "back", "hf")
    with pytest.raises(WeightsError, match="cannot be restored"):
        load_checkpoint(tmp_path / "j")


def test_native_there_and_back_is_the_same_files(native, tmp_path):
    to_jax = convert(native, tmp_path / "j", "jax", verify=True)
    assert to_jax.initialised == ("slowfast", "motion_projector")
    back = convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    assert same_folders(native, tmp_path / "back")
    assert back.left_out == ("slowfast", "motion_projector") and "no place" in str(back)
    assert load_checkpoint(tmp_path / "j").config.layout == "hf"


def test_native_to_official_and_back_keeps_what_both_have(official, native, tmp_path):
    report = convert(native, tmp_path / "o", "hf", layout="official", verify=True)
    assert report.initialised == ("slowfast", "motion_projector") and report.left_out == ()
    first, second = all_tensors(official), all_tensors(tmp_path / "o")
    assert first.keys() == second.keys()
    shared = [name for name in first if not name.startswith(("motion_mlp", "slowfast_model"))]
    assert same_tensors({n: first[n] for n in shared}, {n: second[n] for n in shared})
    convert(tmp_path / "o", tmp_path / "n", "hf", layout="hf")
    assert same_tensors(all_tensors(native), all_tensors(tmp_path / "n"))


def test_names_in_memory_are_read(native, tmp_path):
    """Folders saved from a state_dict carry transformers' other names."""
    renamed = tmp_path / "renamed"
    shutil.copytree(native, renamed)
    from vqathinker_jax.weights.tensor_files import NewTensor, write_file

    tensors = []
    for name, value in all_tensors(native).items():
        if name == "language_model.lm_head.weight":
            name = "lm_head.weight"
        elif name.startswith("language_model.model."):
            name = "model.language_model." + name.removeprefix("language_model.model.")
        else:
            name = f"model.{name}"
        tensors.append(NewTensor(name, value.dtype, value.shape, lambda value=value: value))
    write_file(renamed / "model.safetensors", tensors)
    assert same_parameters(load_model(native, seed=1).model, load_model(renamed, seed=1).model)


def test_other_files_travel_byte_for_byte(broken, tmp_path):
    (broken / "modeling_internvl_chat.py").write_bytes(b"raise SystemExit('never run')\r\n")
    (broken / "examples").mkdir()
    (broken / "examples" / "image.jpg").write_bytes(bytes(range(256)))
    (broken / "training_args.bin").write_bytes(b"a pickle")
    (broken / ".git").mkdir()
    (broken / ".git" / "config").write_text("x")
    convert(broken, tmp_path / "j", "jax", verify=True)
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    back = tmp_path / "back"
    assert (back / "examples" / "image.jpg").read_bytes() == bytes(range(256))
    assert (back / "modeling_internvl_chat.py").read_bytes().endswith(b"\r\n")
    assert not (back / "training_args.bin").exists() and not (back / ".git").exists()


def test_counters_and_their_dtype_survive(broken, tmp_path):
    from tests.weights.test_huggingface import COUNTER, rewrite

    rewrite(broken, lambda tensors: tensors.update({COUNTER: np.array(2**62 + 1)}))
    convert(broken, tmp_path / "j", "jax", verify=True)
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    assert all_tensors(tmp_path / "back")[COUNTER] == 2**62 + 1


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_a_checkpoint_loads_on_any_mesh(official, checkpoint, shape):
    mesh = parallel.make_mesh(*shape)
    loaded = load_checkpoint(checkpoint, mesh)
    assert same_parameters(load_model(official).model, loaded.model)
    kernel = loaded.model.decoder.layers.mlp.up.kernel[...]
    assert kernel.sharding.mesh.shape == mesh.shape
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    with pytest.raises(WeightsError, match="cannot be split"):
        load_checkpoint(checkpoint, parallel.make_mesh(1, 7, 1))


def test_a_model_saved_from_a_mesh_converts_like_any_other(official, tmp_path):
    loaded = load_model(official, parallel.make_mesh(1, 2, 1))
    save_checkpoint(
        tmp_path / "j", loaded.model, loaded.config,
        counters=loaded.counters, source_files=official,
    )  # fmt: skip
    convert(tmp_path / "j", tmp_path / "back", "hf", verify=True)
    assert same_folders(official, tmp_path / "back")
    again = load_checkpoint(tmp_path / "j", dtype="float32")
    assert again.config == loaded.config and again.counters == loaded.counters
    assert parameters(again.model)["decoder.norm.scale"].dtype == np.float32


def test_verification_sees_one_flipped_bit(official, tmp_path, monkeypatch):
    write = streaming._write_piece
    monkeypatch.setattr(streaming, "LARGE_BYTES", 500)

    def flipping(array, region, values):
        if values.shape == (48, 56):
            values = np.array(values)
            values.view(np.uint16)[5, 7] ^= 1
        write(array, region, values)

    monkeypatch.setattr(streaming, "_write_piece", flipping)
    with pytest.raises(WeightsError, match=r"verification failed.*\n.*up_proj") as error:
        convert(official, tmp_path / "j", "jax", verify=True)
    assert "6 different" in str(error.value) and not (tmp_path / "j").exists()


def test_bits_are_compared_not_values():
    nan = np.array([0x7FC0, 0x7FC1], np.uint16)
    import ml_dtypes

    first = nan.view(ml_dtypes.bfloat16)
    assert same_bits(first, first.copy()) and not same_bits(first, first[::-1].copy())
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.zeros(2, np.float32), np.zeros(2, np.int32))
    assert not same_bits(np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32))


def test_chunks_are_bounded_and_cut_the_first_axes():
    assert chunk_shape((28, 3584, 18944), 2) == (1, 885, 18944)
    assert chunk_shape((24, 16, 64), 2) == (24, 16, 64)
    assert chunk_shape((151680, 3584), 2) == (4681, 3584)


class TestRefused:
    def test_a_destination_in_use(self, official, native, tmp_path):
        with pytest.raises(WeightsError, match="not an empty folder"):
            convert(official, native, "jax")

    def test_a_destination_inside_the_source(self, broken):
        with pytest.raises(WeightsError, match="lies inside"):
            convert(broken, broken / "j", "jax")

    def test_a_checkpoint_to_a_checkpoint(self, checkpoint, tmp_path):
        with pytest.raises(WeightsError, match="is a checkpoint already"):
            convert(checkpoint, tmp_path / "j", "jax")

    def test_a_layout_for_a_checkpoint(self, official, tmp_path):
        with pytest.raises(WeightsError, match="for --to hf only"):
            convert(official, tmp_path / "j", "jax", layout="hf")
        with pytest.raises(WeightsError, match="to must be jax or hf"):
            convert(official, tmp_path / "j", "onnx")

    def test_a_checkpoint_of_another_version(self, checkpoint, tmp_path):
        copy = shutil.copytree(checkpoint, tmp_path / "j")
        facts = json.loads((copy / "vqathinker_jax.json").read_text())
        for edit, message in (
            ({"format": 99}, "format 99, this version reads 1"),
            ({"counters": 3}, "is malformed"),
            ({"config": {}}, "not a folder description"),
        ):
            (copy / "vqathinker_jax.json").write_text(json.dumps({**facts, **edit}))
            with pytest.raises(WeightsError, match=message):
                load_checkpoint(copy)
        (copy / "vqathinker_jax.json").unlink()
        with pytest.raises(WeightsError, match="no checkpoint of ours"):
            load_checkpoint(copy)

    def test_a_checkpoint_whose_arrays_do_not_fit(self, checkpoint, tmp_path):
        copy = shutil.copytree(checkpoint, tmp_path / "j")
        facts = json.loads((copy / "vqathinker_jax.json").read_text())
        facts["config"]["model"]["vision"]["intermediate_size"] = 41
        facts["config"]["model"]["vision"]["qk_normalization"] = False
        (copy / "vqathinker_jax.json").write_text(json.dumps(facts))
        with pytest.raises(WeightsError) as error:
            load_checkpoint(copy)
        assert "2 unexpected: vision.layers.attn.k_norm.scale" in str(error.value)
        assert "fc1.bias: found [2, 40], config means [2, 41]" in str(error.value)

    @pytest.mark.parametrize("damage", ["array", "tree"])
    def test_a_damaged_checkpoint(self, checkpoint, tmp_path, damage):
        copy = shutil.copytree(checkpoint, tmp_path / "j")
        if damage == "tree":
            shutil.rmtree(copy / "params")
        else:
            for path in (copy / "params" / "decoder.embed.embedding").rglob("*"):
                if path.is_file() and path.name != "zarr.json":
                    path.write_bytes(b"x")
        with pytest.raises(WeightsError, match=r"cannot be restored|is no orbax tree"):
            load_checkpoint(copy)
        with pytest.raises(WeightsError, match=r"damaged|is no orbax tree"):
            convert(copy, tmp_path / "h", "hf")
        assert not (tmp_path / "h").exists()
