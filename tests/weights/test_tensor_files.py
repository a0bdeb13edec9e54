"""Safetensors files: against the library that defines them, and every way to be broken."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.tensor_files import (
    INDEX_NAME,
    NewTensor,
    blocks,
    open_folder,
    plan_shards,
    read_header,
    write_file,
)


def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "b": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
        "a": rng.normal(size=(2, 7)).astype(np.float32),
        "half": rng.normal(size=11).astype(np.float16),
        "count": np.array(2**40 + 1),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False, True]),
    }


def new_tensors(arrays: dict[str, np.ndarray]) -> list[NewTensor]:
    return [NewTensor(k, v.dtype, v.shape, lambda v=v: v) for k, v in arrays.items()]


def to_torch(value: np.ndarray) -> torch.Tensor:
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value.copy())


def test_reads_what_the_library_writes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({name: to_torch(value) for name, value in values().items()}, path)
    stored = read_header(path)
    assert stored.keys() == values().keys()
    for name, value in values().items():
        read = stored[name].view()
        assert read.dtype == value.dtype and read.shape == value.shape
        assert read.tobytes() == value.tobytes()


def test_writes_the_very_bytes_of_the_library(tmp_path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_file(ours, new_tensors(values()))
    save_file({k: to_torch(v) for k, v in values().items()}, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_torch_users_read_what_we_write(tmp_path):
    path = tmp_path / "x.safetensors"
    write_file(path, new_tensors(values()))
    loaded = load_file(path)
    assert loaded["count"].item() == 2**40 + 1
    assert torch.equal(loaded["b"], to_torch(values()["b"]))


def test_a_transposed_value_is_written_in_order(tmp_path):
    value = np.arange(15, dtype=np.float32).reshape(3, 5).T
    write_file(tmp_path / "x.safetensors", new_tensors({"x": value}))
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], torch.tensor(value.copy()))


def test_a_value_that_is_not_as_announced_is_refused(tmp_path):
    wrong = NewTensor("x", np.dtype(np.float32), (3,), lambda: np.zeros(2, np.float32))
    with pytest.raises(WeightsError, match="x: announced as float32"):
        write_file(tmp_path / "x.safetensors", [wrong])


def test_blocks_cover_the_array_once():
    value = np.arange(7 * 5).reshape(7, 5)
    parts = list(blocks(value, block_bytes=2 * 5 * 8))
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(parts), value)


def test_shards_split_by_size_and_keep_order():
    tensors = [
        NewTensor(name, np.dtype(np.uint8), (size,), lambda: np.zeros(0))
        for name, size in (("a", 5), ("b", 4), ("c", 20), ("d", 1))
    ]
    shards = plan_shards(tensors, 10)
    assert {file: [t.name for t in shard] for file, shard in shards.items()} == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],
        "model-00003-of-00003.safetensors": ["d"],
    }
    assert list(plan_shards(tensors, 100)) == ["model.safetensors"]


def with_header(header: object, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BROKEN = {
    "empty file": (b"", "is not a safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(60), "PyTorch pickle"),
    "pickle": (b"\x80\x02}q\x00." + bytes(60), "PyTorch pickle"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "html": (b"<html><body>404</body></html>", "text file"),
    "huge header": ((2**50).to_bytes(8, "little") + b"{}", "is not a safetensors file"),
    "cut in header": ((500).to_bytes(8, "little") + b"{}" * 20, "cut short inside its header"),
    "no json": ((4).to_bytes(8, "little") + b"{bcd", "header is no JSON"),
    "cut in data": (with_header({"x": entry()}, bytes(5)), "is cut short"),
    "too long": (with_header({"x": entry()}, bytes(9)), "1 bytes that its header"),
    "gap": (with_header({"x": entry(offsets=(4, 12))}, bytes(12)), "x overlaps another"),
    "overlap": (
        with_header({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
        "y overlaps another",
    ),
    "wrong size": (with_header({"x": entry(shape=(3,))}, bytes(8)), "which needs 12"),
    "dtype": (with_header({"x": entry(dtype="F8_E4M3")}, bytes(8)), "F8_E4M3 is not supported"),
    "negative": (with_header({"x": entry(shape=(-2,))}, bytes(8)), "negative"),
    "malformed": (with_header({"x": {"dtype": "F32"}}, bytes(8)), "malformed"),
    "text offsets": (with_header({"x": entry(offsets=("0", "8"))}, bytes(8)), "malformed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(case, tmp_path):
    data, message = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_first_byte_of_the_length_may_be_any(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in (0x3C, 0x7B, 0x80, 0x4B50):  # "<", a brace, a pickle's mark, "PK"
        raw = json.dumps({"x": entry()}, separators=(",", ":")).encode().ljust(length)
        path.write_bytes(length.to_bytes(8, "little") + raw + bytes(8))
        assert read_header(path)["x"].shape == (2,)


def test_a_renamed_torch_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="PyTorch pickle"):
        open_folder(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"no .safetensors weights; pytorch_model.bin is a pick"):
        open_folder(tmp_path)


def test_a_tensor_in_two_files_is_named(tmp_path):
    for name in ("one", "two"):
        write_file(tmp_path / f"{name}.safetensors", new_tensors({"x": np.zeros(2)}))
    with pytest.raises(WeightsError, match=r"x is in both one\.safetensors and two\.safetensors"):
        open_folder(tmp_path)


def test_every_missing_shard_is_named(broken):
    for number in (1, 2):
        (broken / f"model-0000{number}-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"2 of 2 .*model-00001-of-00002.*model-00002-of-00002"):
        open_folder(broken)


def edit_index(folder, edit) -> None:
    data = json.loads((folder / INDEX_NAME).read_text())
    edit(data["weight_map"])
    (folder / INDEX_NAME).write_text(json.dumps(data))


def test_an_index_that_does_not_fit_its_files_lists_all(broken):
    def edit(weight_map):
        weight_map["extra.weight"] = "model-00001-of-00002.safetensors"
        del weight_map["mlp1.0.weight"]
        names = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
        weight_map["mlp1.1.weight"] = (names - {weight_map["mlp1.1.weight"]}).pop()

    edit_index(broken, edit)
    with pytest.raises(WeightsError) as error:
        open_folder(broken)
    for part in ("extra.weight (indexed, in no file)", "mlp1.0.weight (in a file, not indexed)"):
        assert part in str(error.value)
    assert "mlp1.1.weight (indexed in" in str(error.value)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "", 3])
def test_an_index_cannot_reach_outside_its_folder(broken, file):
    edit_index(broken, lambda weight_map: weight_map.update({"mlp1.0.weight": file}))
    with pytest.raises(WeightsError, match="no file beside it"):
        open_folder(broken)


def test_a_cut_index_is_named(broken):
    path = broken / INDEX_NAME
    path.write_text(path.read_text()[:100])
    with pytest.raises(WeightsError, match="not valid JSON"):
        open_folder(broken)
