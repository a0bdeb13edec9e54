"""Safetensors files: headers checked on opening, tensors read as views of the mapped file.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes. We
read it ourselves because numpy has no bfloat16 of its own and because a view costs no memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vqathinker_jax.weights.errors import WeightsError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000
_BLOCK_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: where its bytes lie."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Bytes from the start of the file."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self) -> np.ndarray:
        """The tensor as a read-only view of the mapped file; its pages go when the view does."""
        if self.nbytes == 0:
            return np.empty(self.shape, self.dtype)
        raw = np.memmap(self.file, np.uint8, "r", offset=self.offset, shape=(self.nbytes,))
        return raw.view(np.ndarray).view(self.dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """One tensor to be written; `read` gives its value when its turn comes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises WeightsError where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WeightsError(f"{path}: is not a text file") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: is not valid JSON ({error}); is it cut short?") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _what_it_is(start: bytes) -> str | None:
    """Names what a file that is no safetensors file seems to be."""
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        return "is a PyTorch pickle under another name; only safetensors are read"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves; run `git lfs pull` in its folder"
    if start.lstrip()[:1] in (b"<", b"{"):
        return "is a text file, not safetensors"
    return None


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises:
      WeightsError: the file is no safetensors file, is cut short, or its header contradicts itself.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(64)
            length = int.from_bytes(start[:8], "little")
            # The length comes first, so any first byte is possible: only the brace is telling.
            if start[8:9] != b"{":
                what = _what_it_is(start) or "is not a safetensors file"
                raise WeightsError(f"{path}: {what}")
            if not 2 <= length <= _MAX_HEADER:
                raise WeightsError(f"{path}: is not a safetensors file")
            if 8 + length > size:
                raise WeightsError(f"{path}: is cut short inside its header ({size} bytes)")
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: is not a safetensors file (its header is no JSON)") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: is not a safetensors file (its header is no object)")
    header.pop("__metadata__", None)
    tensors = {
        name: _stored_tensor(path, name, entry, 8 + length) for name, entry in header.items()
    }
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != end:
            raise WeightsError(f"{path}: {tensor.name} overlaps another tensor or leaves a gap")
        end += tensor.nbytes
    if end > size:
        raise WeightsError(f"{path}: is cut short: {size} bytes of the {end} its header announces")
    if end < size:
        raise WeightsError(f"{path}: has {size - end} bytes that its header does not mention")
    return tensors


def _stored_tensor(path: Path, name: str, entry: Any, start: int) -> StoredTensor:
    where = f"{path}: tensor {name}"
    try:
        dtype_name, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError):
        raise WeightsError(f"{where}: malformed header entry") from None
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise WeightsError(f"{where}: malformed header entry")
    if min(numbers) < 0:
        raise WeightsError(f"{where}: negative size or offset in the header")
    if dtype_name not in DTYPES:
        raise WeightsError(
            f"{where}: dtype {dtype_name} is not supported ({', '.join(DTYPES)} are)"
        )
    tensor = StoredTensor(name, DTYPES[dtype_name], tuple(shape), path, start + begin)
    if end - begin != tensor.nbytes:
        raise WeightsError(
            f"{where}: {end - begin} bytes for {dtype_name} {list(shape)}, which needs "
            f"{tensor.nbytes}"
        )
    return tensor


def open_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder, by name: those of its index, or of its safetensors files.

    Raises:
      WeightsError: no weights, a missing shard, a tensor in two shards, or an index and shards that
        do not agree; all such names are listed.
    """
    index_path = folder / INDEX_NAME
    if index_path.is_file():
        return _open_indexed(folder, index_path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = [
            path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)
        ]
        hint = f"; {sorted(others)[0]} is a pickle, which is never read" if others else ""
        raise WeightsError(f"{folder}: has no .safetensors weights{hint}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        _merge(tensors, read_header(file))
    return tensors


def _merge(tensors: dict[str, StoredTensor], more: dict[str, StoredTensor]) -> None:
    for name, tensor in more.items():
        if name in tensors:
            raise WeightsError(
                f"{tensor.file.parent}: tensor {name} is in both {tensors[name].file.name} and "
                f"{tensor.file.name}"
            )
        tensors[name] = tensor


def read_weight_map(index_path: Path) -> dict[str, str]:
    """Tensor name -> file name, from an index file; raises WeightsError if it is malformed."""
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index_path}: has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or os.path.basename(file) != file or file in ("", ".", ".."):
            raise WeightsError(f"{index_path}: {name} names {file!r}, which is no file beside it")
    return weight_map


def _open_indexed(folder: Path, index_path: Path) -> dict[str, StoredTensor]:
    weight_map = read_weight_map(index_path)
    files = sorted(set(weight_map.values()))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise WeightsError(
            f"{folder}: {len(absent)} of {len(files)} weight files named by {INDEX_NAME} "
            f"missing: {', '.join(absent)}"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        _merge(tensors, read_header(folder / file))
    problems = [f"{name} (indexed, in no file)" for name in sorted(weight_map.keys() - tensors)]
    problems += [f"{name} (in a file, not indexed)" for name in sorted(tensors.keys() - weight_map)]
    problems += [
        f"{name} (indexed in {weight_map[name]}, found in {tensor.file.name})"
        for name, tensor in tensors.items()
        if name in weight_map and weight_map[name] != tensor.file.name
    ]
    if problems:
        raise WeightsError(f"{index_path}: does not fit its files: {'; '.join(problems)}")
    return tensors


def file_order(tensors: Iterable[NewTensor]) -> list[NewTensor]:
    """Wider dtypes first, then by name: the safetensors library's own order.

    So a file that is read and written again is the same bytes.
    """
    return sorted(tensors, key=lambda tensor: (_dtype_rank(tensor.dtype), tensor.name))


def write_file(path: Path, tensors: Iterable[NewTensor]) -> None:
    """Writes one safetensors file: the header first, then one tensor at a time."""
    ordered = file_order(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in ordered:
            value = tensor.read()
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise WeightsError(
                    f"{tensor.name}: announced as {tensor.dtype} {tensor.shape}, is {value.dtype} "
                    f"{value.shape}"
                )
            for block in blocks(value):
                file.write(np.ascontiguousarray(block).view(np.uint8).data)


def _dtype_rank(dtype: np.dtype) -> int:
    """Place of a dtype in the safetensors library's order of alignment."""
    order = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
    return order.index(DTYPE_NAMES[dtype])


def blocks(value: np.ndarray, block_bytes: int = _BLOCK_BYTES) -> Iterable[np.ndarray]:
    """Cuts an array along its first axis into views of about `block_bytes`, at least 1-D."""
    if value.ndim == 0:
        value = value.reshape(1)
    if value.size == 0:
        return
    rows = max(1, block_bytes // max(1, value.nbytes // value.shape[0]))
    for start in range(0, value.shape[0], rows):
        yield value[start : start + rows]


def plan_shards(tensors: Sequence[NewTensor], max_shard_bytes: float) -> dict[str, list[NewTensor]]:
    """Splits tensors, in order, into files of at most `max_shard_bytes` (one tensor may exceed it).

    Returns:
      File name -> its tensors; a single file has the plain name.
    """
    shards: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {SINGLE_NAME: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def write_index(folder: Path, shards: dict[str, list[NewTensor]]) -> None:
    """Writes the index of these shards: total size in bytes, and tensor name -> file name."""
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    weight_map = {tensor.name: file for file, shard in shards.items() for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
