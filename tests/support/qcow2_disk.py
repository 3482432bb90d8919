# SPDX-License-Identifier: MIT
"""A disk in memory under an image: it remembers every write, fails on demand, loses power.

Also a judge of qcow2 images that knows nothing of the driver's code.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

from blockcore.bql.effects import Call
from blockcore.nodes.driver import NodeHost
from blockcore.nodes.node import BlockNode
from qcow2_images import options
from sim import pause

SECTOR = 512


class Disk(BlockNode):
    """Bytes that grow.  `log` has every write since the beginning.

    A number in it stands for a change of the length, None for a flush.

    `on_io` gets the kind of each request, and may raise OSError: then it has no effect.
    Nothing can be written beyond `limit`.
    """

    driver = "memory"

    def __init__(
        self,
        data: bytes,
        host: NodeHost,
        on_io: Callable[[str], None] = lambda what: None,
        limit: int = 1 << 30,
    ) -> None:
        super().__init__(options("file"), host)
        self.start = data
        self.data = bytearray(data)
        self.size = len(data)
        self.log: list[tuple[int, bytes] | int | None] = []
        self.on_io = on_io
        self.limit = limit

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        def load() -> None:
            self.on_io("read")
            found = self.data[offset : offset + len(buf)]
            buf[:] = found.ljust(len(buf), b"\0")

        await Call(load)
        await pause()

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        def store() -> None:
            self.on_io("write")
            if offset + len(buf) > self.limit:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            self.log.append((offset, bytes(buf)))
            put(self.data, offset, buf)

        await Call(store)
        await pause()

    async def do_flush(self) -> None:
        def flush() -> None:
            self.on_io("flush")
            self.log.append(None)

        await Call(flush)
        await pause()

    async def do_truncate(self, size: int) -> None:
        def cut() -> None:
            self.on_io("truncate")
            self.log.append(size)
            resize(self.data, size)

        await Call(cut)
        await pause()


def resize(data: bytearray, size: int) -> None:
    data.extend(bytes(max(size - len(data), 0)))
    del data[size:]


def put(data: bytearray, offset: int, part: memoryview | bytes) -> None:
    """Write into bytes that grow."""
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(part)] = part


def crashes(disk: Disk, begin: int = 0) -> Iterator[tuple[int, bytearray]]:
    """The disk after each of its writes from the one numbered `begin` on: killed processes."""
    data = bytearray(disk.start)
    for number, entry in enumerate(disk.log):
        if entry is not None:
            if isinstance(entry, int):
                resize(data, entry)
            else:
                put(data, *entry)
            if number >= begin:
                yield number, data


def flushes(disk: Disk) -> dict[int, bytes]:
    """What each flush has saved, by its place in the log; what there was at first is at -1."""
    data, found = bytearray(disk.start), {-1: disk.start}
    for number, entry in enumerate(disk.log):
        if entry is None:
            found[number] = bytes(data)
        elif isinstance(entry, int):
            resize(data, entry)
        else:
            put(data, *entry)
    return found


def power_cuts(disk: Disk, random: Random, count: int) -> Iterator[tuple[int, bytearray]]:
    """The disk at random moments, without a random part of what no flush has saved."""
    flushed = flushes(disk)
    for _ in range(count):
        end = random.randrange(len(disk.log) + 1)
        saved = max(number for number in flushed if number < end)
        data = bytearray(flushed[saved])
        for entry in disk.log[saved + 1 : end]:
            assert entry is not None
            if isinstance(entry, int):
                if random.random() < 0.5:
                    resize(data, entry)
                continue
            offset, part = entry
            kept = random.choice([0.0, 0.5, 1.0])
            for at in range(0, len(part), SECTOR):
                if random.random() < kept:
                    put(data, offset + at, part[at : at + SECTOR])
        yield end, data


def unpacked(kind: str, part: bytes | bytearray) -> tuple[int, ...]:
    """The numbers of a table, without the zeroes at its end, which most of them consist of."""
    size = struct.calcsize(f">{kind}")
    used = part.rstrip(b"\0")
    count = -(-len(used) // size)
    return struct.unpack(f">{count}{kind}", used.ljust(count * size, b"\0"))


def judge(data: bytes | bytearray) -> tuple[list[str], int]:
    """What is wrong with an image, and how many clusters are leaked (qemu-img check)."""
    fields = struct.unpack_from(">IIQIIQIIQQIIQ", data)
    bits, l1_entries, l1_offset, table_offset, table_clusters = (
        fields[4],
        *fields[7:9],
        *fields[9:11],
    )
    size = 1 << bits
    errors: list[str] = []
    refs: Counter[int] = Counter({0: 1})
    copied: dict[int, bool] = {}

    def numbers(offset: int, count: int) -> tuple[int, ...]:
        return unpacked("Q", data[offset : offset + count * 8])

    def refer(entry: int, what: str) -> int:
        offset = entry & 0x00FFFFFFFFFFFE00
        if offset % size:
            errors.append(f"{what} at {offset:#x} is unaligned")
        refs[offset >> bits] += 1
        copied[offset >> bits] = bool(entry >> 63)
        return offset

    for index in range(-(-l1_entries * 8 // size)):
        refs[(l1_offset >> bits) + index] += 1
    for index in range(table_clusters):
        refs[(table_offset >> bits) + index] += 1
    for l1_entry in numbers(l1_offset, l1_entries):
        if l1_entry:
            for entry in numbers(refer(l1_entry, "L2 table"), size // 8):
                if entry >> 62 & 1:
                    errors.append("compressed")
                elif entry & 0x00FFFFFFFFFFFE00:
                    refer(entry, "data")
    table = numbers(table_offset, table_clusters * size // 8)
    for offset in table:
        if offset:
            refs[offset >> bits] += 1
    leaks = 0
    for number, offset in enumerate(table):
        if offset:
            counts = unpacked("H", data[offset : offset + size])
            for index, found in ((i, count) for i, count in enumerate(counts) if count):
                cluster = number * (size // 2) + index
                wanted = refs.pop(cluster, 0)
                leaks += found > wanted
                if found < wanted:
                    errors.append(f"cluster {cluster}: refcount {found}, references {wanted}")
                if copied.get(cluster) not in (None, found == 1):
                    errors.append(f"cluster {cluster}: COPIED is {copied[cluster]}, {found}")
    errors += [f"cluster {cluster} has no refcount" for cluster in refs]
    return errors, leaks
