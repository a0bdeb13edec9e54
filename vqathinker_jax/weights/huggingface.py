"""Model folders as HuggingFace users know them: finding, reading and writing them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.weights.config_json import (
    CONFIG_NAME,
    PUBLISHED,
    FolderConfig,
    load_config_json,
    parse_config,
)
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.folder_writer import (
    ModelSource,
    RegionSource,
    new_folder,
    write_folder,
)
from vqathinker_jax.weights.mapping import MOTION_MODULES, disk_name, make_table
from vqathinker_jax.weights.motion import RANDOM_MOTION, UNTRAINED_MOTION, initial_motion
from vqathinker_jax.weights.pieces import Table, check_coverage, check_names
from vqathinker_jax.weights.readers import (
    FolderReader,
    abstract_model,
    fill_model,
    parameter_shapes,
)
from vqathinker_jax.weights.tensor_files import StoredTensor, open_folder

HUB_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.py", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")


@dataclasses.dataclass
class LoadedFolder:
    """A model in memory with what its folder said."""

    model: VQAThinker
    config: FolderConfig
    counters: dict[str, np.ndarray]
    """SlowFast's `num_batches_tracked` by official name, int64 scalars. They stay NumPy: JAX
    without 64-bit types would cut them."""
    source_files: Path
    """Folder that holds config.json and the tokenizer's files."""


def resolve_model(name: str | os.PathLike) -> Path:
    """The folder of a model: an existing path, else a hub id `owner/name`, which is fetched.

    The hub's client decides where and whether from HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE.

    Raises:
      WeightsError: neither exists, or the hub cannot give it.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise WeightsError(f"{text}: is a file; name the folder that holds the model")
    if not _HUB_ID.fullmatch(text):
        raise WeightsError(f"{text}: no such folder, and not a hub id (owner/name)")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(text, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:  # whatever its transport raises means the same to the user
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise WeightsError(
            f"{text}: no such folder, and the hub cannot give it ({type(error).__name__}: {reason})"
        ) from None


def open_layout(folder: Path) -> tuple[FolderConfig, Table, dict[str, StoredTensor]]:
    """Config, table and tensors (by the table's names) of a folder, checked against each other.

    Raises:
      WeightsError: anything unreadable, or tensors that do not fit the config, all listed.
    """
    data = load_config_json(folder)
    stored = open_folder(folder)
    config = parse_config(data, stored, str(folder / CONFIG_NAME))
    tensors = stored
    if config.layout == "hf":
        tensors = {disk_name(name): tensor for name, tensor in stored.items()}
        if len(tensors) != len(stored):
            raise WeightsError(f"{folder}: holds tensors under two names each")
    table = make_table(config.model, config.layout)
    check_names(table, {name: tensor.shape for name, tensor in tensors.items()}, str(folder))
    for name in table.counters:
        if tensors[name].dtype.kind not in "iu":
            raise WeightsError(f"{folder}: {name} is {tensors[name].dtype}, expected an integer")
    return config, table, tensors


def read_counters(table: Table, tensors: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """The batch-norm counters, as stored."""
    return {name: np.array(tensors[name].view()) for name in table.counters}


def load_model(
    folder: Path,
    mesh: Mesh | None = None,
    dtype: str = "auto",
    seed: int = 0,
    slowfast_pyth: Path | None = None,
) -> LoadedFolder:
    """Reads a folder of any layout straight into sharded arrays.

    Args:
      folder: with config.json and safetensors; see `resolve_model` for hub ids.
      mesh: where the parameters live; None, the first device.
      dtype: `auto` (each parameter as stored), `float32` or `bfloat16`.
      seed: of the motion parts, where the folder comes without them.
      slowfast_pyth: their pretrained encoder, `SLOWFAST_8x8_R50.pyth`.

    Raises:
      WeightsError: every problem with the folder, in one message.
    """
    config, table, tensors = open_layout(folder)
    graphdef, state = abstract_model(config.model)
    opened = complete_reader(
        config, table, tensors, parameter_shapes(state), seed=seed, slowfast_pyth=slowfast_pyth
    )
    model = fill_model(graphdef, state, opened.reader, mesh, dtype)
    return LoadedFolder(model, opened.config, opened.counters, folder)


@dataclasses.dataclass(frozen=True)
class OpenedFolder:
    """A folder ready to be read, its motion parts made up where it has none."""

    config: FolderConfig
    reader: FolderReader
    counters: dict[str, np.ndarray]


def complete_reader(
    config: FolderConfig,
    table: Table,
    tensors: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int,
    slowfast_pyth: Path | None,
) -> OpenedFolder:
    """A reader for every parameter of the model; see `load_model` for the arguments.

    Raises:
      WeightsError: a table that does not fit the model, or a `.pyth` that does not fit.
    """
    if config.layout == "official":
        check_coverage(table, shapes)
        reader = FolderReader(table, tensors, shapes, {})
        return OpenedFolder(config, reader, read_counters(table, tensors))
    check_coverage(table, shapes, MOTION_MODULES)
    dtype = FolderReader(table, tensors, shapes, {}).dtype("projector.fc1.kernel")
    start = initial_motion(config.model, dtype, seed, slowfast_pyth)
    if config.kind == PUBLISHED:
        config = dataclasses.replace(config, kind=start.kind)
    return OpenedFolder(
        config, FolderReader(table, tensors, shapes, start.parameters), start.counters
    )


def described_in(config: FolderConfig, layout: str) -> FolderConfig:
    """What a folder of this layout says: without motion parts, nothing of how they were made."""
    kind = config.kind
    if layout != "official" and kind in (UNTRAINED_MOTION, RANDOM_MOTION):
        kind = PUBLISHED
    return dataclasses.replace(config, layout=layout, kind=kind)


def save_folder(
    model: VQAThinker,
    dst: Path,
    config: FolderConfig,
    *,
    counters: Mapping[str, np.ndarray],
    source_files: Path | None = None,
    layout: str = "official",
    max_shard_bytes: float | None = None,
) -> tuple[str, ...]:
    """Writes a model as a folder that torch users load, one tensor at a time.

    Args:
      model: its parameters are written in the dtypes they have.
      dst: must not exist, or be empty. It appears at once when everything is written.
      config: what the folder says about itself.
      counters: SlowFast's `num_batches_tracked` by official name.
      source_files: folder whose other files (tokenizer, code, ...) are copied byte for byte.
      layout: one of `mapping.LAYOUTS`; only `official` has a place for the motion parts.
      max_shard_bytes: largest weight file; None keeps the files of `source_files`' index where the
        tensors are the same, else 5e9.

    Returns:
      Top-level modules that the layout has no place for.

    Raises:
      WeightsError: `dst` is in use, or the layout cannot hold the model.
    """
    source = ModelSource(nnx.state(model))
    return save_source(
        source, source.shapes, dst, config,
        counters=counters, source_files=source_files, layout=layout,
        max_shard_bytes=max_shard_bytes,
    )  # fmt: skip


def save_source(
    source: RegionSource,
    shapes: Mapping[str, tuple[int, ...]],
    dst: Path,
    config: FolderConfig,
    *,
    counters: Mapping[str, np.ndarray],
    source_files: Path | None = None,
    layout: str = "official",
    max_shard_bytes: float | None = None,
) -> tuple[str, ...]:
    """As `save_folder`, for parameters that some source gives part by part.

    Args:
      source: of the parameters.
      shapes: path -> shape of every one of them.
      dst, config, counters, source_files, layout, max_shard_bytes: as there.
    """
    partial = () if layout == "official" else MOTION_MODULES
    table = make_table(config.model, layout)
    check_coverage(table, shapes, partial)
    with new_folder(dst) as folder:
        write_folder(
            folder, table, source, described_in(config, layout),
            counters=counters, source_files=source_files, max_shard_bytes=max_shard_bytes,
        )  # fmt: skip
    return partial
