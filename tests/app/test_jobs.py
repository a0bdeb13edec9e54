"""The desk: one at a time, in order, and every upload deleted whatever happens."""

import threading
import time

import pytest

from vqathinker_jax.app.jobs import OVER, Desk
from vqathinker_jax.app.limits import Limits
from vqathinker_jax.app.uploads import Refused, Uploads
from vqathinker_jax.results import ScoreResult
from vqathinker_jax.scoring import StreamEvent


class Office:
    """A desk with its uploads."""

    def __init__(self, judge, **limits):
        self.limits = Limits(**limits)
        self.uploads = Uploads(self.limits)
        self.desk = Desk(judge, self.uploads, self.limits)

    def bring(self, name: str):
        path = self.uploads.folder / name
        path.write_bytes(b"x")
        return self.desk.add(name, path)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.uploads.folder.iterdir())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.close()
        self.uploads.close()


def finish(desk: Desk, job) -> list[tuple[str, dict]]:
    """All events of a job, once it is over."""
    end = time.monotonic() + 10
    while job.state != OVER:
        assert time.monotonic() < end
        desk.news(job, len(job.events), 1.0)
    return list(job.events)


def good(path):
    yield StreamEvent("text", text="so")
    yield StreamEvent("result", result=ScoreResult(path, "ok", score=3.0))


def test_jobs_run_one_at_a_time_in_order_and_see_their_place():
    gate, running, most, order = threading.Event(), [], [], []

    def judge(path):
        running.append(path)
        most.append(len(running))
        order.append(path.rpartition("/")[2])
        try:
            gate.wait(10)
            yield from good(path)
        finally:
            running.remove(path)

    with Office(judge) as office:
        jobs = [office.bring(name) for name in "abc"]
        while office.desk.counts() != {"running": 1, "waiting": 2}:
            time.sleep(0.01)
        assert [facts for kind, facts in jobs[2].events if kind == "queue"][-1] == {"ahead": 2}
        gate.set()
        said = [finish(office.desk, job) for job in jobs]
        assert order == ["a", "b", "c"] and max(most) == 1
        for events in said:
            kinds = [kind for kind, _ in events if kind != "queue"]
            assert kinds == ["started", "text", "result"]
            assert events[-1][1]["score"] == 3.0 and events[-1][1]["seconds"] >= 0
        assert [facts["ahead"] for kind, facts in said[2] if kind == "queue"][-1] <= 1
        assert office.left() == []
        assert office.desk.counts() == {"running": 0, "waiting": 0}


def test_an_upload_is_there_while_it_is_judged_and_gone_with_the_result():
    seen = []

    def judge(path):
        seen.append(open(path, "rb").read())
        yield from good(path)

    with Office(judge) as office:
        finish(office.desk, office.bring("a"))
        assert seen == [b"x"] and office.left() == []


def test_a_failure_deletes_the_upload_and_the_next_one_is_judged(capsys):
    def judge(path):
        if path.endswith("bad"):
            raise RuntimeError("out of memory")
        if path.endswith("silent"):
            yield StreamEvent("text", text="...")
            return
        yield from good(path)

    with Office(judge) as office:
        bad, silent, fine = (office.bring(name) for name in ("bad", "silent", "fine"))
        assert finish(office.desk, bad)[-1] == (
            "failed",
            {"reason": "judging it failed; the terminal says why"},
        )
        assert finish(office.desk, silent)[-1][0] == "failed"
        assert finish(office.desk, fine)[-1][0] == "result"
        assert office.left() == []
    assert "bad: RuntimeError: out of memory" in capsys.readouterr().err


def test_a_job_that_takes_too_long_is_stopped():
    closed = []

    def judge(path):
        try:
            while True:
                time.sleep(0.02)
                yield StreamEvent("text", text="and on")
        finally:
            closed.append(path)

    with Office(judge, job_s=0.1) as office:
        assert "longer than 0.1 s" in finish(office.desk, office.bring("a"))[-1][1]["reason"]
        assert len(closed) == 1 and office.left() == []


def test_jobs_are_stopped_waiting_or_running():
    gate = threading.Event()

    def judge(path):
        gate.wait(10)
        yield StreamEvent("text", text="1")
        yield from good(path)

    with Office(judge) as office:
        running, waiting = office.bring("a"), office.bring("b")
        while running.state != "running":
            time.sleep(0.01)
        office.desk.cancel(waiting.id)
        assert waiting.events[-1] == ("failed", {"reason": "stopped"})
        assert office.left() == ["a"]
        office.desk.cancel(running.id)
        gate.set()
        assert finish(office.desk, running)[-1] == ("failed", {"reason": "stopped"})
        assert office.left() == []


def test_the_queue_is_bounded_and_old_jobs_are_forgotten():
    gate = threading.Event()

    def judge(path):
        gate.wait(10)
        yield from good(path)

    with Office(judge, waiting=2, kept=1) as office:
        first = office.bring("a")
        while first.state != "running":
            time.sleep(0.01)
        office.bring("b")
        with office.desk.place():
            with (
                pytest.raises(Refused, match="2 videos are waiting") as caught,
                office.desk.place(),
            ):
                pass
        assert caught.value.status == 503
        with office.desk.place():
            pass
        gate.set()
        last = office.bring("c")
        finish(office.desk, last)
        finish(office.desk, office.bring("d"))
        with pytest.raises(Refused, match="no such job"):
            office.desk.find(first.id)


def test_closing_ends_everything_and_leaves_nothing():
    gate = threading.Event()

    def judge(path):
        yield StreamEvent("text", text="1")
        gate.wait(10)
        yield StreamEvent("text", text="2")

    office = Office(judge)
    running, waiting = office.bring("a"), office.bring("b")
    while len(running.events) < 2:
        time.sleep(0.01)
    threading.Timer(0.1, gate.set).start()
    office.desk.close()
    assert waiting.events[-1][1]["reason"] == "the page was closed down"
    assert running.state == OVER and office.left() == []
    with pytest.raises(Refused, match="closing down"):
        office.bring("c")
    assert office.left() == []
    office.uploads.close()
