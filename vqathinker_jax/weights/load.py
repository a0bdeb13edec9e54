"""Loading a model from whatever a user named: a folder of any layout, or our checkpoint."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from jax.sharding import Mesh

from vqathinker_jax.calibration import CALIBRATION_NAME
from vqathinker_jax.weights.checkpoint import is_checkpoint, load_checkpoint, read_facts
from vqathinker_jax.weights.config_json import FolderConfig, read_config
from vqathinker_jax.weights.huggingface import LoadedFolder, load_model

_SAMPLE_BYTES = 1 << 16


def load_any(
    folder: Path,
    mesh: Mesh | None = None,
    dtype: str = "auto",
    seed: int = 0,
    slowfast_pyth: Path | None = None,
) -> LoadedFolder:
    """Loads a folder of any layout or a checkpoint; see `load_model` and `load_checkpoint`.

    Raises:
      WeightsError: every problem with the folder, in one message.
    """
    if is_checkpoint(folder):
        return load_checkpoint(folder, mesh, dtype)
    return load_model(folder, mesh, dtype, seed, slowfast_pyth)


def read_any_config(folder: Path) -> FolderConfig:
    """What a folder or checkpoint says about itself, without reading its weights.

    Raises:
      WeightsError: it says nothing readable.
    """
    return read_facts(folder)[0] if is_checkpoint(folder) else read_config(folder)


def folder_fingerprint(folder: Path) -> str:
    """Hex digest that changes when the model does: names, sizes and samples of all files' bytes.

    Reading all of the weights would take longer than loading them, so large files are sampled at
    both ends and in the middle. A copy of the folder has the same fingerprint. A calibration that
    lies in the folder is no part of the model.
    """
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if path == folder / CALIBRATION_NAME:
                continue
            size = path.stat().st_size
            digest.update(
                f"{path.relative_to(folder)}\0{size}\0".encode("utf-8", "surrogateescape")
            )
            with open(path, "rb") as file:
                for offset in sorted({0, size // 2, max(0, size - _SAMPLE_BYTES)}):
                    file.seek(offset)
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
