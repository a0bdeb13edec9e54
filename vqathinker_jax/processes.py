"""Several processes that work as one: how they join, tell each other facts, and wait.

Facts and waits go through the key-value store of JAX's coordination service, not through the
devices: they work before anything is compiled, wait as long as need be, and say who is missing.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence

import jax

# JAX has no public name for its key-value store, nor for what it knows of launchers.
from jax._src import clusters, distributed

from vqathinker_jax.launchers import is_alone_on_host
from vqathinker_jax.roll_call import Place, RollCallError, call_roll, named

HEARTBEAT_S = 60
"""After so long without a sign of life JAX takes a process for dead and ends the others."""
LONGEST_WAIT_S = 7 * 24 * 3600
"""For the others, who may be hours behind; one that died ends the wait of all."""
LONGEST_SHOWN = 60
"""Characters of a value in a message."""

_calls = itertools.count()
"""Numbers the calls below: all processes make the same ones in the same order."""


class ProcessesError(RuntimeError):
    """Processes that cannot work together; one line for the user, the same in all of them."""


def join(coordinator: str | None, count: int | None, index: int | None, timeout_s: int) -> None:
    """Joins the processes of a run; before anything is computed.

    Under Slurm and Open MPI with several processes on a host each takes one of its devices, as JAX
    does it; else a process has all that it sees. `JAX_LOCAL_DEVICE_IDS` names others.

    Args:
      coordinator: HOST:PORT of process 0.
      count, index: of the processes, and which of them this is. None of the three: JAX finds them
        (Slurm, Open MPI, Kubernetes, Cloud TPU).
      timeout_s: seconds to wait for the last one.

    Raises:
      ProcessesError: nothing was found, or some process did not come.
    """
    # In the terms of JAX an empty list means all devices.
    local = (
        [] if is_alone_on_host(os.environ) and "JAX_LOCAL_DEVICE_IDS" not in os.environ else None
    )
    if coordinator is None:
        coordinator, count, index, local = _found(local, timeout_s)
    try:
        place = Place(coordinator, count, index)
        call_roll(place, timeout_s)
    except (ValueError, RollCallError) as error:
        raise ProcessesError(str(error)) from None
    # Its notice of a preemption would swallow SIGTERM until a run is open, which handles it itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=local,
        initialization_timeout=max(timeout_s, HEARTBEAT_S),
        heartbeat_timeout_seconds=HEARTBEAT_S,
    )


def _found(
    local: Sequence[int] | None, timeout_s: int
) -> tuple[str, int, int, Sequence[int] | None]:
    """What JAX finds of coordinator, count, index and local devices."""
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, local, None, timeout_s
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ProcessesError(f"--distributed: {_first_line(error)}") from None
    if None in found[:3]:
        raise ProcessesError(
            "--distributed: there is no Slurm step, Open MPI, Kubernetes or Cloud TPU here to find "
            "the other processes by; give --coordinator, --processes and --process"
        )
    return found


def _store() -> distributed._jax.DistributedRuntimeClient:
    client = distributed.global_state.client
    if client is None:
        raise ProcessesError(
            f"{jax.process_count()} processes see each other's devices, but have not joined: "
            "--distributed is missing"
        )
    return client


def gather_texts(text: str, what: str) -> list[str]:
    """The texts of all processes, in their order, on every process.

    Args:
      text: of this process; a few kilobytes.
      what: it is, for the message of an error.

    Raises:
      ProcessesError: the others cannot be reached.
    """
    count = jax.process_count()
    if count == 1:
        return [text]
    store, key = _store(), f"vqathinker/{next(_calls)}"
    try:
        store.key_value_set(f"{key}/{jax.process_index()}", text)
        return [
            store.blocking_key_value_get(f"{key}/{index}", LONGEST_WAIT_S * 1000)
            for index in range(count)
        ]
    except jax.errors.JaxRuntimeError as error:
        raise ProcessesError(f"{what}: {_first_line(error)}") from None


def wait_for_all(what: str) -> None:
    """Returns once every process has come here.

    Args:
      what: they are waiting for, for the message of an error.

    Raises:
      ProcessesError: the others cannot be reached.
    """
    if jax.process_count() > 1:
        try:
            _store().wait_at_barrier(f"vqathinker/{next(_calls)}", LONGEST_WAIT_S * 1000)
        except jax.errors.JaxRuntimeError as error:
            raise ProcessesError(f"{what}: {_first_line(error)}") from None


def first_says(answer: Callable[[], bool], what: str) -> bool:
    """What process 0 finds, on every process: they may see a shared folder at different times.

    Args:
      answer: asked on process 0 alone.
      what: is asked, for the message of an error.
    """
    text = str(answer()) if jax.process_index() == 0 else ""
    return gather_texts(text, what)[0] == str(True)


def first_does(action: Callable[[], None], what: str, errors: tuple[type[Exception], ...]) -> None:
    """Lets process 0 do something while the others wait.

    Args:
      action: done by process 0 alone.
      what: it is, for the message of an error.
      errors: kinds that, raised on process 0, are raised on all, with the same message.
    """
    said = ""
    if jax.process_index() == 0:
        try:
            action()
        except errors as error:
            kind = next(n for n, kind in enumerate(errors) if isinstance(error, kind))
            said = f"{kind} {error}"
    outcome = gather_texts(said, what)[0]
    if outcome:
        kind, _, message = outcome.partition(" ")
        raise errors[int(kind)](message)


def require_agreement(facts: Mapping[str, str]) -> None:
    """Checks that all processes have the same facts.

    Args:
      facts: by name.

    Raises:
      ProcessesError: the facts that differ, with the processes that hold each value.
    """
    if jax.process_count() == 1:
        return
    everyone = list(map(json.loads, gather_texts(json.dumps(facts), "comparing")))
    differing = disagreement(everyone)
    if differing:
        raise ProcessesError(f"the processes were not started alike: {'; '.join(differing)}")


def disagreement(everyone: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs between the facts of processes, each as one phrase.

    >>> disagreement([{"seed": "0", "x": "1"}, {"seed": "3", "x": "1"}, {"seed": "3", "x": "1"}])
    ['seed is 0 on process 0, 3 on processes 1 and 2']
    """
    phrases = []
    for name in dict.fromkeys(itertools.chain(*everyone)):
        holders = collections.defaultdict(list)
        for index, facts in enumerate(everyone):
            holders[facts.get(name, "(absent)")].append(index)
        if len(holders) > 1:
            said = (f"{_short(value)} on {named(who)}" for value, who in holders.items())
            phrases.append(f"{name} is {', '.join(said)}")
    return phrases


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_SHOWN else f"{value[: LONGEST_SHOWN - 3]}..."


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
