"""Processes that tell each other that they are there."""

import socket
import threading
import time

import pytest

from tests.launched import free_port
from vqathinker_jax.roll_call import Place, RollCallError, call_roll, named


def call_together(places, timeout_s=20.0, pause_s=0.0):
    """What each place ends with: None, or the message of its error."""
    outcomes = {}

    def call(number, place):
        try:
            outcomes[number] = call_roll(place, timeout_s)
        except RollCallError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=call, args=item) for item in enumerate(places)]
    for thread in threads:
        thread.start()
        time.sleep(pause_s)
    for thread in threads:
        thread.join()
    return [outcomes[number] for number in range(len(places))]


@pytest.fixture
def address():
    return f"localhost:{free_port()}"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_on_once_all_have_come(address, order):
    places = [Place(address, 3, index) for index in order]
    assert call_together(places, pause_s=0.1) == [None] * 3
    # The port is free again, for JAX.
    with socket.create_server(("", int(address.rpartition(":")[2]))):
        pass


def test_those_that_do_not_come_are_named_by_all_that_did(address):
    said = "processes 1 and 3 of 4 did not come within 0.5 s"
    assert call_together([Place(address, 4, 0), Place(address, 4, 2)], 0.5) == [said] * 2
    (alone,) = call_together([Place(address, 2, 1)], 0.5)
    assert alone.startswith(f"process 0 did not answer at {address} within 0.5 s (")


def test_what_does_not_fit_together_is_refused(address):
    twice = [Place(address, 3, 0), Place(address, 3, 1), Place(address, 3, 1)]
    assert call_together(twice) == ["two processes both say that they are process 1"] * 3
    differing = [Place(address, 3, 0), Place(address, 2, 1)]
    assert call_together(differing) == [
        "process 0 was told of 3 processes, and process 1 of 2"
    ] * 2  # fmt: skip


def test_strangers_at_the_port_are_ignored(address):
    port = int(address.rpartition(":")[2])
    outcome = []
    first = threading.Thread(target=lambda: outcome.append(call_roll(Place(address, 2, 0), 20)))
    first.start()
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\n")
            break
        except OSError:
            assert time.monotonic() < deadline
    call_roll(Place(address, 2, 1), 20)
    first.join()
    assert outcome == [None]


def test_a_port_in_use_is_named(address):
    port = int(address.rpartition(":")[2])
    with socket.create_server(("", port)):
        with pytest.raises(RollCallError, match=f"cannot listen at port {port} "):
            call_roll(Place(address, 2, 0), 1)


@pytest.mark.parametrize(
    "coordinator, count, index", [("host", 2, 0), ("host:0", 2, 0), ("host:1", 2, 2), (":80", 1, 0)]
)
def test_places_that_are_none_are_refused(coordinator, count, index):
    with pytest.raises(ValueError):
        Place(coordinator, count, index)
    assert named([0, 4]) == "processes 0 and 4"
