# SPDX-License-Identifier: MIT
"""Many guest requests at a time: every interleaving leaves everybody's data as they wrote it."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.routine import Routine
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.shortcut.guest import GuestShortcut
from blockcore.nodes.shortcut.slot import Slot
from qcow2_disk import Disk, judge
from qcow2_images import Around, check_clean, close, create, open_file, open_on, read
from sim import Sim, perform

SECTOR = 512
ACTORS = 6


@dataclass
class Owner:
    """Has runs of sectors for itself, in clusters that it shares with others."""

    node: Qcow2Node
    random: Random
    runs: list[tuple[int, int]]
    model: dict[int, bytes]

    async def work(self, requests: int) -> None:
        for _ in range(requests):
            offset, length = self.random.choice(self.runs)
            kind = self.random.choice(["write"] * 5 + ["zero", "discard", "flush", "read", "read"])
            if kind == "write":
                data = self.random.randbytes(length)
                await self._until_done("pwrite", offset, memoryview(data))
                self.model[offset] = data
            elif kind == "zero":
                unmap = self.random.random() < 0.5
                await self._until_done("zero", offset, length, may_unmap=unmap)
                self.model[offset] = bytes(length)
            elif kind == "discard":
                await self._until_done("discard", offset, length)
                self.model[offset] = await self._after_discard(offset, length)
            elif kind == "flush":
                await self._until_done("flush")
            else:
                assert await self._read(offset, length) == self.model[offset]

    async def _until_done(self, what: str, *args: object, **more: object) -> None:
        """A request that fails is tried again, as after a stop and `cont`."""
        while True:
            try:
                await getattr(self.node, what)(*args, **more)
            except OSError as exc:
                assert exc.errno == errno.ENOSPC
                continue
            return

    async def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        await self._until_done("pread", offset, memoryview(data))
        return bytes(data)

    async def _after_discard(self, offset: int, length: int) -> bytes:
        """Whole clusters read as zeroes now, the rest is as it was."""
        size = self.node.image.cluster_size
        first = -(-offset // size) * size
        last = (offset + length) // size * size
        wanted = bytearray(self.model[offset])
        if last > first:
            wanted[first - offset : last - offset] = bytes(last - first)
        found = await self._read(offset, length)
        assert found == wanted
        return found


def share(size: int, random: Random) -> list[list[tuple[int, int]]]:
    """Runs of sectors for every actor."""
    shares: list[list[tuple[int, int]]] = [[] for _ in range(ACTORS)]
    offset = 0
    while offset < size:
        length = min(random.choice([1, 1, 3, 9, 24]) * SECTOR, size - offset)
        min(shares, key=len).append((offset, length))
        offset += length
    return shares


@pytest.mark.slow
@pytest.mark.parametrize("faults", [False, True], ids=["no faults", "faults"])
@pytest.mark.parametrize("cluster_size", [512, 4096])
def test_owners_of_shared_clusters(tmp_path: Path, cluster_size: int, faults: bool) -> None:
    size = 96 << 10
    image = create(tmp_path / "empty", size, cluster_size=cluster_size).read_bytes()
    for seed in range(25):
        sim = Sim(seed)
        around = Around()
        dice = Random(seed)

        def on_io(what: str) -> None:
            if faults and dice.random() < 0.05:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        disk = Disk(image, around)
        node = open_on(disk, around)
        disk.on_io = on_io
        owners = [
            Owner(node, Random(seed * ACTORS + number), runs, {at: bytes(n) for at, n in runs})
            for number, runs in enumerate(share(size, Random(seed)))
        ]
        for number, owner in enumerate(owners):
            sim.start(f"owner {number}", owner.work(40))
        sim.run()
        assert not sim.running, sim.story()
        disk.on_io = lambda what: None
        for owner in owners:
            for offset, data in owner.model.items():
                assert read(node, offset, len(data)) == data, f"seed {seed}"
        perform(node.do_close())
        assert judge(disk.data) == ([], 0), f"seed {seed}"


@pytest.mark.slow
def test_the_shortcut_beside_everything_else(tmp_path: Path) -> None:
    """Threads that write to clusters without a lock, while others discard and allocate.

    A cluster that a worker is busy with is nobody else's: what the workers
    write carries the number of its cluster, and is never found in another.
    """
    size, cluster_size = 2 << 20, 4096
    path = create(tmp_path / "image", size, cluster_size=cluster_size)
    around = Around()
    node = open_on(open_file(path, around, no_flush=True), around)
    lock = BigLock(SystemClock())
    clusters = size // cluster_size
    failures: list[BaseException] = []
    over = threading.Event()
    interval = sys.getswitchinterval()

    def body(number: int) -> None:
        random = Random(number)
        slot = Slot()
        with lock.region():
            around.slots.append(slot)
        way = node.way()
        assert way is not None
        path = GuestShortcut(way, size, SystemClock())
        while not over.is_set():
            cluster = random.randrange(clusters)
            tag = cluster.to_bytes(4, "big") * (cluster_size // 4)
            buf = bytearray(cluster_size)
            slot.busy = True
            done = path.pwrite(slot, cluster * cluster_size, memoryview(tag))
            found = path.pread(slot, cluster * cluster_size, memoryview(buf))
            slot.busy = False
            assert not found or bytes(buf) in (tag, bytes(cluster_size)), "another's data"
            if done:
                counts[number] += 1
                continue
            choice = random.random()
            if choice < 0.8:
                coro = node.pwrite(cluster * cluster_size, memoryview(tag))
            else:
                coro = node.flush()
            lock.run_in_thread(coro, lambda: True)

    def eraser() -> None:
        random = Random(0)
        # The short switch interval makes all of it as slow as the machine is busy.
        end = time.monotonic() + 30
        for _ in range(2500):
            if time.monotonic() > end:
                break
            first = random.randrange(clusters)
            count = min(random.choice([1, 2, 20]), clusters - first)
            where = first * cluster_size, count * cluster_size
            coro = node.discard(*where) if random.random() < 0.7 else node.flush()
            lock.run_in_thread(coro, lambda: True)

    def guarded(work: object, *args: object) -> None:
        try:
            work(*args)  # type: ignore[operator]
        except BaseException as exc:
            failures.append(exc)

    counts = dict.fromkeys(range(4), 0)
    workers = [threading.Thread(target=guarded, args=(body, number)) for number in counts]
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        guarded(eraser)
    finally:
        over.set()
        for worker in workers:
            worker.join()
        sys.setswitchinterval(interval)
    assert not failures, failures
    assert all(counts.values())
    around.slots.clear()
    data = read(node)
    for cluster in range(clusters):
        tag = cluster.to_bytes(4, "big") * (cluster_size // 4)
        assert data[cluster * cluster_size :][:cluster_size] in (tag, bytes(cluster_size))
    close(node)
    check_clean(path)


def host_of(node: Qcow2Node, offset: int) -> int:
    host: int = perform(node.mapping.run(offset, 1)).host
    return host


def finish(routine: Routine) -> None:
    while not routine.done:
        assert routine.call is not None
        routine.advance(routine.call.perform())


def discard_and_flush(node: Qcow2Node, offset: int) -> None:
    perform(node.discard(offset, 4096))
    perform(node.flush())


def test_a_discarded_cluster_is_kept_from_others_while_a_request_is_at_it(tmp_path: Path) -> None:
    """A read that has found its cluster before the discard never gets another's data."""
    around = Around()
    disk = Disk(create(tmp_path / "image", 64 << 10, cluster_size=4096).read_bytes(), around)
    node = open_on(disk, around)
    perform(node.pwrite(0, memoryview(b"a" * 4096)))
    host, buf = host_of(node, 0), bytearray(4096)
    under_way = Routine(node.pread(0, memoryview(buf)))
    under_way.advance()
    assert under_way.call is not None
    discard_and_flush(node, 0)
    perform(node.pwrite(8192, memoryview(b"b" * 4096)))
    assert host_of(node, 8192) != host
    finish(under_way)
    assert bytes(buf) == b"a" * 4096
    perform(node.flush())
    perform(node.pwrite(16384, memoryview(b"c" * 4096)))
    assert host_of(node, 16384) == host


@pytest.mark.parametrize("how", ["idle", "another request"])
def test_a_discarded_cluster_is_kept_while_a_worker_may_be_at_it(tmp_path: Path, how: str) -> None:
    around = Around()
    disk = Disk(create(tmp_path / "image", 64 << 10, cluster_size=4096).read_bytes(), around)
    node = open_on(disk, around)
    perform(node.pwrite(0, memoryview(b"a" * 4096)))
    host, slot = host_of(node, 0), Slot()
    around.slots.append(slot)
    slot.busy = True
    discard_and_flush(node, 0)
    perform(node.pwrite(8192, memoryview(b"b" * 4096)))
    assert host_of(node, 8192) != host
    slot.busy = how != "idle"
    slot.rd_ops += 1
    perform(node.flush())
    perform(node.pwrite(16384, memoryview(b"c" * 4096)))
    assert host_of(node, 16384) == host
