"""A tensor of a layout and the part of a parameter it fills; checking and reading such pieces."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vqathinker_jax.weights.errors import WeightsError

WHOLE = slice(None)
_PARALLEL_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a layout and the part of one parameter that it fills.

    `tensor.reshape(split).transpose(order) == parameter[region]`
    """

    name: str
    shape: tuple[int, ...]
    """Shape of the tensor in the layout."""
    split: tuple[int, ...]
    order: tuple[int, ...]
    path: str
    """Dotted path of the parameter in `VQAThinker`."""
    region: tuple[int | slice, ...] = ()
    """Leading part of an index into the parameter; an integer takes its axis away."""

    def box(self, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """First and one past the last index along every axis of a parameter of this shape."""
        region = (*self.region, *[WHOLE] * (len(shape) - len(self.region)))
        return tuple(
            part.indices(size)[:2] if isinstance(part, slice) else (part, part + 1)
            for part, size in zip(region, shape, strict=True)
        )

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """The part of our parameter, as a view of the layout's tensor."""
        return tensor.reshape(self.split).transpose(self.order)

    def to_layout(self, part: np.ndarray) -> np.ndarray:
        """The layout's tensor, from the part of our parameter."""
        return part.transpose(np.argsort(self.order)).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Table:
    """All pieces of one layout, and the names of its batch-norm counters (int64 scalars)."""

    pieces: tuple[Piece, ...]
    counters: tuple[str, ...]

    def by_path(self) -> dict[str, list[Piece]]:
        """Parameter path -> the pieces that fill it."""
        grouped: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            grouped.setdefault(piece.path, []).append(piece)
        return grouped


def check_names(table: Table, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Checks that tensors and table fit one to one.

    Args:
      table: what is wanted.
      shapes: name -> shape of what there is.
      where: what to call the tensors' origin in the message.

    Raises:
      WeightsError: lists every missing, unexpected and misshapen tensor.
    """
    wanted = {piece.name: piece.shape for piece in table.pieces}
    wanted |= dict.fromkeys(table.counters, ())
    missing = [f"{name} {list(shape)}" for name, shape in wanted.items() if name not in shapes]
    unexpected = [f"{name} {list(shapes[name])}" for name in sorted(shapes.keys() - wanted)]
    misshapen = [
        f"{name}: found {list(shapes[name])}, config.json means {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    raise_listed(
        f"{where}: its tensors do not fit its config.json",
        {"missing": missing, "unexpected": unexpected, "misshapen": misshapen},
    )


def check_coverage(
    table: Table, shapes: Mapping[str, tuple[int, ...]], partial: Iterable[str] = ()
) -> None:
    """Checks that every parameter is filled exactly once (but for the padding of the vocabulary).

    Args:
      table: the pieces.
      shapes: path -> shape of every parameter of the model.
      partial: top-level modules that the layout has no place for.

    Raises:
      WeightsError: lists the parameters that are not filled, filled twice, or unknown.
    """
    skipped = tuple(f"{name}." for name in partial)
    grouped = table.by_path()
    unfilled = [
        f"{path} {list(shape)}"
        for path, shape in shapes.items()
        if path not in grouped and not path.startswith(skipped)
    ]
    unknown = sorted(grouped.keys() - shapes)
    misfit = [
        f"{path} {list(shapes[path])}"
        for path, pieces in grouped.items()
        if path in shapes and not _covers(pieces, shapes[path])
    ]
    raise_listed(
        "the weight table does not fit the model",
        {"parameters not filled": unfilled, "unknown": unknown, "filled wrongly": misfit},
    )


def _covers(pieces: Sequence[Piece], shape: tuple[int, ...]) -> bool:
    """Whether the pieces tile the parameter, up to the end of a region that names its end."""
    boxes = [piece.box(shape) for piece in pieces]
    end = list(shape)
    for piece, box in zip(pieces, boxes, strict=True):
        extents = tuple(
            stop - start
            for axis, (start, stop) in enumerate(box)
            if axis >= len(piece.region) or isinstance(piece.region[axis], slice)
        )
        if extents != tuple(piece.split[axis] for axis in piece.order):
            return False
        for axis, part in enumerate(piece.region):
            if isinstance(part, slice) and part.stop is not None:
                end[axis] = part.stop
    inside = all(stop <= size for box in boxes for (_, stop), size in zip(box, end, strict=True))
    volume = sum(math.prod(stop - start for start, stop in box) for box in boxes)
    return inside and len(set(boxes)) == len(boxes) and volume == math.prod(end)


def raise_listed(title: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Raises one WeightsError with every non-empty list of problems."""
    lines = [
        f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names
    ]
    if lines:
        raise WeightsError("\n  ".join([f"{title}:", *lines]))


def read_part(
    pieces: Sequence[Piece],
    shape: Sequence[int],
    index: tuple[slice, ...],
    dtype: np.dtype,
    view: Callable[[str], np.ndarray],
) -> np.ndarray:
    """The part of a parameter that an index selects, touching only what it needs.

    Args:
      pieces: all pieces of the parameter.
      shape: of the parameter.
      index: one slice of step one per axis.
      dtype: of the result; values are converted only if they are stored as another.
      view: gives a tensor of the layout by name, ideally a view of a mapped file.

    Returns:
      The values [*index], zero where no piece reaches (the padding of the vocabulary).
    """
    wanted = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    out = np.zeros([stop - start for start, stop in wanted], dtype)

    def fill(piece: Piece) -> None:
        source: list[slice] = []
        target: list[int | slice] = []
        region = (*piece.region, *[WHOLE] * (len(shape) - len(piece.region)))
        for part, (start, stop), (low, high) in zip(region, piece.box(shape), wanted, strict=True):
            begin, end = max(start, low), min(stop, high)
            if begin >= end:
                return
            if isinstance(part, slice):
                source.append(slice(begin - start, end - start))
                target.append(slice(begin - low, end - low))
            else:
                target.append(begin - low)
        tensor = view(piece.name)
        values = piece.to_ours(tensor)[tuple(source)]
        if tensor.dtype == dtype:
            # As integers of the same width: numpy moves those faster, and the bits cannot change.
            bits = np.dtype(f"u{dtype.itemsize}")
            out.view(bits)[tuple(target)] = values.view(bits)
        else:
            out[tuple(target)] = values

    if out.nbytes < _PARALLEL_BYTES or len(pieces) == 1:
        for piece in pieces:
            fill(piece)
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, pieces))
    return out
