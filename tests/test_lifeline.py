"""How processes end together, told from the side of one with a stand-in for the key-value store."""

import threading
import time

import jax
import pytest
from jax._src import distributed

from vqathinker_jax import lifeline as lifeline_module
from vqathinker_jax.lifeline import PREFIX, Lifeline


class Store:
    """The key-value store of JAX's coordination service."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.is_gone = False

    def key_value_set(self, key, value):
        self._reach()
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        self._reach()
        return [item for item in self.values.items() if item[0].startswith(f"{prefix}/")]

    def _reach(self):
        if self.is_gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")


class Ended(Exception):
    """In place of the end of a process."""


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(distributed.global_state, "client", Store())
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for name, seconds in (("LOOK_S", 0.02), ("OWN_FAILURE_S", 0.1), ("LAST_WAIT_S", 0.3)):
        monkeypatch.setattr(lifeline_module, name, seconds)
    return distributed.global_state.client


@pytest.fixture
def process(store, monkeypatch):
    """Makes the lifeline of a process; `said` and `codes` are what it says and ends with."""

    class Watched(Lifeline):
        def __init__(self, index):
            monkeypatch.setattr(jax, "process_index", lambda: index)
            self.said, self.codes, self.ended = [], [], threading.Event()
            super().__init__(self.said.append)

        def _end(self, code):
            self.codes.append(code)
            self.ended.set()
            if threading.current_thread() is threading.main_thread():
                raise Ended

    made = []

    def make(index):
        made.append(Watched(index))
        return made[-1]

    yield make
    for one in made:
        one.close()


def told(line, code=2):
    return f'{{"line": "{line}", "code": {code}}}'


def test_others_follow_the_one_that_failed_with_its_code(store, process):
    watched = process(2)
    store.values[f"{PREFIX}/1"] = told("disk full")
    assert watched.ended.wait(10)
    assert (watched.said, watched.codes) == (["process 1 failed: disk full"], [2])
    assert f"{PREFIX}/2" in store.values


def test_what_fails_in_all_alike_is_said_by_each_itself(store, process, monkeypatch):
    monkeypatch.setattr(lifeline_module, "OWN_FAILURE_S", 60)
    watched = process(1)
    store.values |= {f"{PREFIX}/0": told("not alike"), f"{PREFIX}/2": told("not alike")}
    with pytest.raises(Ended):
        watched.fail("not alike", 2)
    time.sleep(0.3)
    assert (watched.said, watched.codes) == ([], [2])


def test_the_one_that_is_silent_is_named(store, process):
    watched = process(0)
    store.values[f"{PREFIX}/2"] = told("")
    with pytest.raises(Ended):
        watched.fail_with_others("computing failed", 1)
    assert watched.said == [
        "computing failed", "process 1 ended or hangs, and did not say why"
    ]  # fmt: skip


def test_a_broken_connection_is_put_down_to_who_failed(store, process):
    watched = process(0)
    store.values |= {f"{PREFIX}/1": told("gone wrong"), f"{PREFIX}/2": told("")}
    with pytest.raises(Ended):
        watched.fail_with_others("computing failed", 1)
    assert (watched.said, watched.codes) == (["process 1 failed: gone wrong"], [2])


def test_without_process_0_the_others_end(store, process):
    watched = process(2)
    store.is_gone = True
    assert watched.ended.wait(10)
    assert watched.codes == [1] and "process 0" in watched.said[0]


def test_a_run_that_went_well_is_left_alone(store, process):
    watched = process(1)
    watched.close()
    store.values[f"{PREFIX}/0"] = told("too late")
    assert not watched.ended.wait(0.3)
