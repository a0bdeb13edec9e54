"""Decoding in processes of their own: ahead of need, and safe from hangs, crashes and greed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from vqathinker_jax.data.clip import Clip, FrameRequest, Limits, VideoError
from vqathinker_jax.data.worker import Job, WorkerGone, read_reply, write_job

WORKER = (sys.executable, "-m", "vqathinker_jax.data.worker")
"""Command line of a worker; the bytes of memory it may use are appended to it."""
DEFAULT_MEMORY_BYTES = 4 * 2**30
GRACE_S = 5.0
"""Seconds that a worker has, beyond a clip's own time limit, to start and to say so itself."""


class DecodePool:
    """Worker processes that decode files while the caller does something else.

    A worker that hangs past the time limit, dies or runs out of memory is replaced; its file gets a
    VideoError and no other file is affected. Workers are plain `python -m` processes: unlike
    multiprocessing's they do not run the caller's main script again, and they never import jax.

    >>> with DecodePool(2, FrameRequest(12, 560)) as pool:  # doctest: +SKIP
    ...     futures = [pool.submit(path) for path in paths]
    ...     clips = [future.result() for future in futures]

    Args:
      num_workers: processes, each decoding one file at a time on one core.
      request, decoder: as for `read_clip`, for every file.
      timeout_s: seconds one file may take.
      memory_bytes: address space of one process (Linux only); 0 for no limit.
      command: how to start a worker, for tests.

    Raises:
      ValueError: a count or time that is not positive.
    """

    def __init__(
        self,
        num_workers: int,
        request: FrameRequest,
        *,
        decoder: str = "pyav",
        timeout_s: float = 120.0,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        command: Sequence[str] = WORKER,
    ):
        if num_workers < 1 or memory_bytes < 0:
            raise ValueError(f"num_workers={num_workers}, memory_bytes={memory_bytes}: too few")
        self._request = request
        self._decoder = decoder
        self._limits = Limits(seconds=timeout_s, threads=1)
        self._command = (*command, str(memory_bytes))
        self._own = threading.local()
        self._workers: set[_Worker] = set()
        self._is_cancelled = False
        self._lock = threading.Lock()
        # Each thread owns one worker, and waits for it.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def submit(self, path: os.PathLike | str, request: FrameRequest | None = None) -> Future[Clip]:
        """Queues a file; the future's result is its clip, or it raises the VideoError there is.

        Args:
          path: of the file.
          request: for this file alone, instead of the pool's.
        """
        job = Job(os.fsdecode(path), request or self._request, self._decoder, self._limits)
        return self._threads.submit(self._decode, job)

    def close(self, cancel: bool = False) -> None:
        """Waits for what was submitted, or cancels what has not begun, and ends the workers."""
        if cancel:
            self._threads.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                self._is_cancelled = True
                for worker in self._workers:
                    worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def _decode(self, job: Job) -> Clip:
        worker = self._own.__dict__.get("worker")
        if worker is None:
            with self._lock:
                if self._is_cancelled:
                    raise VideoError.of(job.path, "decoding was called off")
                worker = self._own.worker = _Worker(self._command)
                self._workers.add(worker)
        try:
            reply = worker.ask(job, self._limits.seconds + GRACE_S)
        except WorkerGone:
            reason = worker.why_gone(self._limits.seconds)
            with self._lock:
                self._workers.discard(worker)
            del self._own.worker
            worker.close()
            raise VideoError.of(job.path, reason) from None
        if isinstance(reply, str):
            raise VideoError(reply)
        return reply


def read_clip_bounded(
    path: os.PathLike | str,
    request: FrameRequest,
    *,
    decoder: str = "pyav",
    timeout_s: float = 120.0,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    command: Sequence[str] = WORKER,
) -> Clip:
    """Reads one clip in a process of its own, which is killed when it hangs.

    Args and result as for `read_clip` and `DecodePool`.

    Raises:
      VideoError: the file cannot be scored, or decoding it takes too long or too much memory.
    """
    with DecodePool(
        1,
        request,
        decoder=decoder,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        command=command,
    ) as pool:
        return pool.submit(path).result()


class _Worker:
    """One worker process."""

    def __init__(self, command: Sequence[str]):
        # The worker must find this package wherever we found it.
        paths = [path or os.getcwd() for path in sys.path]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # Its buffers for many cores would count against the memory limit.
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._is_late = False

    def ask(self, job: Job, seconds: float) -> Clip | str:
        """Sends a job and waits for the answer.

        Raises:
          WorkerGone: the process died, or was killed because it took too long.
        """
        timer = threading.Timer(seconds, self._give_up)
        timer.start()
        try:
            write_job(self._process.stdin, job)
            return read_reply(self._process.stdout)
        except (OSError, ValueError):
            raise WorkerGone from None
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._is_late = True
        self.kill()

    def kill(self) -> None:
        self._process.kill()

    def why_gone(self, seconds: float) -> str:
        """What to tell the user about a process that did not answer."""
        code = self._process.wait()
        if self._is_late:
            return f"decoding took longer than {seconds:g} s"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder crashed or ran out of memory ({how})"

    def close(self) -> None:
        """Lets the process end by closing its input; kills it if it does not."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                # Half a job was still in the buffer when the process died.
                continue
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
