# SPDX-License-Identifier: MIT
"""State that the parts of one open image share: geometry, the file, the lock, corruption."""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Callable

from blockcore.bql.lock import Lock
from blockcore.nodes.drivers.qcow2.entries import used
from blockcore.nodes.drivers.qcow2.header import (
    CORRUPT,
    INCOMPATIBLE_AT,
    MAX_CLUSTER_BITS,
    MIN_CLUSTER_BITS,
    Header,
    cluster_bits_of,
    parse_header,
)
from blockcore.nodes.drivers.qcow2.metadata import SHARD_MASK, Metadata
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import failure, reason_of
from blockcore.qapi.names import BlkdebugEvent, QmpError

CorruptionReport = Callable[[str, int | None, int | None, bool], None]
"""Takes QEMU's message, the offset and size concerned in bytes, and whether it is fatal."""

MAX_FILE = (1 << 63) - (1 << 30)
"""The greatest length of a file in QEMU, in bytes (BDRV_MAX_LENGTH)."""

HEADER = "qcow2_header"
ACTIVE_L1 = "active L1 table"
ACTIVE_L2 = "active L2 table"
REFBLOCK = "refcount block"
REFTABLE = "refcount table"


class Image:
    """One open image.

    `conflict` is the first cluster (offset in bytes, QEMU's word) that is metadata
    twice; it is only looked for in images that are writable.  `unusable` is set
    when corruption was found in such an image.
    """

    def __init__(self, header: Header, file: BlockNode, read_only: bool) -> None:
        self.header = header
        self.file = file
        self.read_only = read_only
        self.cluster_bits = header.cluster_bits
        self.cluster_size = header.cluster_size
        self.cluster_mask = self.cluster_size - 1
        self.l2_bits = self.cluster_bits - 3
        self.l2_entries = 1 << self.l2_bits
        self.table_shift = self.cluster_bits + self.l2_bits
        self.lock = Lock()
        self.metadata = Metadata()
        self.conflict: tuple[int, str] | None = None
        self.unusable = False
        self.report: CorruptionReport = _unreported
        self._reported = False

    def event(self, event: BlkdebugEvent) -> None:
        """Raise a blkdebug event on the file (BLKDBG_EVENT)."""
        self.file.debug_event(event)

    def clusters(self, nbytes: int) -> int:
        """Return how many clusters `nbytes` bytes need."""
        return (nbytes + self.cluster_mask) >> self.cluster_bits

    async def read(self, offset: int, buf: memoryview) -> None:
        """Read from the file; bytes beyond its end are zeroes.

        Raises OSError(EIO) beyond MAX_FILE.  Every offset that an image contains is
        read through this method, which is what makes damaged offsets harmless.
        """
        if offset > MAX_FILE - len(buf):
            raise failure(errno.EIO)
        there = min(len(buf), max(self.file.size - offset, 0))
        if there:
            await self.file.pread(offset, buf[:there])
        if there < len(buf):
            buf[there:] = bytes(len(buf) - there)

    def claim(self, offset: int, count: int, what: str) -> None:
        """Enter `count` clusters from `offset` as metadata; two claims to one are a conflict."""
        first = offset >> self.cluster_bits
        for cluster in range(first, first + count):
            other = self.metadata.claim(cluster, what)
            if other is not None and self.conflict is None:
                self.conflict = cluster << self.cluster_bits, other

    def claim_each(self, table: array[int], mask: int, what: str) -> None:
        """Claim the clusters that a table refers to.

        An entry that is no multiple of the cluster size is skipped: using it is
        corruption, having it is not.  The loop is written out for speed, because
        there may be millions of entries.
        """
        shards, bits, unaligned = self.metadata.shards, self.cluster_bits, self.cluster_mask
        for _, entry in used(table):
            offset = entry & mask
            if offset and not offset & unaligned:
                cluster = offset >> bits
                shard = shards[cluster & SHARD_MASK]
                if cluster not in shard:
                    shard[cluster] = what
                elif self.conflict is None:
                    self.conflict = offset, shard[cluster]

    def release(self, offset: int, count: int) -> None:
        """Note that `count` clusters from `offset` no longer hold metadata."""
        first = offset >> self.cluster_bits
        for cluster in range(first, first + count):
            self.metadata.release(cluster)

    def check_usable(self) -> None:
        """Raise OSError(ENOMEDIUM), as QEMU does, if corruption made the node unusable."""
        if self.unusable:
            raise failure(errno.ENOMEDIUM)

    async def check_data_write(self, host: int, length: int) -> None:
        """Raise OSError(EIO) if a write of guest data would overwrite metadata.

        `host` and `length` are bytes in the file (qcow2_pre_write_overlap_check).
        """
        first = host >> self.cluster_bits
        last = (host + length - 1) >> self.cluster_bits
        for cluster in range(first, last + 1):
            if cluster in self.metadata:
                await self.overlap(host, length, self.metadata[cluster])

    async def check_metadata_write(self) -> None:
        """Raise OSError(EIO) if tables of the image overlap each other."""
        if self.conflict is not None:
            offset, other = self.conflict
            await self.overlap(offset, self.cluster_size, other)

    async def overlap(self, offset: int, size: int, what: str) -> None:
        """Report that a write was prevented, mark the image corrupt, and raise OSError(EIO)."""
        message = f"Preventing invalid write on metadata (overlaps with {what})"
        await self.corrupt(message, offset, size)

    async def corrupt(
        self, message: str, offset: int | None = None, size: int | None = None
    ) -> None:
        """Report corruption and raise OSError(EIO) (qcow2_signal_corruption).

        A writable image gets its corrupt bit and becomes unusable; a read-only
        image stays in use.  Only the first corruption of an image is reported.
        """
        fatal = not self.read_only
        mark = fatal and not self.unusable
        self.unusable |= fatal
        if not self._reported:
            self._reported = True
            self.report(message, offset, size, fatal)
        if mark:
            await self._mark_corrupt()
        raise failure(errno.EIO)

    async def _mark_corrupt(self) -> None:
        """Set the corrupt bit if the header has one (version 3).

        An error is ignored, as in QEMU: the caller reports the corruption anyway.
        """
        if self.header.version == 2:
            return
        try:
            await self.set_incompatible(self.header.incompatible | CORRUPT)
        except OSError:
            return

    async def set_incompatible(self, bits: int) -> None:
        """Write and flush the header's field of incompatible features."""
        await self.write_header(INCOMPATIBLE_AT, struct.pack(">Q", bits))
        self.header.incompatible = bits

    async def write_header(self, offset: int, data: bytes) -> None:
        """Overwrite a part of the header at `offset`, and flush it."""
        await self.file.pwrite(offset, memoryview(data))
        await self.file.flush()


async def read_header(file: BlockNode, *, read_only: bool) -> Header:
    """Return the header of the image in `file`; raise QmpError in QEMU's words.

    The first bytes tell the cluster size, then the rest of the first cluster is read.
    """
    try:
        data = await _beginning(file, 1 << MIN_CLUSTER_BITS)
        bits = cluster_bits_of(data)
        if MIN_CLUSTER_BITS < bits <= MAX_CLUSTER_BITS:
            data = await _beginning(file, 1 << bits)
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not read qcow2 header: {reason}") from None
    return parse_header(data, read_only=read_only)


async def _beginning(file: BlockNode, length: int) -> bytes:
    data = bytearray(min(file.size, length))
    await file.pread(0, memoryview(data))
    return bytes(data).ljust(length, b"\0")


def hexadecimal(number: int) -> str:
    """Format a number as C's ``%#x``, which gives 0 no prefix."""
    return f"{number:#x}" if number else "0"


def _unreported(_message: str, _offset: int | None, _size: int | None, _fatal: bool) -> None:
    return
