# SPDX-License-Identifier: MIT
"""A guest of a qcow2 image that knows what has to be there, whatever happens below."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from qcow2_disk import Disk, judge
from qcow2_images import Around, open_on, qemu_img, read
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
            self.now[offset : offset + length] = read_disk(self.node, offset, length)
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


def read_disk(node: Qcow2Node, offset: int = 0, length: int | None = None) -> bytes:
    """What the node reads, without faults."""
    disk = node.children["file"]
    assert isinstance(disk, Disk)
    on_io, disk.on_io = disk.on_io, lambda what: None
    try:
        return read(node, offset, length)
    finally:
        disk.on_io = on_io


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
