"""The rows of a run as scalars for TensorBoard (extra `tensorboard`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqathinker_jax.rl.run_state import TrainingError

GROUPS = ("reward", "spread")
"""Prefixes of keys that share a card in TensorBoard."""


class ScalarWriter:
    """Writes RUN/tensorboard/; a resumed run goes on there.

    A file of events cannot be shortened, so what another attempt wrote after `last_step` stays in
    its own file; the new one says from which step on it counts, and TensorBoard then shows every
    step once.

    Args:
      folder: of the event files.
      last_step: the step that the run goes on from.

    Raises:
      TrainingError: the extra is not installed.
    """

    def __init__(self, folder: Path, last_step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise TrainingError(
                "run.tensorboard needs tensorboardX: pip install 'vqathinker_jax[tensorboard]'"
            ) from None
        # Its files are named after the second: a quick restart must not replace one.
        self._writer = SummaryWriter(
            str(folder), purge_step=last_step + 1, filename_suffix=f".after{last_step}"
        )

    def write(self, row: Mapping[str, Any], group: str) -> None:
        """Adds what is a finite number in a row.

        Args:
          row: with its `step`.
          group: of keys that have no group of their own: `train` or `validation`.
        """
        for tag, value in scalars(row, group):
            self._writer.add_scalar(tag, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Ends the writing."""
        self._writer.close()


def scalars(row: Mapping[str, Any], group: str) -> Iterator[tuple[str, float]]:
    """Tag and value of each number.

    >>> list(scalars({"step": 3, "reward_total": 2.5, "loss": 1, "seconds": {"data": 4}}, "train"))
    [('reward/total', 2.5), ('train/loss', 1.0), ('seconds/data', 4.0)]
    """
    for name, value in row.items():
        head, _, tail = name.partition("_")
        if isinstance(value, Mapping):
            for inner, number in value.items():
                yield f"{name}/{inner}", float(number)
        elif name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
            yield f"{head}/{tail}" if head in GROUPS else f"{group}/{name}", float(value)
