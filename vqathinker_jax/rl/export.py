"""What a run leaves: a model folder in the published layout, and its adapters in PEFT's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flax import nnx

from vqathinker_jax.config import TrainConfig
from vqathinker_jax.models.lora import is_adapter
from vqathinker_jax.rl.start import Start, copied
from vqathinker_jax.weights.adapter import Adapter, in_adapter, save_adapter
from vqathinker_jax.weights.config_json import FolderConfig, trained_kind
from vqathinker_jax.weights.folder_writer import ModelSource
from vqathinker_jax.weights.huggingface import save_source
from vqathinker_jax.weights.merged import MergedSource


def export(start: Start, trained: nnx.State, config: TrainConfig, folder: Path) -> None:
    """Writes the model in the published layout; trained parts in the compute dtype.

    Adapters are merged into their kernels, in the dtype of these.

    Args:
      start: structure, frozen parameters, and what is copied (tokenizer, counters).
      trained: the parameters to write.
      config: of the run: its geometry and prompt become the folder's.
      folder: must not exist.

    Raises:
      WeightsError: it cannot be written.
    """
    described = _described_folder(start, config)
    values = _exported(start, trained, config)
    merged = values
    if config.model.lora is not None:
        merged = MergedSource(values, Adapter(config.model.lora, values, frozenset(), described))
    shapes = {path: shape for path, shape in values.shapes.items() if not in_adapter(path)}
    save_source(
        merged, shapes, folder, described,
        counters=start.counters, source_files=start.source_files,
    )  # fmt: skip


def export_adapter(start: Start, trained: nnx.State, config: TrainConfig, folder: Path) -> None:
    """Writes the adapters of a run, and what trained beside them, in PEFT's layout.

    Args:
      start, trained, config: as for `export`; with `config.model.lora`.
      folder: must not exist.

    Raises:
      WeightsError: it cannot be written.
    """
    modules = {path[0] for path, _ in nnx.to_flat_state(trained)} - {"decoder"}
    save_adapter(
        folder,
        _exported(start, trained, config),
        config.model.lora,
        modules,
        _described_folder(start, config),
        config.model.path,
    )


def _exported(start: Start, trained: nnx.State, config: TrainConfig) -> ModelSource:
    """All parameters as they are written: trained ones in the compute dtype, but for adapters."""
    adapters, others = nnx.split_state(trained, lambda path, _: is_adapter(path), ...)
    return ModelSource(nnx.merge_state(adapters, copied(others, config.model.dtype), start.frozen))


def _described_folder(start: Start, config: TrainConfig) -> FolderConfig:
    return dataclasses.replace(
        start.folder,
        layout="official",
        video=config.video,
        prompt_style=config.data.prompt_style,
        reasoning=config.data.reasoning,
        kind=trained_kind(start.folder.kind),
    )
