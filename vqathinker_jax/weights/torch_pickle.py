"""A restricted reader for the published SlowFast file, a torch archive. Torch is not imported.

Such a file holds a pickle. Unpickling arbitrary data runs arbitrary code, so this reader resolves
names from a closed list only: ordered dictionaries, one rebuilding function of ours, and the names
of torch's storage types, which stand for dtypes. Anything else is refused by name.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vqathinker_jax.weights.errors import WeightsError

STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


class _Storage:
    """The flat values behind tensors; in the older format they follow the pickle in the file."""

    def __init__(self, dtype: np.dtype, size: int, values: np.ndarray | None):
        self.dtype = dtype
        self.size = size
        self.values = values


class _Tensor:
    """A tensor as pickled: a strided window onto a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any):
        numbers = (offset, *size, *stride)
        is_sound = (
            isinstance(storage, _Storage)
            and len(size) == len(stride)
            and all(isinstance(number, int) and number >= 0 for number in numbers)
        )
        if not is_sound:
            raise WeightsError("malformed tensor")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.size:
            raise WeightsError("a tensor reaches beyond its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def to_numpy(self) -> np.ndarray:
        values = self.storage.values
        if values is None:
            raise WeightsError("a tensor's values are missing")
        item = values.dtype.itemsize
        if not math.prod(self.size):
            return np.empty(self.size, values.dtype)
        strides = tuple(step * item for step in self.stride)
        window = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides)
        return np.ascontiguousarray(window).reshape(self.size)


def _rebuild_tensor(storage, offset, size, stride, *_unused) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows the few names that a state dict needs, and no other."""

    def __init__(self, file: io.BufferedIOBase, load_storage: Callable[[tuple], _Storage]):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise WeightsError(f"asks for {module}.{name}, which no list of tensors needs; refused")

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise WeightsError("malformed storage reference")
        if not isinstance(pid[1], np.dtype) or not isinstance(pid[4], int) or pid[4] < 0:
            raise WeightsError("malformed storage reference")
        return self._load_storage(pid)


def read_torch_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pyth` / `.pt` state dict, or of its `model_state`, by name.

    Raises:
      WeightsError: the file cannot be read, is no torch file, asks for anything but tensors (which
        name), or holds no state dict.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            if start.startswith(b"PK"):
                data = _read_archive(file)
            elif start[:1] == b"\x80":
                data = _read_legacy(file)
            else:
                raise WeightsError("is not a torch file")
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        detail = f"{type(error).__name__}: {error}"
        raise WeightsError(f"{path}: is damaged or no torch file ({detail})") from None
    state = data.get("model_state", data) if isinstance(data, dict) else None
    if not isinstance(state, dict) or not any(isinstance(v, _Tensor) for v in state.values()):
        raise WeightsError(f"{path}: holds no state dict (a dictionary of tensors)")
    try:
        return {
            str(name): value.to_numpy()
            for name, value in state.items()
            if isinstance(value, _Tensor)
        }
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _read_archive(file: io.BufferedIOBase) -> Any:
    """The zip format: `NAME/data.pkl`, and one entry `NAME/data/KEY` a storage."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError("is a zip file but not a torch archive")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist():
            if archive.read(f"{root}byteorder") != b"little":
                raise WeightsError("was written on a big-endian machine")
        storages: dict[str, _Storage] = {}

        def load(pid: tuple) -> _Storage:
            _, dtype, key, _, size = pid[:5]
            if key not in storages:
                values = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
                if len(values) != size:
                    raise WeightsError(f"storage {key} holds {len(values)} of {size} values")
                storages[key] = _Storage(dtype, size, values)
            return storages[key]

        return _RestrictedUnpickler(io.BytesIO(archive.read(names[0])), load).load()


def _read_legacy(file: io.BufferedIOBase) -> Any:
    """The format before torch 1.6: four pickles and the list of keys, then the storages."""
    storages: dict[str, _Storage] = {}

    def load(pid: tuple) -> _Storage:
        _, dtype, key, _, size = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise WeightsError("holds views of storages, which are not supported")
        return storages.setdefault(key, _Storage(dtype, size, None))

    def next_pickle() -> Any:
        return _RestrictedUnpickler(file, load).load()

    if next_pickle() != _LEGACY_MAGIC or next_pickle() != _LEGACY_VERSION:
        raise WeightsError("is not a torch file")
    if not next_pickle().get("little_endian", False):
        raise WeightsError("was written on a big-endian machine")
    data = next_pickle()
    for key in next_pickle():
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little", signed=True)
        raw = file.read(storage.size * storage.dtype.itemsize)
        if size != storage.size or len(raw) != storage.size * storage.dtype.itemsize:
            raise WeightsError(f"is cut short: storage {key} is incomplete")
        storage.values = np.frombuffer(raw, storage.dtype)
    return data
