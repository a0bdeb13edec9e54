"""Timing two ways of doing one thing, and reporting the outcome; shared by every benchmark here."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

THREADS = 2
"""Threads given to both sides: `torch.set_num_threads(THREADS)`, and `pin_cores` for XLA."""


class Timing(NamedTuple):
    """Median wall time in seconds of each of two calls, and how much faster the first one is."""

    ours: float
    theirs: float
    ratio: float
    """`theirs / ours`, the median over the rounds: above 1, ours is faster."""
    spread: tuple[float, float]
    """Lowest and highest `theirs / ours` of a single round."""


def pin_cores(count: int = THREADS) -> None:
    """Limits this process to `count` cores; call it before jax is first used.

    XLA sizes its CPU thread pool by the cores the process may run on, so this is what gives it the
    same number of threads as torch.

    Raises:
      RuntimeError: fewer cores are available than asked for.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise RuntimeError(f"{count} cores wanted, {len(cores)} available")
    os.sched_setaffinity(0, cores[:count])


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call, which must itself wait for its result (`block_until_ready`)."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, warmup: int = 1
) -> Timing:
    """Times two calls in turn, swapping their order each round so that drift hits both alike.

    Args:
      ours, theirs: calls that wait for their own result.
      repeats: timed rounds; each round runs both once.
      warmup: untimed rounds first (compilation, allocation).

    Raises:
      ValueError: no timed round.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be >= 1, got {repeats}")
    for _ in range(warmup):
        ours()
        theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for round_index in range(repeats):
        order = ((0, ours), (1, theirs))
        for side, call in order if round_index % 2 == 0 else order[::-1]:
            times[side].append(seconds(call))
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return Timing(
        ours=statistics.median(times[0]),
        theirs=statistics.median(times[1]),
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
    )


def report(id: str, measure: str, against: str, ratio: float, aim: float, **details) -> None:
    """Prints one line for people and one JSON line for machines.

    Args:
      id: row of the benchmark table, such as `C1`.
      measure: what was timed.
      against: what it was timed against.
      ratio: how many times better ours is (or the measured figure itself; say so in `measure`).
      aim: the least ratio that counts as reached.
      details: JSON values kept in the record (shapes, seconds, versions).
    """
    reached = bool(ratio >= aim)
    verdict = "reached" if reached else "missed"
    print(f"{id}: {measure} against {against}: {ratio:.2f}x (aim {aim:g}x, {verdict})", flush=True)
    record = {
        "id": id,
        "measure": measure,
        "against": against,
        "ratio": round(ratio, 4),
        "aim": aim,
        "reached": reached,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        **details,
    }
    print(json.dumps(record), flush=True)
