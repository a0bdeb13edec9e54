"""Writing a model folder: weights one tensor at a time, index, config and the other files."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vqathinker_jax.calibration import CALIBRATION_NAME
from vqathinker_jax.processes import first_does, wait_for_all
from vqathinker_jax.weights.config_fields import make_config, own_facts, write_config
from vqathinker_jax.weights.config_json import (
    CONFIG_NAME,
    OWN_KEY,
    FolderConfig,
    load_config_json,
    parse_config,
)
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.pieces import Piece, Table
from vqathinker_jax.weights.readers import dotted
from vqathinker_jax.weights.tensor_files import (
    INDEX_NAME,
    NewTensor,
    file_order,
    plan_shards,
    read_json,
    read_weight_map,
    write_file,
    write_index,
)

DEFAULT_SHARD_BYTES = 5e9
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".pyth", ".gguf", ".msgpack", ".h5", ".onnx",
)  # fmt: skip
_CONTEXT_ID = 151667


class RegionSource(Protocol):
    """Gives parts of parameters for writing."""

    def dtype(self, path: str) -> np.dtype:
        """The dtype of a parameter."""
        ...

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        """The part that a piece of the table names."""
        ...


class ModelSource:
    """Parameters in memory, those of a model or of a part of it, fetched layer by layer."""

    def __init__(self, state: nnx.State):
        self.values = {
            dotted(path): variable.get_value() for path, variable in nnx.to_flat_state(state)
        }
        self.shapes = {path: value.shape for path, value in self.values.items()}

    def dtype(self, path: str) -> np.dtype:
        return np.dtype(self.values[path].dtype)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        value = self.values[path]
        if region and isinstance(region[0], int):
            value = _take_layer(value, region[0])
            region = region[1:]
        elif not value.is_fully_addressable:
            value = _replicate(value)
        return np.asarray(value)[region]


@jax.jit
def _layer(stacked: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, index, 0, keepdims=False)


def _take_layer(stacked: jax.Array, index: int) -> jax.Array:
    layer = _layer(stacked, jnp.int32(index))
    return layer if layer.is_fully_addressable else _replicate(layer)


def _replicate(value: jax.Array) -> jax.Array:
    """The whole array on every process."""
    everywhere = NamedSharding(value.sharding.mesh, PartitionSpec())
    return jax.jit(lambda x: x, out_shardings=everywhere)(value)


@contextmanager
def new_folder(dst: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `dst` on success and vanishes on failure.

    On several hosts all take part; the first one makes, renames and removes.

    Raises:
      WeightsError: `dst` is a file or a folder that is not empty, or cannot be made.
    """
    is_first = jax.process_index() == 0
    # Under the same name on every host, so that they can all write into it.
    suffix = uuid.uuid4().hex[:8] if jax.process_count() == 1 else "multihost"
    temporary = dst.parent / f".{dst.name}.{suffix}.part"
    # The others never look for `dst` before it is there: a shared disk may remember for a while
    # that it was not.
    first_does(lambda: _begin(dst, temporary), f"making {dst}", (WeightsError,))
    try:
        yield temporary
        wait_for_all(f"writing {dst}")
        first_does(lambda: _put_in_place(temporary, dst), f"renaming {dst}", (WeightsError,))
    except OSError as error:
        raise WeightsError(f"{dst}: cannot be written: {error.strerror or error}") from None
    finally:
        if is_first:
            shutil.rmtree(temporary, ignore_errors=True)


def _begin(dst: Path, temporary: Path) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise WeightsError(f"{dst}: already exists and is not an empty folder; name another")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise WeightsError(f"{dst}: cannot be made: {error.strerror}") from None


def _put_in_place(temporary: Path, dst: Path) -> None:
    try:
        if dst.exists():
            dst.rmdir()
        os.replace(temporary, dst)
    except OSError as error:
        raise WeightsError(f"{dst}: cannot be written: {error.strerror or error}") from None


def write_folder(
    folder: Path,
    table: Table,
    source: RegionSource,
    config: FolderConfig,
    *,
    counters: Mapping[str, np.ndarray],
    source_files: Path | None,
    max_shard_bytes: float | None,
) -> None:
    """Writes weights, index, config and the other files into an existing empty folder.

    On several hosts every process must call it, and the first one writes.
    """
    tensors = [new_tensor(piece, source) for piece in table.pieces]
    for name in table.counters:
        if name not in counters:
            raise WeightsError(f"no counter {name} to write")
        tensors.append(_counter(name, counters[name]))
    shards = _choose_shards(tensors, source_files, max_shard_bytes)
    is_first = jax.process_index() == 0
    for file, shard in shards.items():
        write_tensors(folder / file, shard)
    if not is_first:
        return
    if source_files is not None:
        copy_auxiliary(source_files, folder)
    if len(shards) > 1:
        kept = None if source_files is None else source_files / INDEX_NAME
        if kept is not None and kept.is_file() and read_weight_map(kept) == _weight_map(shards):
            shutil.copyfile(kept, folder / INDEX_NAME)
        else:
            write_index(folder, shards)
    _write_config(folder, config, tensors, source_files)


def write_tensors(path: Path, tensors: Sequence[NewTensor]) -> None:
    """Writes one safetensors file; on several hosts all fetch the values, and the first writes."""
    if jax.process_index() == 0:
        write_file(path, tensors)
        return
    for tensor in file_order(tensors):
        tensor.read()


def new_tensor(piece: Piece, source: RegionSource) -> NewTensor:
    """A tensor of a layout, to be read from our parameters when it is written."""

    def read() -> np.ndarray:
        return piece.to_layout(source.region(piece.path, piece.region))

    return NewTensor(piece.name, source.dtype(piece.path), piece.shape, read)


def _counter(name: str, value: np.ndarray) -> NewTensor:
    return NewTensor(name, value.dtype, value.shape, lambda: value)


def _weight_map(shards: Mapping[str, Sequence[NewTensor]]) -> dict[str, str]:
    return {tensor.name: file for file, shard in shards.items() for tensor in shard}


def _choose_shards(
    tensors: Sequence[NewTensor], source_files: Path | None, max_shard_bytes: float | None
) -> dict[str, list[NewTensor]]:
    """The files of the source's index where it names the same tensors, else files of a size."""
    if max_shard_bytes is None and source_files is not None:
        index = source_files / INDEX_NAME
        weight_map = read_weight_map(index) if index.is_file() else {}
        if weight_map.keys() == {tensor.name for tensor in tensors}:
            shards: dict[str, list[NewTensor]] = {
                file: [] for file in sorted(set(weight_map.values()))
            }
            for tensor in tensors:
                shards[weight_map[tensor.name]].append(tensor)
            return shards
    return plan_shards(tensors, max_shard_bytes or DEFAULT_SHARD_BYTES)


def copied_files(folder: Path, with_index: bool = False) -> list[Path]:
    """Every file of a folder that holds no weights, relative to it; hidden folders are left out.

    A calibration stays behind: it belongs to the scores of the very model it was fitted to.

    Args:
      folder: where to look, folders in it included.
      with_index: also the index of the weight files.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if path == folder / CALIBRATION_NAME:
                continue
            is_wanted = with_index if name.endswith(".index.json") else True
            if is_wanted and path.suffix.lower() not in WEIGHT_SUFFIXES and path.is_file():
                found.append(path.relative_to(folder))
    return found


def copy_auxiliary(source: Path, folder: Path, with_index: bool = False) -> None:
    """Copies the files that hold no weights, byte for byte."""
    for path in copied_files(source, with_index):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)


def _write_config(
    folder: Path, config: FolderConfig, tensors: Sequence[NewTensor], source_files: Path | None
) -> None:
    """Leaves the copied config.json as it is where it already says all this, else writes one."""
    names = [tensor.name for tensor in tensors]
    path = folder / CONFIG_NAME
    if source_files is not None and (source_files / CONFIG_NAME).is_file():
        data = load_config_json(source_files)
        said = parse_config(data, names, str(path))
        is_same_kind = (said.layout == "hf") == (config.layout == "hf")
        if is_same_kind and said.model == config.model:
            if dataclasses.replace(said, layout=config.layout) != config:
                facts = own_facts(config)
                data = {key: value for key, value in data.items() if key != OWN_KEY}
                write_config(path, {**data, OWN_KEY: facts} if facts else data)
            return
    sizes: dict[np.dtype, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    dtype = max(sizes, key=lambda dtype: sizes[dtype])
    write_config(path, make_config(config, config.layout, dtype.name, _context_id(source_files)))


def _context_id(source_files: Path | None) -> int:
    """Id of `<IMG_CONTEXT>` in the folder's tokenizer; the published one where it has none."""
    if source_files is not None and (source_files / "added_tokens.json").is_file():
        added = read_json(source_files / "added_tokens.json")
        return int(added.get("<IMG_CONTEXT>", _CONTEXT_ID))
    return _CONTEXT_ID
