# SPDX-License-Identifier: MIT
"""Whole clusters that guests' workers write to an image without a coroutine, for the first time."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Translation
from blockcore.qapi.names import BlkdebugEvent
from blockcore.rules.volume import Volume
from qcow2_images import (
    Around,
    check_clean,
    close,
    content,
    create,
    open_file,
    open_on,
    options,
    read,
)
from rules import fail
from sim import perform

CLUSTER = 4096
PER_TABLE = CLUSTER // 8
SIZE = 2 * PER_TABLE * CLUSTER


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return create(tmp_path / "image", SIZE, cluster_size=CLUSTER)


@pytest.fixture(name="node")
def _node(path: Path) -> Iterator[Qcow2Node]:
    """With an L2 table, so that only clusters are missing: 1 MiB is there."""
    around = Around()
    node = open_on(open_file(path, around, no_flush=True), around)
    perform(node.pwrite(1 << 20, memoryview(bytes(CLUSTER))))
    yield node
    close(node)
    check_clean(path)


def translation(node: Qcow2Node) -> Translation:
    way = node.way()
    assert way is not None and way.translation is not None
    return way.translation


def goes_short(node: Qcow2Node, offset: int = 0, length: int = CLUSTER) -> bool:
    """Whether such a write needs no coroutine."""
    data = memoryview(bytes([0xAB]) * length)
    return translation(node).pwrite(Slot(), offset, data)


@pytest.mark.parametrize("count", [1, 2, 100])
def test_it_is_written_and_linked(node: Qcow2Node, path: Path, count: int) -> None:
    """The file node knows of its length, of the highest offset, and that there is to flush."""
    file, slot = node.children["file"], Slot()
    data = Random(count).randbytes(count * CLUSTER)
    assert translation(node).pwrite(slot, 7 * CLUSTER, memoryview(data))
    assert read(node, 7 * CLUSTER, len(data)) == data
    assert file.size == file.wr_highest_offset == slot.wr_highest_below == path.stat().st_size
    perform(node.flush())
    assert content(path)[7 * CLUSTER :].startswith(data)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (1, CLUSTER),
        (0, CLUSTER - 1),
        (0, CLUSTER + 1),
        (CLUSTER, 512),
        (PER_TABLE * CLUSTER, CLUSTER),
        ((PER_TABLE - 1) * CLUSTER, 2 * CLUSTER),
        ((1 << 20) - CLUSTER, 2 * CLUSTER),
        (1 << 20, 2 * CLUSTER),
    ],
    ids=[
        *("not at a cluster", "part of one", "and a part", "part of another"),
        *("no table", "two tables", "the last is there", "the first is there"),
    ],
)
def test_the_long_way_has_to_do(node: Qcow2Node, offset: int, length: int) -> None:
    """Nothing has happened then."""
    before, end = read(node), node.children["file"].size
    assert not goes_short(node, offset, length)
    assert read(node) == before and node.children["file"].size == end


def test_who_is_in_the_way(node: Qcow2Node) -> None:
    """Whoever holds the image's lock, copies on read there, or writes the same cluster."""
    with node.image.lock.held():
        assert not goes_short(node)
    assert node.requests is not None
    with node.requests.tracked(SIZE // 2, CLUSTER) as request:
        perform(node.requests.serialise(request, CLUSTER))
        assert not goes_short(node)
    new = node.allocator.begin_at_once(0, CLUSTER)
    assert new is not None
    assert not goes_short(node)
    node.allocator.end(new, written=False)
    assert not goes_short(node)  # what was given back has to be taken first
    perform(node.pwrite(0, memoryview(bytes(CLUSTER))))
    assert goes_short(node, CLUSTER)
    before = translation(node)
    node.image.unusable = True
    assert not before.pwrite(Slot(), 2 * CLUSTER, memoryview(bytes(CLUSTER)))
    node.image.unusable = False


@pytest.mark.parametrize("kind", ["error", "a part"])
def test_a_write_that_fails_leaves_nothing_behind(
    node: Qcow2Node, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The cluster is free again, and the next write gets it."""
    pwrite = os.pwrite

    def failing(fd: int, buf: memoryview, offset: int) -> int:
        if kind == "error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, buf[:100], offset)

    end = node.children["file"].size
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        if kind == "error":
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                goes_short(node)
        else:
            assert not goes_short(node)
    assert read(node, 0, CLUSTER) == bytes(CLUSTER) and node.children["file"].size == end
    perform(node.pwrite(0, memoryview(b"\x11" * CLUSTER)))
    assert node.children["file"].size == end + CLUSTER


def test_on_a_volume_as_far_as_it_goes(path: Path) -> None:
    """What does not fit is refused by the long way, which counts it."""
    around = Around()
    file = open_file(path, around, no_flush=True)
    node = open_on(file, around)
    perform(node.pwrite(1 << 20, memoryview(bytes(CLUSTER))))
    volume = file.volume = Volume(file.size + 2 * CLUSTER)
    assert goes_short(node, 0) and goes_short(node, CLUSTER) and not goes_short(node, 2 * CLUSTER)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        perform(node.pwrite(2 * CLUSTER, memoryview(bytes(CLUSTER))))
    assert volume.refusals == 1
    volume.extend(file.size + CLUSTER)
    perform(node.pwrite(2 * CLUSTER, memoryview(bytes(CLUSTER))))
    close(node)
    check_clean(path)


def test_not_where_a_rule_may_wait_for_the_allocation(node: Qcow2Node) -> None:
    file = node.children["file"]
    rule = file.injector().add(
        fail(id="a", event=BlkdebugEvent.CLUSTER_ALLOC, errno=errno.EIO, sector=1 << 40)
    )
    assert not goes_short(node)
    file.injector().remove(rule)
    assert goes_short(node)


def test_not_through_a_node_with_a_length_of_its_own(path: Path) -> None:
    around = Around()
    file = open_file(path, around, no_flush=True)
    raw = RawNode(options("raw"), around, file)
    file.parents.append(raw)
    perform(raw.do_open())
    node = open_on(raw, around)
    perform(node.pwrite(1 << 20, memoryview(bytes(CLUSTER))))
    assert not goes_short(node)
    close(node)


def test_the_data_is_flushed_before_the_entry_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the drive has not counted the write yet: a crash must not show what was there."""
    around = Around()
    node = open_on(open_file(path, around), around)
    perform(node.pwrite(1 << 20, memoryview(bytes(CLUSTER))))
    perform(node.flush())
    calls: list[str] = []
    for name in ("fdatasync", "pwrite"):

        def noted(*arguments: object, name: str = name, call: object = getattr(os, name)) -> object:
            calls.append(name)
            return call(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(os, name, noted)
    assert goes_short(node)
    perform(node.do_flush_to_os())
    # Data; a refcount block and what refers to it; the entry.
    assert calls[0] == "pwrite" and calls[-2:] == ["fdatasync", "pwrite"]
    monkeypatch.undo()
    close(node)


def test_many_workers_at_once(path: Path) -> None:
    """Short and long, with discards and flushes between them, on threads that interleave anywhere.

    Each thread has clusters of its own, every eighth; tables and counts are everybody's.
    """
    around = Around()
    lock = BigLock(SystemClock())
    around.region = lock.region
    node = open_on(open_file(path, around, no_flush=True), around)
    wanted = bytearray(SIZE)
    threads, short = 8, list[int]()

    def run(number: int) -> None:
        random, slot = Random(number), Slot()
        around.slots.append(slot)
        for _ in range(250):
            cluster = random.randrange(number, SIZE // CLUSTER, threads)
            start = cluster * CLUSTER
            if random.random() < 0.2:
                lock.run_in_thread(node.discard(start, CLUSTER), lambda: True)
                wanted[start : start + CLUSTER] = bytes(CLUSTER)
                continue
            if random.random() < 0.05:
                lock.run_in_thread(node.flush(), lambda: True)
            first = random.choice([0, 0, 0, 100])
            data = random.randbytes(CLUSTER - first)
            slot.busy = True
            done = way.pwrite(slot, start + first, memoryview(data))
            slot.busy = False
            slot.wr_ops += 1
            if done:
                short.append(cluster)
            else:
                lock.run_in_thread(node.pwrite(start + first, memoryview(data)), lambda: True)
            wanted[start + first : start + CLUSTER] = data

    way = translation(node)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(short) > 100
    assert read(node) == wanted
    close(node)
    check_clean(path)
    assert content(path) == wanted
