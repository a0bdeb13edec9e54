"""The order of training videos in which those of one content follow each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

ORDER_STREAM = 4
"""Keeps these draws apart from others of the same seed."""


class ContentOrder:
    """An endless order of N videos, a function of its arguments alone.

    Every epoch has each video once: contents in a new order, and the videos of each in a new order.

    >>> order = ContentOrder(["a", "b", "a", None], seed=0)
    >>> sorted(order[place] for place in range(4))
    [0, 1, 2, 3]

    Args:
      contents: of every video; one without any is a content of its own.
      seed: root of the order, 0 <= seed < 2**32.
    """

    def __init__(self, contents: Sequence[str | None], seed: int):
        numbers: dict[str | int, int] = {}
        keys = [i if content is None else content for i, content in enumerate(contents)]
        self._numbers = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        self._seed = seed
        # Places are read by several threads, the last ones of an epoch with the first of the next.
        self._epoch = functools.lru_cache(maxsize=2)(self._draw)

    def __getitem__(self, place: int) -> int:
        """The index of the video at a place, counted on over the epochs."""
        epoch, place = divmod(place, len(self._numbers))
        return int(self._epoch(epoch)[place])

    def _draw(self, epoch: int) -> Int64[np.ndarray, "N"]:
        # A seed sequence, unlike the methods of a generator, gives the same words in every release.
        words = np.random.SeedSequence((self._seed, ORDER_STREAM, epoch))
        of_contents, of_videos = words.generate_state(2 * len(self._numbers), np.uint64).reshape(
            2, -1
        )
        return np.lexsort((of_videos, of_contents[self._numbers]))
