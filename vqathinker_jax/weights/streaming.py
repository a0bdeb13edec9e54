"""Checkpoints read and written part by part, so that a model never has to fit into memory.

Orbax has no call that takes an array in parts. What it writes, though, is one zarr array a
parameter, which carries its own shape: we let it write the tree with one zero in place of each
large array, and then write those arrays themselves through tensorstore, which orbax uses too.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorstore as ts

from vqathinker_jax.weights.checkpoint import (
    PARAMS_NAME,
    check_stored,
    nested,
    quiet_orbax,
    stored_arrays,
)
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.readers import FolderReader
from vqathinker_jax.weights.tensor_files import read_json

LARGE_BYTES = 16 << 20
"""Arrays above this are streamed; the others are handed to orbax together."""
CHUNK_BYTES = 32 << 20
BLOCK_BYTES = 64 << 20
"""Copied at a time."""
_CONTEXT = ts.Context()


def open_array(params: Path, path: str) -> ts.TensorStore:
    """Opens one parameter of an orbax tree; a chunk that is missing later is an error."""
    driver = "zarr3" if read_json(params / "_METADATA").get("use_zarr3") else "zarr"
    if (params / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": f"file://{params.absolute()}/", "path": f"{path}/"}
    else:
        store = _file_store(params, path)
    spec = {"driver": driver, "kvstore": store, "fill_missing_data_reads": False}
    try:
        return ts.open(spec, open=True, context=_CONTEXT).result()
    except ValueError as error:
        raise WeightsError(f"{params}: {path} cannot be opened ({error})") from None


def _file_store(params: Path, path: str) -> dict[str, str]:
    return {"driver": "file", "path": f"{params.absolute()}/{path}/"}


class CheckpointSource:
    """Parts of the parameters of a checkpoint.

    Raises:
      WeightsError: parameters that do not fit `shapes`, all listed.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]):
        self.params = folder / PARAMS_NAME
        self.shapes = shapes
        with quiet_orbax():
            self.stored = stored_arrays(self.params.absolute())
        check_stored(self.stored, shapes, str(folder))
        self._arrays: dict[str, ts.TensorStore] = {}

    def dtype(self, path: str) -> np.dtype:
        return np.dtype(self.stored[path].dtype)

    def region(self, path: str, region: tuple[int | slice, ...]) -> np.ndarray:
        if path not in self._arrays:
            self._arrays[path] = open_array(self.params, path)
        array = self._arrays[path]
        try:
            return (array[region] if region else array).read().result()
        except ValueError as error:
            raise WeightsError(f"{self.params}: {path} is damaged ({error})") from None


def write_parameters(
    folder: Path, reader: FolderReader, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Writes the parameter tree of a new checkpoint from a folder, tensor by tensor.

    Args:
      folder: the checkpoint's, which must not have parameters yet.
      reader: of the folder.
      shapes: path -> shape of every parameter.

    Raises:
      WeightsError: parameters stored in several dtypes, or a disk that does not take them.
    """
    try:
        _write_parameters(folder, reader, shapes)
    except WeightsError:
        raise
    except ValueError as error:  # tensorstore's, whatever went wrong underneath
        raise WeightsError(f"{folder}: cannot be written ({error})") from None


def _write_parameters(
    folder: Path, reader: FolderReader, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    import orbax.checkpoint as ocp

    dtypes = {path: reader.dtype(path) for path in shapes}
    large = [
        path
        for path, shape in shapes.items()
        if path in reader.pieces and math.prod(shape) * dtypes[path].itemsize > LARGE_BYTES
    ]
    flat = {
        path: np.zeros(1, dtypes[path])
        if path in large
        else reader.read(path, (slice(None),) * len(shape), dtypes[path])
        for path, shape in shapes.items()
    }
    params = (folder / PARAMS_NAME).absolute()
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
    with quiet_orbax(), ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(params, args=ocp.args.PyTreeSave(nested(flat)))
    del flat
    for path in large:
        array = _create_array(params, path, shapes[path], dtypes[path])
        for piece in reader.pieces[path]:
            _write_piece(array, piece.region, piece.to_ours(reader.tensors[piece.name].view()))
            for axis, part in enumerate(piece.region):
                if isinstance(part, slice) and part.stop is not None:
                    _write_padding(array, axis, part.stop)
            return_memory()


def return_memory() -> None:
    """Gives freed memory back to the system.

    The C library keeps freed blocks of up to 32 MB for each of tensorstore's threads, which adds up
    to a gigabyte over a conversion. Only glibc needs, and has, this call.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of at most `CHUNK_BYTES` that cut the first axes: layers of a stack, then rows."""
    chunk = list(shape)
    for axis in range(len(shape)):
        if math.prod(chunk) * itemsize <= CHUNK_BYTES:
            break
        row_bytes = math.prod(chunk[axis + 1 :]) * itemsize
        chunk[axis] = min(shape[axis], max(1, CHUNK_BYTES // row_bytes))
    return tuple(chunk)


def _create_array(
    params: Path, path: str, shape: tuple[int, ...], dtype: np.dtype
) -> ts.TensorStore:
    """Puts an array of zeros in the place of orbax's; uncompressed, as weights hardly compress."""
    chunk = chunk_shape(shape, dtype.itemsize)
    metadata = {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0.0,
    }
    spec = {
        "driver": "zarr3",
        "kvstore": _file_store(params, path),
        "metadata": metadata,
        # Orbax takes a chunk that is not there for damage.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True, delete_existing=True).result()


def _write_padding(array: ts.TensorStore, axis: int, start: int) -> None:
    """Writes zeros from `start` to the end of an axis: the padding of the vocabulary."""
    region = (*[slice(None)] * axis, slice(start, array.shape[axis]))
    if start < array.shape[axis]:
        array[region].write(np.zeros((), array.dtype.numpy_dtype)).result()


def _write_piece(
    array: ts.TensorStore, region: tuple[int | slice, ...], values: np.ndarray
) -> None:
    """Writes `array[region] = values` in blocks of whole chunks, two of them under way at once."""
    chunk = array.chunk_layout.write_chunk.shape
    kept = [
        axis for axis in range(array.rank) if axis >= len(region) or isinstance(region[axis], slice)
    ]
    target = array[region] if region else array
    step = chunk[kept[0]]
    row_bytes = max(1, values.nbytes // values.shape[0])
    rows = step * max(1, BLOCK_BYTES // (row_bytes * step))
    bits = np.dtype(f"u{values.dtype.itemsize}")
    pending: list[ts.WriteFutures] = []
    for start in range(0, values.shape[0], rows):
        block = np.ascontiguousarray(values[start : start + rows].view(bits)).view(values.dtype)
        pending.append(target[start : start + len(block)].write(block))
        if len(pending) > 1:
            pending.pop(0).result()
    for future in pending:
        future.result()
