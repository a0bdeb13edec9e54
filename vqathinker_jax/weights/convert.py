"""`convert`: a folder to a checkpoint, a checkpoint to a folder, a folder to another layout."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vqathinker_jax.weights.adapter import open_adapter
from vqathinker_jax.weights.checkpoint import (
    SOURCE_NAME,
    is_checkpoint,
    read_facts,
    write_facts,
)
from vqathinker_jax.weights.config_json import FolderConfig
from vqathinker_jax.weights.errors import WeightsError
from vqathinker_jax.weights.folder_writer import (
    RegionSource,
    copied_files,
    new_folder,
    write_folder,
)
from vqathinker_jax.weights.huggingface import (
    complete_reader,
    described_in,
    open_layout,
    resolve_model,
)
from vqathinker_jax.weights.mapping import MOTION_MODULES, make_table
from vqathinker_jax.weights.merged import MergedSource
from vqathinker_jax.weights.pieces import Piece, Table, check_coverage, raise_listed
from vqathinker_jax.weights.readers import (
    abstract_model,
    count_parameters,
    parameter_shapes,
)
from vqathinker_jax.weights.streaming import (
    LARGE_BYTES,
    CheckpointSource,
    return_memory,
    write_parameters,
)
from vqathinker_jax.weights.tensor_files import StoredTensor, blocks


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What was converted; `str()` is the text for a person."""

    src: str
    dst: str
    to: str
    layout: str
    """The names that the folder on either side carries."""
    tensors: int
    """Tensors of that folder."""
    parameters: int
    """Numbers in our parameters."""
    bytes: int
    """Bytes of the folder's tensors."""
    seconds: float
    verified: int | None
    """Tensors compared bit for bit after writing; None where that was not asked for."""
    left_out: tuple[str, ...]
    """Our modules that the layout written has no place for."""
    initialised: tuple[str, ...]
    """Our modules that the source has no values for: made as before training."""
    merged: str | None
    """The adapter merged into the kernels; None without."""

    def __str__(self) -> str:
        lines = [
            f"{self.src} -> {self.dst}: {self.tensors} tensors ({self.layout} layout), "
            f"{self.parameters:,} parameters, {self.bytes / 1e9:.2f} GB in {self.seconds:.1f} s"
        ]
        if self.merged is not None:
            lines.append(f"merged: {self.merged}")
        if self.left_out:
            lines.append(
                f"left out: {', '.join(self.left_out)} (the {self.layout} layout has no place "
                "for the motion parts)"
            )
        if self.initialised:
            lines.append(
                f"initialised: {', '.join(self.initialised)} (the source has no values for them)"
            )
        if self.verified is not None:
            lines.append(f"verified: {self.verified} tensors equal bit for bit")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Either kind of input, opened."""

    config: FolderConfig
    shapes: dict[str, tuple[int, ...]]
    values: RegionSource
    counters: dict[str, np.ndarray]
    files: Path
    """Folder of the config and tokenizer files."""
    initialised: tuple[str, ...]
    merged: str | None = None


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    to: str,
    *,
    verify: bool = False,
    layout: str | None = None,
    slowfast_pyth: str | os.PathLike | None = None,
    seed: int = 0,
    adapter: str | os.PathLike | None = None,
) -> ConversionReport:
    """Converts weights without ever holding the model in memory; no value changes a bit.

    With an adapter, the kernels that it adapts become `kernel + scale * A B`, rounded once to their
    dtype, and what it holds whole takes the place of the source's.

    Args:
      src: a folder of any layout, a hub id, or a checkpoint of ours.
      dst: must not exist, or be empty.
      to: `jax` for a checkpoint, `hf` for a folder.
      verify: read `dst` again and compare every tensor with `src`.
      layout: of the folder written: `official`, `plain` or `hf`; None, that of the source.
      slowfast_pyth: pretrained motion encoder for a source without one.
      seed: of what is initialised at random, for a source without motion parts.
      adapter: folder of a LoRA adapter in PEFT's layout, merged into the folder that is written.

    Raises:
      WeightsError: everything wrong with source, destination or arguments, or a difference found.
    """
    if to not in ("jax", "hf"):
        raise WeightsError(f"to must be jax or hf, got {to!r}")
    if to == "jax" and layout is not None:
        raise WeightsError("a layout can be chosen for --to hf only")
    if to == "jax" and adapter is not None:
        raise WeightsError("an adapter can be merged with --to hf only; convert its folder then")
    started = time.monotonic()
    folder, target = resolve_model(src), Path(dst)
    if to == "jax" and is_checkpoint(folder):
        raise WeightsError(f"{src}: is a checkpoint already; --to hf makes a folder of it")
    if target.resolve().is_relative_to(folder.resolve()):
        raise WeightsError(f"{dst}: lies inside {src}; name another folder")
    pyth = None if slowfast_pyth is None else Path(slowfast_pyth)
    source = _open(folder, seed, pyth)
    if adapter is not None:
        source = _merged(source, Path(adapter))
    written = source.config.layout if layout is None else layout
    table = make_table(source.config.model, written)
    left_out = MOTION_MODULES if to == "hf" and written != "official" else ()
    check_coverage(table, source.shapes, () if written == "official" else MOTION_MODULES)
    verified = None
    if to == "jax":
        with new_folder(target) as part:
            write_parameters(part, source.values, source.shapes)
            write_facts(part, source.config, source.counters, source.files)
            if verify:
                verified = _verify_checkpoint(part, source, table)
    else:
        with new_folder(target) as part:
            write_folder(
                part,
                table,
                source.values,
                described_in(source.config, written),
                counters=source.counters,
                source_files=source.files,
                max_shard_bytes=None,
            )
            if verify:
                verified = _verify_folder(part, source, table)
    return ConversionReport(
        src=os.fspath(src),
        dst=os.fspath(dst),
        to=to,
        layout=written,
        tensors=len(table.pieces) + len(table.counters),
        parameters=count_parameters(source.shapes),
        bytes=_tensor_bytes(table, source),
        seconds=time.monotonic() - started,
        verified=verified,
        left_out=left_out,
        initialised=source.initialised if to == "jax" or written == "official" else (),
        merged=source.merged,
    )


def _open(folder: Path, seed: int, slowfast_pyth: Path | None) -> _Source:
    if is_checkpoint(folder):
        config, counters = read_facts(folder)
        shapes = parameter_shapes(abstract_model(config.model)[1])
        values = CheckpointSource(folder, shapes)
        return _Source(config, shapes, values, counters, folder / SOURCE_NAME, ())
    config, table, tensors = open_layout(folder)
    shapes = parameter_shapes(abstract_model(config.model)[1])
    opened = complete_reader(config, table, tensors, shapes, seed=seed, slowfast_pyth=slowfast_pyth)
    initialised = () if config.layout == "official" else MOTION_MODULES
    return _Source(opened.config, shapes, opened.reader, opened.counters, folder, initialised)


def _merged(source: _Source, folder: Path) -> _Source:
    """The source with an adapter merged into it."""
    adapter = open_adapter(folder, source.config, source.shapes)
    held = {path.split(".")[0] for path in adapter.replaced}
    return dataclasses.replace(
        source,
        config=adapter.config,
        values=MergedSource(source.values, adapter),
        initialised=tuple(name for name in source.initialised if name not in held),
        merged=f"{folder}: {adapter.lora}",
    )


def _tensor_bytes(table: Table, source: _Source) -> int:
    sizes = (
        int(np.prod(piece.shape)) * source.values.dtype(piece.path).itemsize
        for piece in table.pieces
    )
    return sum(sizes) + sum(source.counters[name].nbytes for name in table.counters)


def _verify_checkpoint(part: Path, source: _Source, table: Table) -> int:
    """Reads the checkpoint just written and compares it with the folder it was made from."""
    config, counters = read_facts(part)
    if config != source.config:
        raise WeightsError("verification failed: the config changed on its way")
    stored = CheckpointSource(part, source.shapes)
    count = compare(table, source.values.tensors, stored, counters)
    different = [
        path
        for path, value in source.values.extra.items()
        if not same_bits(value, stored.region(path, ()))
    ]
    _compare_files(source.files, part / SOURCE_NAME, with_index=True)
    raise_listed("verification failed", {"different": different})
    return count


def _verify_folder(part: Path, source: _Source, table: Table) -> int:
    """Reads the folder just written and compares it with what it was made from."""
    config, _, tensors = open_layout(part)
    if config.model != source.config.model:
        raise WeightsError("verification failed: config.json describes another model")
    _compare_files(source.files, part, with_index=False)
    return compare(table, tensors, source.values, source.counters)


def _compare_files(source: Path, copy: Path, with_index: bool) -> None:
    different = [
        str(path)
        for path in copied_files(source, with_index)
        if path.name != "config.json" and (source / path).read_bytes() != (copy / path).read_bytes()
    ]
    raise_listed("verification failed", {"different files": different})


def compare(
    table: Table,
    tensors: Mapping[str, StoredTensor],
    values: RegionSource,
    counters: Mapping[str, np.ndarray],
) -> int:
    """Compares every tensor of a folder with our parameters, bit for bit.

    Returns:
      The number of tensors compared.

    Raises:
      WeightsError: names every tensor that differs.
    """
    different = []
    for piece in table.pieces:
        wanted = piece.to_ours(tensors[piece.name].view())
        if not _same_piece(piece, wanted, values):
            different.append(piece.name)
        if wanted.nbytes > LARGE_BYTES:
            return_memory()
    for name in table.counters:
        if not same_bits(tensors[name].view(), counters[name]):
            different.append(name)
    raise_listed("verification failed", {"different": different})
    return len(table.pieces) + len(table.counters)


def _same_piece(piece: Piece, wanted: np.ndarray, values: RegionSource) -> bool:
    """Whether our parameter holds these values, read a block of rows at a time."""
    if wanted.dtype != values.dtype(piece.path):
        return False
    places = [axis for axis, part in enumerate(piece.region) if isinstance(part, slice)]
    axis = places[0] if places else len(piece.region)
    start = 0
    for block in blocks(wanted):
        # Regions start their slices at zero, so a row of the piece is a row of the parameter.
        rows = slice(start, start + len(block))
        region = (*piece.region[:axis], rows, *piece.region[axis + 1 :])
        if not same_bits(values.region(piece.path, region), block):
            return False
        start += len(block)
    return True


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bytes (so NaN equals itself)."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    bits = np.dtype(f"u{first.dtype.itemsize}")
    return all(
        np.array_equal(a.view(bits), b.view(bits))
        for a, b in zip(blocks(first), blocks(second), strict=True)
    )
