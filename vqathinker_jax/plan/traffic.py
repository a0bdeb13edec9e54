"""What chips send each other, read from the text of a compiled program."""

from __future__ import annotations

import math
import re

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
}
"""By the compiler's name of a dtype."""
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
CALLED = re.compile(r"(?:calls|to_apply|branch_computations|true_computation|false_computation)=")
NAMES = re.compile(r"%([\w.\-]+)")
GROUP = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[(.*?)\] \{(.*?)\})")
"""Three ways to write them: groups by size; lists of devices; axes of a mesh."""
AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\(\d+\)(\d+))?")
"""`'name'=size` in a mesh; in the groups `'name'`, or `'name':(before)size` for a part of one."""


def received_bytes(text: str, loop_trips: int | None = None) -> float | None:
    """Bytes that each chip receives in collective operations, bodies of loops multiplied out.

    An all-gather brings all parts but the own one, an all-reduce twice as many as its array has (as
    rings do it), a reduce-scatter its input once, the others their result.

    Args:
      text: `compiled.as_text()`.
      loop_trips: for loops whose length the compiler does not know.

    Returns:
      None where a loop of unknown length communicates and `loop_trips` is None.
    """
    bodies, entry = _computations(text)
    return _received(entry, bodies, loop_trips, {})


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        found = None if line.startswith(" ") else COMPUTATION.match(line)
        if found:
            current = found[1]
            bodies[current] = []
            if line.startswith("ENTRY"):
                entry = current
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _received(
    name: str, bodies: dict[str, list[str]], loop_trips: int | None, known: dict[str, float | None]
) -> float | None:
    if name in known:
        return known[name]
    total = 0.0
    for line in bodies.get(name, ()):
        total += _own_bytes(line)
        factor, called = 1, _called(line)
        loop = WHILE.search(line)
        if loop:
            called = [loop[2]]
            trips = TRIPS.search(line)
            factor = int(trips[1]) if trips else loop_trips
        inner = [_received(one, bodies, loop_trips, known) for one in called]
        if None in inner or (factor is None and sum(inner) > 0):
            known[name] = None
            return None
        total += (factor or 0) * sum(inner)
    known[name] = total
    return total


def _called(line: str) -> list[str]:
    found = CALLED.search(line)
    if found is None:
        return []
    rest = line[found.end() :]
    rest = rest[1 : rest.index("}")] if rest.startswith("{") else rest.split(",")[0]
    return NAMES.findall(rest)


def _own_bytes(line: str) -> float:
    found = COLLECTIVE.search(line)
    if found is None:
        return 0.0
    shapes, kind, is_start = found.groups()
    sizes = [_size(*array) for array in ARRAY.findall(shapes) if array[0] in ITEM_BYTES]
    if is_start and kind in ("all-gather", "reduce-scatter", "all-to-all"):
        # What goes in, then what comes out.
        sizes = sizes[len(sizes) // 2 :]
    if is_start and kind == "collective-permute":
        sizes = sizes[1:2]
    num = _group_size(line)
    share = (num - 1) / num if num else 1.0
    factors = {
        "all-gather": share,
        "all-reduce": 2 * share,
        "reduce-scatter": max(num - 1, 0) if num else 1.0,
        "all-to-all": share,
        "collective-permute": 1.0,
    }
    return factors[kind] * sum(sizes)


def _group_size(line: str) -> int:
    """Chips that take part in a collective operation; 0 where the text does not say."""
    found = GROUP.search(line)
    if found is None:
        return 0
    size, devices, mesh, axes = found.groups()
    if size:
        return int(size)
    if devices:
        return len(devices.split(","))
    sizes = {name: int(size) for name, size, _ in AXIS.findall(mesh)}
    return math.prod(int(part or sizes[name]) for name, _, part in AXIS.findall(axes))


def _size(dtype: str, dims: str) -> float:
    return math.prod(map(int, filter(None, dims.split(",")))) * ITEM_BYTES[dtype]
