"""The restricted reader of torch files: tensors come out, and nothing else gets in."""

import collections
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tests.weights.small_model import SMALL
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.mapping import slowfast_table
from vqathinker_jax.weights.motion import PYTH_PREFIX, initial_motion, read_slowfast
from vqathinker_jax.weights.torch_pickle import read_torch_tensors


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return collections.OrderedDict(
        plain=base,
        transposed=base.T,
        row=base[2],
        half=base.half(),
        brain=base.bfloat16(),
        count=torch.tensor(2**40 + 1),
        empty=torch.zeros(0, 3),
    )


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_come_out_as_torch_has_them(is_zip, tmp_path):
    path = tmp_path / "x.pyth"
    content = {"model_state": state(), "epoch": 3, "cfg": "text"}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    read = read_torch_tensors(path)
    assert read.keys() == state().keys()
    for name, tensor in state().items():
        wanted = tensor.float().numpy() if name == "brain" else tensor.numpy()
        assert read[name].shape == wanted.shape
        assert np.array_equal(read[name].astype(wanted.dtype), wanted), name
    assert read["count"].dtype == np.int64 and read["count"] == 2**40 + 1


def test_a_bare_state_dict_is_read_too(tmp_path):
    torch.save(state(), tmp_path / "x.pyth")
    assert read_torch_tensors(tmp_path / "x.pyth").keys() == state().keys()


class Evil:
    ran = False

    def __reduce__(self):
        return (exec, ("import tests.weights.test_torch_pickle as m; m.Evil.ran = True",))


class Innocent:
    pass


@pytest.mark.parametrize("is_zip", [True, False])
def test_foreign_code_is_refused_by_name_and_never_runs(is_zip, tmp_path):
    path = tmp_path / "x.pyth"
    content = {"model_state": state(), "evil": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"__builtin__\.exec.*refused"):
        read_torch_tensors(path)
    assert not Evil.ran


@pytest.mark.parametrize("value", [torch.nn.Linear(2, 3), np.float64(3), Innocent()])
def test_everything_off_the_list_is_refused(value, tmp_path):
    torch.save({"model_state": state(), "x": value}, tmp_path / "x.pyth")
    with pytest.raises(WeightsError, match="refused"):
        read_torch_tensors(tmp_path / "x.pyth")


def rewritten(path, pickled: bytes) -> None:
    """Puts another pickle into a torch archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else data)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    path = tmp_path / "x.pyth"
    torch.save({"x": torch.zeros(7, 11)}, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert data.count(b"K\x07K\x0b\x86") == 1
    rewritten(path, data.replace(b"K\x07K\x0b\x86", b"K\x07K\x0c\x86"))
    with pytest.raises(WeightsError, match="reaches beyond its storage"):
        read_torch_tensors(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_cut_files_are_named(is_zip, tmp_path):
    path = tmp_path / "x.pyth"
    torch.save(state(), path, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    for length in (0, 3, 50, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"x\.pyth: ") as error:
            read_torch_tensors(path)
        assert "\n" not in str(error.value)


def test_what_is_no_state_dict_is_named(tmp_path):
    path = tmp_path / "x.pyth"
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no state dict"):
        read_torch_tensors(path)
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(WeightsError, match="not a torch file"):
        read_torch_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match="not a torch archive"):
        read_torch_tensors(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_torch_tensors(tmp_path / "absent.pyth")


def slowfast_state() -> dict[str, torch.Tensor]:
    """The small encoder under the names of pytorchvideo, with its classifier."""
    generator = torch.Generator().manual_seed(1)
    table = slowfast_table(SMALL.slowfast, PYTH_PREFIX)
    tensors = {p.name: torch.randn(p.shape, generator=generator) for p in table.pieces}
    tensors |= {name: torch.tensor(number) for number, name in enumerate(table.counters)}
    tensors |= {"blocks.6.proj.weight": torch.zeros(400, 5), "blocks.6.proj.bias": torch.zeros(400)}
    return tensors


def test_the_published_encoder_file_fills_the_encoder(tmp_path):
    path, tensors = tmp_path / "SLOWFAST_8x8_R50.pyth", slowfast_state()
    torch.save({"model_state": tensors}, path)
    parameters, counters = read_slowfast(SMALL, path)
    name = "blocks.3.multipathway_blocks.0.res_blocks.0.branch2.conv_b.weight"
    kernel = parameters["slowfast.stages.2.slow.blocks.0.conv_b.kernel"]
    assert np.array_equal(kernel, tensors[name].permute(2, 3, 4, 1, 0).numpy())
    name = "blocks.0.multipathway_blocks.1.norm.running_var"
    assert np.array_equal(parameters["slowfast.stem.fast.norm.var"], tensors[name].numpy())
    official = "slowfast_model.feature_extraction.0.multipathway_blocks.1.norm.num_batches_tracked"
    assert counters[official] == 1 and counters[official].dtype == np.int64
    start = initial_motion(SMALL, np.dtype(np.float16), 0, path)
    assert start.kind == "untrained motion projector"
    assert start.parameters["slowfast.stem.fast.norm.var"].dtype == np.float16


def test_another_network_is_listed(tmp_path):
    tensors = slowfast_state()
    del tensors["blocks.0.multipathway_blocks.0.conv.weight"]
    tensors["blocks.9.weight"] = torch.zeros(3)
    torch.save({"model_state": tensors}, tmp_path / "x.pyth")
    with pytest.raises(WeightsError) as error:
        read_slowfast(SMALL, tmp_path / "x.pyth")
    assert "1 missing: blocks.0.multipathway_blocks.0.conv.weight" in str(error.value)
    assert "1 unexpected: blocks.9.weight [3]" in str(error.value)


def test_the_random_start_is_as_published():
    start = initial_motion(SMALL, np.dtype(np.float32), 0, None)
    kernel = start.parameters["motion_projector.fc1.kernel"]
    assert kernel.shape == (SMALL.slowfast.feature_size, 48)
    assert kernel.min() >= 0 and kernel.max() < 0.01 and abs(kernel.mean() - 0.005) < 1e-4
    assert not start.parameters["motion_projector.fc2.bias"].any()
    assert (start.parameters["motion_projector.norm.scale"] == 1).all()
    assert start.kind == "motion encoder not pretrained"
    assert all(value == 0 and value.dtype == np.int64 for value in start.counters.values())
    again = initial_motion(SMALL, np.dtype(np.float32), 0, None)
    other = initial_motion(SMALL, np.dtype(np.float32), 1, None)
    assert np.array_equal(kernel, again.parameters["motion_projector.fc1.kernel"])
    assert not np.array_equal(kernel, other.parameters["motion_projector.fc1.kernel"])
