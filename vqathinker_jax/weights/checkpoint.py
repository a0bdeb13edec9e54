"""Our own checkpoint: parameters as an orbax tree, and beside them what the folder said.

DIR/params/              the tree, `decoder/layers/attn/q/kernel` and so on
DIR/source_files/        config.json, tokenizer and whatever else the model's folder held
DIR/vqathinker_jax.json  config and counters, written last
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from vqathinker_jax import parallel
from vqathinker_jax.models.vqathinker import VQAThinker
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.folder_writer import copy_auxiliary, new_folder
from vqathinker_jax.weights.huggingface import LoadedFolder
from vqathinker_jax.weights.pieces import raise_listed
from vqathinker_jax.weights.readers import LOAD_DTYPES, abstract_model, dotted, parameter_shapes
from vqathinker_jax.weights.tensor_files import read_json

FACTS_NAME = "vqathinker_jax.json"
PARAMS_NAME = "params"
SOURCE_NAME = "source_files"
FORMAT = 1


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of ours that was written to its end."""
    return (folder / FACTS_NAME).is_file()


def save_checkpoint(
    dst: Path,
    model: VQAThinker,
    config: FolderConfig,
    *,
    counters: Mapping[str, np.ndarray],
    source_files: Path | None,
) -> None:
    """Writes a model; on several hosts every process must call it.

    Args:
      dst: must not exist, or be empty. It appears at once when everything is written.
      model: parameters are stored in the dtypes they have.
      config: what the folder says about itself.
      counters: SlowFast's `num_batches_tracked` by official name.
      source_files: folder whose config and tokenizer files are kept along.

    Raises:
      WeightsError: `dst` is in use or cannot be written.
    """
    import orbax.checkpoint as ocp

    flat = {dotted(path): v.get_value() for path, v in nnx.to_flat_state(nnx.state(model))}
    with new_folder(dst) as folder:
        with quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / PARAMS_NAME).absolute(), nested(flat))
        if jax.process_index() == 0:
            write_facts(folder, config, counters, source_files)


def write_facts(
    folder: Path,
    config: FolderConfig,
    counters: Mapping[str, np.ndarray],
    source_files: Path | None,
) -> None:
    """Writes everything of a checkpoint but its parameters."""
    kept = folder / SOURCE_NAME
    kept.mkdir()
    if source_files is not None:
        copy_auxiliary(source_files, kept, with_index=True)
    facts = {
        "format": FORMAT,
        "config": config.to_json(),
        "counters": {
            name: {"dtype": value.dtype.name, "value": int(value)}
            for name, value in counters.items()
        },
    }
    (folder / FACTS_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> tuple[FolderConfig, dict[str, np.ndarray]]:
    """Config and counters of a checkpoint.

    Raises:
      WeightsError: no checkpoint, an incomplete one, or one of another version.
    """
    path = folder / FACTS_NAME
    if not path.is_file():
        raise WeightsError(f"{folder}: is no checkpoint of ours (it has no {FACTS_NAME})")
    facts = read_json(path)
    if facts.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {facts.get('format')!r}, this version reads {FORMAT}")
    try:
        counters = {
            name: np.array(entry["value"], np.dtype(entry["dtype"]))
            for name, entry in facts["counters"].items()
        }
        config = facts["config"]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise WeightsError(f"{path}: is malformed") from None
    return FolderConfig.from_json(config, str(path)), counters


def load_checkpoint(folder: Path, mesh: Mesh | None = None, dtype: str = "auto") -> LoadedFolder:
    """Reads a checkpoint onto any mesh.

    Args:
      folder: written by `save_checkpoint` or `convert`.
      mesh: where the parameters live; None, the first device.
      dtype: `auto` (each parameter as stored), `float32` or `bfloat16`.

    Raises:
      WeightsError: no checkpoint, parameters that do not fit its config (all listed), or damage.
    """
    import orbax.checkpoint as ocp

    if dtype != "auto" and dtype not in LOAD_DTYPES:
        raise WeightsError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    config, counters = read_facts(folder)
    graphdef, state = abstract_model(config.model)
    shapes = parameter_shapes(state)
    params = (folder / PARAMS_NAME).absolute()
    with quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
        stored = stored_arrays(params)
        check_stored(stored, shapes, str(folder))
        if mesh is None:
            one = SingleDeviceSharding(jax.local_devices()[0])
            shardings = dict.fromkeys(shapes, one)
        else:
            try:
                flat = nnx.to_flat_state(parallel.state_shardings(state, mesh))
            except ValueError as error:
                raise WeightsError(str(error)) from None
            shardings = {dotted(path): variable.get_value() for path, variable in flat}
        target = {
            path: jax.ShapeDtypeStruct(
                shape,
                stored[path].dtype if dtype == "auto" else LOAD_DTYPES[dtype],
                sharding=shardings[path],
            )
            for path, shape in shapes.items()
        }
        try:
            restored = flattened(checkpointer.restore(params, nested(target)))
        except Exception as error:  # damaged array files raise many kinds
            raise WeightsError(f"{folder}: cannot be restored ({_first_line(error)})") from None
    state = nnx.map_state(lambda path, variable: variable.replace(restored[dotted(path)]), state)
    return LoadedFolder(nnx.merge(graphdef, state), config, counters, folder / SOURCE_NAME)


def stored_arrays(params: Path) -> dict[str, Any]:
    """Dotted path -> orbax's metadata (shape, dtype) of every array of a tree."""
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return flattened(checkpointer.metadata(params).item_metadata.tree)
    except Exception as error:  # orbax has no one exception for "this is no checkpoint"
        raise WeightsError(f"{params}: is no orbax tree ({_first_line(error)})") from None


def check_stored(
    stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raises WeightsError with every parameter that is missing, unexpected or misshapen."""
    raise_listed(
        f"{where}: its parameters do not fit its config",
        {
            "missing": [path for path in shapes if path not in stored],
            "unexpected": [path for path in stored if path not in shapes],
            "misshapen": [
                f"{path}: found {list(stored[path].shape)}, config means {list(shape)}"
                for path, shape in shapes.items()
                if path in stored and tuple(stored[path].shape) != shape
            ],
        },
    )


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names -> nested dictionaries, as orbax users see the tree."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keeps orbax's notes about its own layout off a user's terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
