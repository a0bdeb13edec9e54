"""Which part of the work this process does, when several hosts evaluate together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vqathinker_jax.processes import wait_for_all

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One process of several. Each takes every `count`-th item; process 0 gathers."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process gathers and speaks."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """What this process does of the work."""
        return list(items[self.index :: self.count])

    def file(self, path: Path) -> Path:
        """Where this process writes: the file itself when alone, else a part beside it."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}.part{self.index}of{self.count}{path.suffix}")

    def gather(self, text: str, name: str) -> list[str]:
        """The texts of all processes, in their order, on every process.

        They travel over the network that JAX has set up, so that no folder need be shared.

        Args:
          text: of this process.
          name: of what is gathered; each is gathered once.
        """
        if self.count == 1:
            return [text]
        # The others may be hours behind. Collectives give up sooner than this barrier, so none
        # begins before all are here.
        wait_for_all(f"gathering {name}")
        data = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
        padded = np.zeros(max(1, int(lengths.max())), np.uint8)
        padded[: len(data)] = data
        rows = multihost_utils.process_allgather(padded).reshape(self.count, -1)
        return [
            row[:length].tobytes().decode("utf-8", "surrogateescape")
            for row, length in zip(np.asarray(rows), lengths, strict=True)
        ]


def this_process() -> Shard:
    """The share of this process, as `jax.distributed` numbers it."""
    return Shard(jax.process_index(), jax.process_count())
