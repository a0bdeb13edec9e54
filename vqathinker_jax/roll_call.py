"""The roll call: before JAX connects the processes of a run, each one says that it is there.

JAX's own start waits for all processes too, but one that never comes makes it abort the others, and
it does not say which one it was. The roll call does: process 0 listens at the address that JAX will
use, the others tell it their number, and once all have come, or time is up, all hear the same.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Sequence

LONGEST_LINE = 4096
"""Bytes of a message at most."""
ANSWER_S = 5.0
"""For a message to arrive, once a connection is open."""
RETRY_S = 0.2


class RollCallError(RuntimeError):
    """Not all processes came; one line that says which."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run.

    Raises:
      ValueError: a number of processes below 1, a place outside it, or no HOST:PORT.
    """

    coordinator: str
    """HOST:PORT of process 0."""
    count: int
    """Processes of the run."""
    index: int
    """This one, from 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"process {self.index} is none of {self.count}")
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"a coordinator is HOST:PORT, got {self.coordinator!r}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of process 0."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def call_roll(place: Place, timeout_s: float) -> None:
    """Returns once all processes have come.

    Args:
      place: of this process.
      timeout_s: to wait for the last one.

    Raises:
      RollCallError: some did not come, two have one number, or they were told different counts.
    """
    if place.count == 1:
        return
    if place.index == 0:
        _hear(place, timeout_s)
    else:
        _answer(place, timeout_s)


def _hear(place: Place, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    port = place.address[1]
    # The same choice as JAX makes: all addresses of this host.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    is_dual = family == socket.AF_INET6
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=is_dual)
    except OSError as error:
        raise RollCallError(
            f"process 0 cannot listen at port {port} ({error.strerror}); name another with "
            "--coordinator, or JAX_COORDINATOR_PORT"
        ) from None
    heard: dict[int, socket.socket] = {}
    error = ""
    with server:
        try:
            while not error and len(heard) < place.count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    peer = server.accept()[0]
                except TimeoutError:
                    error = _missing(place, heard, timeout_s)
                else:
                    error = _register(place, heard, peer)
        finally:
            for peer in heard.values():
                _send(peer, {"error": error})
                peer.close()
    if error:
        raise RollCallError(error)


def _register(place: Place, heard: dict[int, socket.socket], peer: socket.socket) -> str:
    """Hears one process; gives what is wrong with it, or nothing."""
    said = _receive(peer)
    if said is None or not {"process", "count"} <= said.keys():
        peer.close()  # somebody else at our port
        return ""
    index, count = said["process"], said["count"]
    if count != place.count:
        error = f"process 0 was told of {place.count} processes, and process {index} of {count}"
    elif index in heard or index == 0:
        error = f"two processes both say that they are process {index}"
    else:
        heard[index] = peer
        return ""
    _send(peer, {"error": error})
    peer.close()
    return error


def _missing(place: Place, heard: Sequence[int], timeout_s: float) -> str:
    absent = [index for index in range(1, place.count) if index not in heard]
    return f"{named(absent)} of {place.count} did not come within {timeout_s:g} s"


def _answer(place: Place, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    host, port = place.address
    reason = "nobody listens there"
    while True:
        try:
            with socket.create_connection((host, port), timeout=ANSWER_S) as peer:
                _send(peer, {"process": place.index, "count": place.count})
                # Process 0 gives up at its own time, which may have begun later than ours.
                peer.settimeout(timeout_s + ANSWER_S)
                said = _receive(peer, timeout_s + ANSWER_S)
            if said is not None and "error" in said:
                break
            reason = "it hung up"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise RollCallError(
                f"process 0 did not answer at {host}:{port} within {timeout_s:g} s ({reason})"
            )
        time.sleep(RETRY_S)
    if said["error"]:
        raise RollCallError(said["error"])


def _send(peer: socket.socket, message: dict) -> None:
    try:
        peer.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it is gone, and JAX's own start will say so


def _receive(peer: socket.socket, timeout_s: float = ANSWER_S) -> dict | None:
    """One message; None for anything else."""
    deadline, data = time.monotonic() + timeout_s, b""
    try:
        while not data.endswith(b"\n") and len(data) < LONGEST_LINE:
            peer.settimeout(max(deadline - time.monotonic(), 0.001))
            part = peer.recv(LONGEST_LINE)
            if not part:
                return None
            data += part
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def named(processes: Sequence[int]) -> str:
    """Processes in words.

    >>> named([3]), named([1, 2, 5])
    ('process 3', 'processes 1, 2 and 5')
    """
    if len(processes) == 1:
        return f"process {processes[0]}"
    *most, last = map(str, processes)
    return f"processes {', '.join(most)} and {last}"
