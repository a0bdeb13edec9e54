"""LoRA adapters in the layout of the PEFT library: `adapter_config.json` and one safetensors file.

The file holds A and B of every adapted layer under the names that PEFT gives them inside
InternVLChatModel, and, whole, the modules that trained beside the decoder (`modules_to_save`).
`vqathinker_jax_adapter.json` beside them, which PEFT does not look at, says how the model was
trained to see and be asked: what a model folder has under its own key in config.json.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vqathinker_jax.models.lora import ADAPTER, TARGETS, LoraConfig, is_adapter
from vqathinker_jax.models.vqathinker import VQAThinkerConfig
from vqathinker_jax.weights.config_fields import own_facts, write_config
from vqathinker_jax.weights.config_json import FolderConfig, trained_kind, with_own_facts
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.folder_writer import (
    RegionSource,
    new_folder,
    new_tensor,
    write_tensors,
)
from vqathinker_jax.weights.mapping import disk_name, make_table
from vqathinker_jax.weights.pieces import Piece, Table
from vqathinker_jax.weights.readers import FolderReader
from vqathinker_jax.weights.tensor_files import StoredTensor, read_header, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FACTS = "vqathinker_jax_adapter.json"
PREFIX = "base_model.model."
FACTORS = {"a": "lora_A", "b": "lora_B"}
"""Our name of a factor -> PEFT's."""
UNSUPPORTED = {
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "kasa_config": None,
}
"""Fields of adapter_config.json that would change the arithmetic -> the one value we compute."""
INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
"""Of adapters that leave the base as it is; others (PiSSA, OLoRA, ...) change its kernels too."""
_TARGET = re.compile(r"language_model\.model\.layers\.(\d+)\.\w+\.(\w+)\.lora_[AB]\.weight")


def factor_path(kernel: str, factor: str) -> str:
    """Path of a factor of the adapter beside a kernel.

    >>> factor_path("decoder.layers.attn.q.kernel", "a")
    'decoder.layers.attn.q.adapter.a'
    """
    return f"{kernel.removesuffix('kernel')}{ADAPTER}.{factor}"


def in_adapter(path: str) -> bool:
    """Whether a dotted path is that of a factor."""
    return is_adapter(tuple(path.split(".")))


def kernel_paths(lora: LoraConfig) -> tuple[str, ...]:
    """Paths of the kernels that have adapters."""
    return tuple(".".join(("decoder.layers", *TARGETS[name], "kernel")) for name in lora.targets)


def adapter_table(
    model: VQAThinkerConfig,
    lora: LoraConfig,
    modules: Collection[str],
    layers: Collection[int] | None = None,
) -> Table:
    """The tensors of an adapter and the parameters that they fill.

    Args:
      model: of the base.
      lora: rank and targets.
      modules: our top-level modules that the adapter holds whole.
      layers: numbers of the adapted layers; None: all.
    """
    kernels, pieces = kernel_paths(lora), []
    for piece in make_table(model, "official").pieces:
        if piece.path.split(".")[0] in modules:
            pieces.append(dataclasses.replace(piece, name=PREFIX + piece.name))
        elif piece.path in kernels and (layers is None or piece.region[0] in layers):
            pieces += _factor_pieces(piece, lora.rank)
    return Table(tuple(pieces), ())


def _factor_pieces(kernel: Piece, rank: int) -> tuple[Piece, Piece]:
    """torch `lora_A` [R, in], `lora_B` [out, R]; our `a` [*ins, R], `b` [R, *outs]."""
    num_out = kernel.order[0]  # the kernel is split into (*outs, *ins) and put in the other order
    outs, ins = kernel.split[:num_out], kernel.split[num_out:]
    name = PREFIX + kernel.name.removesuffix("weight")

    def piece(factor: str, shape: tuple, split: tuple, order: tuple) -> Piece:
        path = factor_path(kernel.path, factor)
        return Piece(f"{name}{FACTORS[factor]}.weight", shape, split, order, path, kernel.region)

    return (
        piece("a", (rank, math.prod(ins)), (rank, *ins), (*range(1, 1 + len(ins)), 0)),
        piece("b", (math.prod(outs), rank), (*outs, rank), (num_out, *range(num_out))),
    )


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter, opened."""

    lora: LoraConfig
    """Its targets are those of the file."""
    values: RegionSource
    """Gives both factors by `factor_path`, and the parameters of `modules`."""
    replaced: frozenset[str]
    """Paths of the parameters that it holds whole."""
    config: FolderConfig
    """What the base model becomes with it."""


def save_adapter(
    dst: Path,
    values: RegionSource,
    lora: LoraConfig,
    modules: Collection[str],
    config: FolderConfig,
    base: str | None,
) -> None:
    """Writes an adapter; every process must call it, and the first one writes.

    Args:
      dst: must not exist, or be empty.
      values: of the adapters, and of the modules.
      lora: rank, scale and targets.
      modules: our top-level modules that trained beside the decoder, written whole.
      config: of the model with the adapter.
      base: name or path of the model it belongs to, for readers; None where it has none.

    Raises:
      WeightsError: it cannot be written.
    """
    table = adapter_table(config.model, lora, modules)
    tensors = [new_tensor(piece, values) for piece in table.pieces]
    with new_folder(dst) as folder:
        write_tensors(folder / ADAPTER_WEIGHTS, tensors)
        if jax.process_index() != 0:
            return
        write_config(folder / ADAPTER_CONFIG, peft_config(config.model, lora, modules, base))
        write_config(folder / ADAPTER_FACTS, own_facts(config))


def peft_config(
    model: VQAThinkerConfig, lora: LoraConfig, modules: Collection[str], base: str | None
) -> dict[str, Any]:
    """The fields of adapter_config.json."""
    saved = {
        piece.name.split(".")[0]
        for piece in make_table(model, "official").pieces
        if piece.path.split(".")[0] in modules
    }
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(lora.targets),
        "modules_to_save": sorted(saved) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_rslora": False,
    }


def open_adapter(
    folder: Path, base: FolderConfig, shapes: Mapping[str, tuple[int, ...]]
) -> Adapter:
    """Opens an adapter that we or PEFT saved, for a base model.

    Names as inside InternVLChatModel, inside its language model alone, and inside transformers'
    own InternVL classes are read.

    Args:
      folder: of the adapter.
      base: what the base model's folder says.
      shapes: path -> shape of every parameter of the base.

    Raises:
      WeightsError: it cannot be read, needs what we do not compute, or does not fit the base.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise WeightsError(f"{folder}: is no adapter: it has no {ADAPTER_CONFIG}")
    where = str(folder / ADAPTER_CONFIG)
    fields = read_json(folder / ADAPTER_CONFIG)
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS)
    matches = [_TARGET.fullmatch(name.removeprefix(PREFIX)) for name in tensors]
    found = {match[2] for match in matches if match}
    lora = _read_lora(fields, [name for name in TARGETS if name in found], where)
    layers = None
    if fields.get("layers_to_transform") is not None:
        layers = {int(match[1]) for match in matches if match}
    present = {name.removeprefix(PREFIX).split(".")[0] for name in tensors}
    modules = {
        piece.path.split(".")[0]
        for piece in make_table(base.model, "official").pieces
        if piece.name.split(".")[0] in present and not piece.path.startswith("decoder.")
    }
    table = adapter_table(base.model, lora, modules, layers)
    _check_fit(table, tensors, str(folder / ADAPTER_WEIGHTS))
    replaced = {piece.path for piece in table.pieces if not in_adapter(piece.path)}
    config = dataclasses.replace(base, kind=trained_kind(base.kind))
    if (folder / ADAPTER_FACTS).is_file():
        said = with_own_facts(
            FolderConfig(base.model), read_json(folder / ADAPTER_FACTS), str(folder / ADAPTER_FACTS)
        )
        config = dataclasses.replace(said, model=base.model, layout=base.layout)
    own_shapes = {path: shapes[path] for path in replaced}
    for piece in table.pieces:
        if piece.path not in replaced:
            part = (piece.split[axis] for axis in piece.order)
            own_shapes[piece.path] = (base.model.decoder.num_hidden_layers, *part)
    return Adapter(lora, FolderReader(table, tensors, own_shapes, {}), frozenset(replaced), config)


def _read_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors by the names that `save_adapter` gives them."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; adapters are read from safetensors")
    tensors = {}
    for name, tensor in read_header(path).items():
        inner = name.removeprefix(PREFIX)
        if inner.startswith("model.layers."):
            inner = f"language_model.{inner}"
        tensors[PREFIX + disk_name(inner)] = tensor
    return tensors


def _read_lora(fields: Mapping[str, Any], targets: Sequence[str], where: str) -> LoraConfig:
    """Rank, scale and targets, from adapter_config.json."""
    if fields.get("peft_type") != "LORA":
        kind = fields.get("peft_type")
        raise WeightsError(f"{where}: peft_type {kind!r} is not supported (LORA is)")
    for name, wanted in UNSUPPORTED.items():
        if fields.get(name, wanted) not in (wanted, None):
            raise WeightsError(f"{where}: {name} {fields[name]!r} is not supported ({wanted!r} is)")
    if (start := fields.get("init_lora_weights", True)) not in INITIALISATIONS:
        raise WeightsError(f"{where}: init_lora_weights {start!r} is not supported")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise WeightsError(f"{where}: r and lora_alpha must be numbers, got {rank!r} and {alpha!r}")
    if not targets:
        raise WeightsError(f"{where}: no tensors beside it adapt {', '.join(TARGETS)}")
    # "Rank-stabilised" adapters are scaled by alpha / sqrt(rank).
    stretched = math.sqrt(rank) if fields.get("use_rslora") and rank > 0 else 1.0
    try:
        return LoraConfig(rank, float(alpha * stretched), tuple(targets))
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from None


def _check_fit(table: Table, tensors: Mapping[str, StoredTensor], where: str) -> None:
    """Raises WeightsError where tensors and table do not fit one to one; the first misfit of each
    kind is named."""
    wanted = {piece.name: piece.shape for piece in table.pieces}
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in sorted(tensors) if name not in wanted]
    misshapen = [
        f"{name} {list(tensors[name].shape)} where the model needs {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [
        f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for kind, names in (
            ("of another shape", misshapen), ("unexpected", unexpected), ("missing", missing)
        )
        if names
    ]  # fmt: skip
    if problems:
        raise WeightsError(f"{where}: does not fit the model: {'; '.join(problems)}")
