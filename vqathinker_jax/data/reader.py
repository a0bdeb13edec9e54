"""Where the images of a clip come from: the cache, processes that decode, or this process."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from vqathinker_jax.data.cache import FrameCache
from vqathinker_jax.data.clip import FrameRequest, Limits, VideoError
from vqathinker_jax.data.pool import DecodePool
from vqathinker_jax.data.video import read_clip
from vqathinker_jax.spec import VideoSpec


class FrameReader:
    """Reads the images of clips, for callers that need nothing else of them.

    Args:
      spec: the geometry.
      decoder: as for `read_clip`.
      num_workers: decoding processes, started when they are first needed; 0: decode here.
      timeout_s: seconds that decoding one clip may take.
      cache: folder of a `FrameCache`; None: decode every time.

    Raises:
      CacheError: the folder of the cache cannot be written to.
    """

    def __init__(
        self,
        spec: VideoSpec,
        *,
        decoder: str = "pyav",
        num_workers: int = 4,
        timeout_s: float = 120.0,
        cache: str | None = None,
    ):
        self._request = request = FrameRequest.of(spec)
        self._decoder = decoder
        self._limits = Limits(seconds=timeout_s)
        self._num_threads = max(1, num_workers)
        self._cache = None
        if cache is not None:
            self._cache = FrameCache(cache, request, decoder, self._decode)
        self._pool = None
        if num_workers:
            self._pool = DecodePool(num_workers, request, decoder=decoder, timeout_s=timeout_s)

    def read(self, path: str) -> UInt8[np.ndarray, "I S S 3"]:
        """The images of a clip; may be called from several threads.

        Raises:
          VideoError: it cannot be read.
        """
        return self._decode(path) if self._cache is None else self._cache.read(path)

    def read_ahead(
        self, paths: Iterable[str], ahead: int = 0
    ) -> Iterator[UInt8[np.ndarray, "I S S 3"] | VideoError]:
        """The images of each clip, or why there are none, in order.

        Args:
          paths: of the clips.
          ahead: clips that may wait to be taken, beside those that are being read.
        """
        ahead += self._num_threads
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="read") as threads:
            waiting = collections.deque()
            try:
                for path in paths:
                    waiting.append(threads.submit(self._try, path))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def close(self) -> None:
        """Ends the decoding processes, whatever they are at."""
        if self._pool is not None:
            self._pool.close(cancel=True)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _try(self, path: str) -> UInt8[np.ndarray, "I S S 3"] | VideoError:
        try:
            return self.read(path)
        except VideoError as error:
            return error

    def _decode(self, path: str) -> UInt8[np.ndarray, "I S S 3"]:
        if self._pool is not None:
            return self._pool.submit(path).result().frames
        return read_clip(path, self._request, decoder=self._decoder, limits=self._limits).frames
