# SPDX-License-Identifier: MIT
"""The write log as the Linux target dm-log-writes keeps it, for the tools that replay such a log.

(`drivers/md/dm-log-writes.c`.)  A sector with the superblock; then for each entry a
sector with its header, and its data, unless it is a discard.  Numbers are
little-endian: magic, version and number of entries of 64 bits, the sector size of
32; of an entry its first sector, number of sectors, flags and length of private data.
"""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.faults.options import SECTOR_SIZE
from blockcore.qapi.names import QmpError
from blockcore.rules.write_log import WriteLog

MAGIC = 0x6A736677736872
VERSION = 1
DISCARD = 1 << 2

Chunk = tuple[int, bytes | memoryview]
"""Bytes of the file, and their offset."""


def encoded(log: WriteLog) -> tuple[list[Chunk], int]:
    """Return the file of a log, without its zeroes, and its length in bytes.

    Each write is an entry, or as many as it has parts that may be lost.  Zeroes that
    may be deallocated are discards.  Raise QmpError unless all are of whole sectors.
    """
    chunks: list[Chunk] = []
    at, entries = SECTOR_SIZE, 0
    for start, end, data, unmap in _pieces(log):
        flags = DISCARD if data is None and unmap else 0
        sectors = (end - start) // SECTOR_SIZE
        chunks.append((at, _sector(start // SECTOR_SIZE, sectors, flags, 0)))
        at += SECTOR_SIZE
        entries += 1
        if data is not None:
            chunks.append((at, data))
        if not flags:
            at += end - start
    head = _sector(MAGIC, VERSION, entries, SECTOR_SIZE)
    return [(0, head), *chunks], at


def _pieces(log: WriteLog) -> Iterator[tuple[int, int, memoryview | None, bool]]:
    for write in log:
        for start, end, data, _, unmap in write.pieces():
            if start % SECTOR_SIZE or end % SECTOR_SIZE:
                raise QmpError(
                    f"Write {write.number} is not of whole sectors, which this format cannot have"
                )
            yield start, end, data, unmap


def _sector(*numbers: int) -> bytes:
    """Return a sector that begins with numbers of 64 bits."""
    head = b"".join(number.to_bytes(8, "little") for number in numbers)
    return head.ljust(SECTOR_SIZE, b"\0")
