"""One video at a time: the queue, the thread that judges, and what each job has said."""

from __future__ import annotations

import collections
import contextlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vqathinker_jax.app.events import describe
from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.uploads import Refused, Uploads
from vqathinker_jax.scoring import StreamEvent

Judge = Callable[[str], Iterator[StreamEvent]]
"""Judges a file and tells what happens: `VideoQualityModel.stream` with its settings."""
WAITING, RUNNING, OVER = "waiting", "running", "over"
GRACE_S = 10.0
"""Seconds that a job has to end once the page is closed down."""


class Job:
    """One upload on its way through the queue. `Desk` alone changes it, under its lock."""

    def __init__(self, name: str, path: Path):
        self.id = secrets.token_urlsafe(16)
        self.name = name
        self.path = path
        self.state = WAITING
        self.is_cancelled = False
        self.events: list[tuple[str, dict[str, Any]]] = []
        """(kind, facts), only ever added to; the last one is `result` or `failed`."""


class Desk:
    """Takes uploads in, has them judged one after another, and deletes each when it is done with.

    Args:
      judge: of one file; called in one thread, one file at a time.
      uploads: where they are.
      limits: of the page.
    """

    def __init__(self, judge: Judge, uploads: Uploads, limits: Limits):
        self._judge, self._uploads, self._limits = judge, uploads, limits
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._jobs: dict[str, Job] = {}
        self._num_coming = 0
        self.is_closed = False
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place in the queue while an upload comes in.

        Raises:
          Refused: there is none.
        """
        with self._changed:
            if len(self._waiting) + self._num_coming >= self._limits.waiting:
                raise Refused(503, f"{self._limits.waiting} videos are waiting already; try later")
            self._num_coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_coming -= 1

    def add(self, name: str, path: Path) -> Job:
        """Queues an upload, which is the desk's from now on.

        Args:
          name: on the page.
          path: of the upload.
        """
        job = Job(name, path)
        with self._changed:
            if self.is_closed:
                self._uploads.delete(path)
                raise Refused(503, "the page is closing down")
            self._jobs[job.id] = job
            self._forget_old()
            self._waiting.append(job)
            self._say_places()
        return job

    def find(self, job_id: str) -> Job:
        """The job of an id; raises Refused where there is none, or no more."""
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None:
            raise Refused(404, "there is no such job, or it was long ago")
        return job

    def cancel(self, job_id: str) -> None:
        """Takes a job out of the queue, or stops it once the model has said something more."""
        job = self.find(job_id)
        with self._changed:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._uploads.delete(job.path)
                self._end(job, "failed", {"reason": "stopped"})
                self._say_places()

    def counts(self) -> dict[str, int]:
        """How many are being judged, and how many wait."""
        with self._changed:
            return {"running": int(self._running is not None), "waiting": len(self._waiting)}

    def news(self, job: Job, seen: int, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """What a job has said beyond the first `seen` events; waits up to `seconds` for something.

        Empty where nothing came, or nothing will come any more.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(job.events) > seen or job.state == OVER or self.is_closed, seconds
            )
            return job.events[seen:]

    def close(self) -> None:
        """Stops what is going on; uploads of jobs that never ran are deleted."""
        with self._changed:
            self.is_closed = True
            for job in self._waiting:
                self._uploads.delete(job.path)
                self._end(job, "failed", {"reason": "the page was closed down"})
            self._waiting.clear()
            if self._running is not None:
                self._running.is_cancelled = True
            self._changed.notify_all()
        self._thread.join(GRACE_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.is_closed)
                if self.is_closed:
                    return
                job = self._running = self._waiting.popleft()
                job.state = RUNNING
                self._say(job, "started", {})
                self._say_places()
            try:
                kind, facts = self._run(job)
            except Exception as error:
                # Whatever went wrong with one video, the next ones are judged.
                print(f"{job.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                kind, facts = "failed", {"reason": "judging it failed; the terminal says why"}
            finally:
                self._uploads.delete(job.path)
            with self._changed:
                self._running = None
                self._end(job, kind, facts)

    def _run(self, job: Job) -> tuple[str, dict[str, Any]]:
        """Judges one file; gives back its last event."""
        begin = time.monotonic()
        path = str(job.path)
        with contextlib.closing(self._judge(path)) as events:
            for event in events:
                facts = describe(event, path, job.name)
                seconds = time.monotonic() - begin
                if event.kind == "result":
                    return "result", {**facts, "seconds": round(seconds, 1)}
                if job.is_cancelled:
                    return "failed", {"reason": "stopped"}
                if seconds > self._limits.job_s:
                    reason = f"it took longer than {self._limits.job_s:g} s and was stopped"
                    return "failed", {"reason": reason}
                with self._changed:
                    self._say(job, event.kind, facts)
        raise RuntimeError("judging ended without a result")

    def _say(self, job: Job, kind: str, facts: dict[str, Any]) -> None:
        job.events.append((kind, facts))
        self._changed.notify_all()

    def _say_places(self) -> None:
        for place, job in enumerate(self._waiting):
            ahead = place + int(self._running is not None)
            self._say(job, "queue", {"ahead": ahead})

    def _end(self, job: Job, kind: str, facts: dict[str, Any]) -> None:
        job.state = OVER
        self._say(job, kind, facts)

    def _forget_old(self) -> None:
        over = [job for job in self._jobs.values() if job.state == OVER]
        for job in over[: max(0, len(over) - self._limits.kept)]:
            del self._jobs[job.id]
