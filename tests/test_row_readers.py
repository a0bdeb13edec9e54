"""Which process brings which rows of a batch, for meshes that several processes share."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vqathinker_jax.parallel import (
    RowReaders,
    devices_by_process,
    gather_rows,
    make_mesh,
    place_rows,
    row_readers,
    to_host,
)


def shared_mesh(processes, data, fsdp, tensor):
    """As much of a mesh as is looked at, its devices in order given to so many processes."""
    count = data * fsdp * tensor
    devices = np.array(
        [SimpleNamespace(id=i, process_index=i * processes // count) for i in range(count)]
    )
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return SimpleNamespace(devices=devices.reshape(data, fsdp, tensor), shape=shape)


@pytest.mark.parametrize(
    "processes, data, fsdp, tensor, parts",
    [
        (1, 2, 3, 1, (0,)),
        (2, 2, 3, 1, (0, 1)),
        (4, 2, 4, 1, (0, 1, 2, 3)),
        (2, 1, 2, 2, (0, 1)),
        # A row is spread over two processes: both bring it.
        (4, 2, 1, 4, (0, 0, 1, 1)),
        (2, 1, 1, 4, (0, 0)),
    ],
)
def test_parts_go_by_the_rows_of_the_mesh(processes, data, fsdp, tensor, parts):
    readers = row_readers(shared_mesh(processes, data, fsdp, tensor))
    assert readers.of_process == parts and readers.count == len(set(parts))


def test_rows_that_processes_share_in_part_are_refused():
    with pytest.raises(ValueError, match="tensor=2 and 3 devices a process"):
        row_readers(shared_mesh(2, 3, 1, 2))


def test_what_is_gathered_counts_once_for_each_part():
    readers = RowReaders((0, 0, 1, 1))
    table = np.array([[1, 2], [1, 2], [3, 4], [3, 4]], np.int32)
    np.testing.assert_array_equal(readers.parts(table), [[1, 2], [3, 4]])
    table[3, 1] = 5
    with pytest.raises(ValueError, match="processes 2 and 3 bring the same rows"):
        readers.parts(table)


def test_a_batch_is_placed_and_comes_back():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    batch = np.arange(4 * 3, dtype=np.uint8).reshape(4, 3)
    placed = place_rows(batch, mesh, row_readers(mesh))
    assert placed.sharding.shard_shape(placed.shape) == (1, 3)
    np.testing.assert_array_equal(to_host(placed), batch)
    np.testing.assert_array_equal(gather_rows(np.array([7], np.int32)), [[7]])


def with_devices(monkeypatch, owners):
    devices = [SimpleNamespace(id=i, process_index=owner) for i, owner in enumerate(owners)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "process_count", lambda: len(set(owners)))


def test_devices_of_a_process_are_side_by_side_and_none_is_left_out(monkeypatch):
    # On a pod the order of devices is that of their places, not of their hosts.
    with_devices(monkeypatch, (0, 0, 1, 1, 0, 0, 1, 1))
    assert [device.id for device in devices_by_process()] == [0, 1, 4, 5, 2, 3, 6, 7]
    with pytest.raises(ValueError, match="needs 4 devices, and the 2 processes have 8"):
        make_mesh(data=4)


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
    with_devices(monkeypatch, (0, 0, 1))
    with pytest.raises(ValueError, match="2 on process 0, 1 on process 1"):
        make_mesh(data=3)
