"""Several processes: every video once, everything gathered."""

import socket
import subprocess
import sys
from pathlib import Path

from vqathinker_jax.evaluation import shards
from vqathinker_jax.evaluation.scored import score_videos
from vqathinker_jax.evaluation.shards import Shard
from vqathinker_jax.results import ScoreResult, file_stamp

PROGRAM = """
import sys, time, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from vqathinker_jax.evaluation.shards import this_process
shard = this_process()
time.sleep(shard.index)
print([shard.gather(text * (shard.index + 1), name) for name, text in (("a", "é\\n"), ("b", ""))])
"""


def test_every_item_once():
    items = list(range(11))
    shares = [Shard(index, 3).share(items) for index in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Shard().file(Path("d/a.jsonl")) == Path("d/a.jsonl")
    assert Shard(1, 3).file(Path("d/a.jsonl")) == Path("d/a.part1of3.jsonl")
    assert Shard().gather("x", "a") == ["x"]


def test_two_processes_gather_the_same():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip().splitlines()[-1] == str([["é\n", "é\né\n"], ["", ""]])


class FakeModel:
    """Scores by name."""

    def settings_fingerprint(self, _) -> str:
        return "abc"

    def score_many(self, paths, _):
        for path in paths:
            size, mtime_ns = file_stamp(path)
            score = float(Path(path).stem)
            yield ScoreResult(path, "ok", score=score, settings="abc", size=size, mtime_ns=mtime_ns)


def test_parts_become_one_file(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.mp4") for number in range(5)]
    for path in paths[:4]:
        Path(path).write_text("x")
    texts = {}

    def gather(self, text, _):
        texts[self.index] = text
        return [texts[index] for index in sorted(texts)]

    monkeypatch.setattr(shards.Shard, "gather", gather)
    output = tmp_path / "out" / "a.jsonl"

    def score(index, seen):
        skipped = []
        made = score_videos(
            FakeModel(), None, paths, output, Shard(index, 2), seen.append, skipped.append
        )
        return made, skipped

    seen = []
    score(1, seen)
    made, _ = score(0, seen)
    assert len(seen) == 4
    assert {Path(path).stem: result.score for path, result in made.items()} == {
        str(number): float(number) for number in range(4)
    }
    assert len(output.read_text().splitlines()) == 4
    again = []
    _, skipped = score(1, again)
    assert not again and skipped == [2]
