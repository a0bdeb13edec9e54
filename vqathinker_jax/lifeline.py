"""All processes of a run end when one of them fails, and say which one it was."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

import jax
from jax._src import distributed

from vqathinker_jax.roll_call import named

PREFIX = "vqathinker/ended"
LOOK_S = 1.0
"""Between two looks at whether another process has failed."""
OWN_FAILURE_S = 5.0
"""What fails in all processes alike is said by each itself, which may take one a moment longer."""
LAST_WAIT_S = 15.0
"""A process that failed waits so long for the others to notice: had it left, their connections to
it would break first, and they could not say why."""
LEAD_S = 2.0
"""Process 0 leaves so much later than the others: JAX aborts whoever is still there without it."""


class Lifeline:
    """Watches the other processes from a thread, and tells them when this one fails.

    A process that is killed cannot tell. Where connections to it break, the others name the one
    that is silent; else JAX ends them, once it has had no heartbeat for `processes.HEARTBEAT_S`.

    Args:
      say: prints one line for the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._index, self._count = jax.process_index(), jax.process_count()
        self._store = distributed.global_state.client
        self._is_over = threading.Event()
        if self._count > 1:
            threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def close(self) -> None:
        """Ends the watch: all went well here."""
        self._is_over.set()

    def fail(self, line: str, code: int) -> None:
        """Tells the others that this process failed, and ends it.

        Args:
          line: what went wrong; this process has said it already.
          code: exit code.
        """
        self._is_over.set()
        if self._count > 1:
            self._tell(line, code)
            silent = self._silent()
            if silent:
                self._say(f"{named(silent)} ended or hangs, and did not say why")
        self._end(code)

    def fail_with_others(self, line: str, code: int) -> None:
        """As `fail`, after an error in what is computed together: another process may be the cause.

        Args:
          line, code: what to say and end with where no other process says more.
        """
        self._is_over.set()
        deadline = time.monotonic() + OWN_FAILURE_S
        while self._count > 1 and time.monotonic() < deadline:
            try:
                ended = self._ended()
            except jax.errors.JaxRuntimeError:
                break
            if any(said["line"] for said in ended.values()):
                self._follow(ended)
            time.sleep(LOOK_S / 4)
        self._say(line)
        self.fail(line, code)

    def _tell(self, line: str, code: int) -> None:
        message = json.dumps({"line": line, "code": code})
        try:
            self._store.key_value_set(f"{PREFIX}/{self._index}", message)
        except jax.errors.JaxRuntimeError:
            pass  # nobody is left to be told

    def _ended(self) -> dict[int, dict]:
        """What the processes that have ended said, by process."""
        found = self._store.key_value_dir_get(PREFIX)
        return {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}

    def _silent(self) -> list[int]:
        """Processes that do not end with the others."""
        deadline = time.monotonic() + LAST_WAIT_S
        ended: set[int] = {self._index}
        while len(ended) < self._count and time.monotonic() < deadline:
            try:
                ended |= self._ended().keys()
            except jax.errors.JaxRuntimeError:
                # Process 0 leaves last, once it has told why; else it died.
                return [] if 0 in ended else [0]
            time.sleep(LOOK_S / 4)
        if self._index == 0:
            time.sleep(LEAD_S)
        return [index for index in range(self._count) if index not in ended]

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_S):
            try:
                ended = self._ended()
            except jax.errors.JaxRuntimeError:
                if not self._is_over.wait(OWN_FAILURE_S):
                    self._say("process 0, which connects the others, cannot be reached any more")
                    self._end(1)
                return
            if ended:
                if not self._is_over.wait(OWN_FAILURE_S):
                    self._follow(ended)
                return

    def _follow(self, ended: dict[int, dict]) -> None:
        """Ends this process after another one."""
        first = min(ended, key=lambda index: (not ended[index]["line"], index))
        code = ended[first]["code"]
        self._tell("", code)
        self._say(f"process {first} failed: {ended[first]['line']}")
        if self._index == 0:
            self._silent()  # what the others read is kept by this process
        self._end(code)

    def _end(self, code: int) -> None:
        # Not by way of Python's exit, where JAX would wait for the others for minutes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
