# SPDX-License-Identifier: MIT
"""A crash at any moment, a failure of any request below: what is in the file afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from qcow2_disk import Disk, crashes, judge, power_cuts
from qcow2_images import Around, create, open_on, qemu_img, read
from sim import perform

SECTOR = 512


class Guest:
    """Makes random requests, sector by sector, and knows what has to be there.

    `flushed` is the content at the last flush; `since` are the sectors that
    have been touched after it, and so may have any content after a crash.
    """

    def __init__(self, node: Qcow2Node, random: Random) -> None:
        self.node = node
        self.random = random
        self.now = bytearray(node.size)
        self.flushed = bytes(node.size)
        self.since: set[int] = set()
        self.log: list[tuple[int, bytes, frozenset[int]]] = []
        self.attempts: Callable[[Callable[[], Awaitable[None]]], None] = _at_once

    def work(self, disk: Disk, requests: int) -> None:
        """Carry requests out, and note how far the disk's log was at each flush and request."""
        for _ in range(requests):
            self._one()
            self.log.append((len(disk.log), self.flushed, frozenset(self.since)))

    def _one(self) -> None:
        sectors = self.node.size // SECTOR
        first = self.random.randrange(sectors)
        count = min(self.random.choice([1, 3, 8, 40]), sectors - first)
        offset, length = first * SECTOR, count * SECTOR
        kind = self.random.choice(["write"] * 6 + ["zero", "unmap", "discard", "discard", "flush"])
        if kind == "flush":
            self.attempts(self.node.flush)
            self.flushed, self.since = bytes(self.now), set()
            return
        self.since |= set(range(first, first + count))
        if kind == "write":
            data = self.random.randbytes(length)
            self.attempts(lambda: self.node.pwrite(offset, memoryview(data)))
            self.now[offset : offset + length] = data
        elif kind == "discard":
            self.attempts(lambda: self.node.discard(offset, length))
            self.now[:] = read_disk(self.node)
        else:
            unmap = kind == "unmap"
            self.attempts(lambda: self.node.zero(offset, length, may_unmap=unmap))
            self.now[offset : offset + length] = bytes(length)

    def promised(self, moment: int) -> tuple[bytes, frozenset[int]]:
        """What a crash after the disk's write numbered `moment` must not lose.

        A request under way has touched its sectors; a flush under way has promised nothing.
        """
        flushed, since = bytes(self.node.size), frozenset[int]()
        for until, now_flushed, now_since in self.log:
            if until > moment:
                return (flushed, since | now_since)
            flushed, since = now_flushed, now_since
        return flushed, since


def _at_once(attempt: Callable[[], Awaitable[None]]) -> None:
    perform(attempt())  # type: ignore[arg-type]


def read_disk(node: Qcow2Node) -> bytes:
    """What the node reads, without faults."""
    disk = node.children["file"]
    assert isinstance(disk, Disk)
    on_io, disk.on_io = disk.on_io, lambda what: None
    try:
        return read(node)
    finally:
        disk.on_io = on_io


def empty(tmp_path: Path, cluster_size: int, size: int) -> bytes:
    return create(tmp_path / "empty", size, cluster_size=cluster_size).read_bytes()


def look(data: bytearray, flushed: bytes, since: frozenset[int], tmp_path: Path | None) -> None:
    """No corruption, and the flushed data; with a directory, QEMU is asked as well."""
    errors, _ = judge(data)
    assert not errors, errors
    if tmp_path is not None:
        path = tmp_path / "crashed"
        path.write_bytes(data)
        said = qemu_img("check", "-f", "qcow2", path, check=False)
        assert "ERROR" not in said and "internal" not in said, said
    around = Around()
    found = read(open_on(Disk(bytes(data), around), around, read_only=True))
    for sector in set(range(len(found) // SECTOR)) - since:
        place = slice(sector * SECTOR, (sector + 1) * SECTOR)
        assert found[place] == flushed[place], f"sector {sector} is lost"


SHAPES = {"512": (512, 96 << 10), "1k": (1024, 256 << 10), "4k": (4096, 512 << 10)}


@pytest.mark.slow
@pytest.mark.parametrize(("cluster_size", "size"), SHAPES.values(), ids=SHAPES)
def test_a_crash_after_any_write(tmp_path: Path, cluster_size: int, size: int) -> None:
    random = Random(cluster_size)
    around = Around()
    disk = Disk(empty(tmp_path, cluster_size, size), around)
    node = open_on(disk, around)
    guest = Guest(node, random)
    guest.work(disk, 300)
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)
    for number, data in crashes(disk):
        flushed, since = guest.promised(number + 1)
        look(data, flushed, since, tmp_path if number % 100 == 0 else None)


@pytest.mark.slow
@pytest.mark.parametrize(("cluster_size", "size"), SHAPES.values(), ids=SHAPES)
def test_power_lost_at_any_time(tmp_path: Path, cluster_size: int, size: int) -> None:
    """Every subset of the sectors written since the last flush may be missing."""
    random = Random(cluster_size + 1)
    around = Around()
    disk = Disk(empty(tmp_path, cluster_size, size), around)
    node = open_on(disk, around)
    guest = Guest(node, random)
    guest.work(disk, 300)
    perform(node.do_close())
    for number, (end, data) in enumerate(power_cuts(disk, random, 400)):
        flushed, since = guest.promised(end)
        look(data, flushed, since, tmp_path if number % 25 == 0 else None)


class Failing:
    """Requests fail from the one numbered `after` on, `times` times."""

    def __init__(self, after: int, times: int, error: int) -> None:
        self.left, self.times, self.error = after, times, error
        self.fired = False

    def __call__(self, what: str) -> None:
        self.left -= 1
        if self.left < 0 and self.times:
            self.times -= 1
            self.fired = True
            raise OSError(self.error, os.strerror(self.error))

    def attempts(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Until it works: what the policy `stop` and the manager's `cont` come to."""
        while True:
            try:
                perform(attempt())  # type: ignore[arg-type]
            except OSError as exc:
                assert exc.errno == self.error and self.fired
                continue
            return


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_any_request_below_fails_and_is_tried_again(tmp_path: Path, times: int) -> None:
    """As if nothing had been: nothing is lost, nothing leaked, nothing half applied."""
    image = empty(tmp_path, 512, 64 << 10)
    after = 0
    while True:
        around = Around()
        disk = Disk(image, around)
        node = open_on(disk, around, settings=None)
        failing = Failing(after, times, errno.ENOSPC)
        disk.on_io = failing
        guest = Guest(node, Random(7))
        guest.attempts = failing.attempts
        guest.work(disk, 160)
        failing.attempts(node.flush)
        assert read_disk(node) == guest.now
        perform(node.do_close())
        errors, leaks = judge(disk.data)
        assert not errors and not leaks, (after, errors, leaks)
        if not failing.fired:
            break
        after += 1 + after // 60
    assert after > 250
