"""Event files of TensorBoard, read back record by record."""

import builtins
import struct

import pytest

from vqathinker_jax.rl.run_state import TrainingError
from vqathinker_jax.rl.scalars import ScalarWriter, scalars


def events(folder) -> list:
    """The events of all files of a folder, the oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            # A record: length, its checksum, the event, its checksum.
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def shown(folder) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: a start of a session takes back the steps from its own on."""
    curves: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == 1:
            curves = {
                tag: {step: value for step, value in curve.items() if step < event.step}
                for tag, curve in curves.items()
            }
        for value in event.summary.value:
            assert event.step not in curves.setdefault(value.tag, {})
            curves[value.tag][event.step] = value.simple_value
    return curves


def test_a_resumed_run_has_every_step_once(tmp_path):
    first = ScalarWriter(tmp_path / "run", 0)
    for step in (1, 2, 3, 4):
        first.write({"step": step, "reward_total": step / 4, "loss": None}, "train")
    first.close()
    second = ScalarWriter(tmp_path / "run", 2)
    second.write({"step": 3, "reward_total": 7.5}, "train")
    second.write({"step": 3, "srcc": float("nan"), "plcc": 0.5}, "validation")
    second.close()
    assert shown(tmp_path / "run") == {
        "reward/total": {1: 0.25, 2: 0.5, 3: 7.5},
        "validation/plcc": {3: 0.5},
    }


def test_tags_have_groups():
    row = {"step": 5, "spread_ranking": 0.5, "kl_token_mean": 0.25, "seconds": {"step": 2.0}}
    assert dict(scalars(row, "train")) == {
        "spread/ranking": 0.5,
        "train/kl_token_mean": 0.25,
        "seconds/step": 2.0,
    }


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrainingError, match=r"pip install 'vqathinker_jax\[tensorboard\]'"):
        ScalarWriter(tmp_path / "run", 0)
