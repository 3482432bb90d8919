# SPDX-License-Identifier: MIT
"""Guest writes: in place if the guest has the cluster to itself, otherwise to new clusters."""

from __future__ import annotations

import errno

from blockcore.nodes.drivers.qcow2.allocation import Allocation, Allocator
from blockcore.nodes.drivers.qcow2.entries import COPIED, Kind
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.read import Reader
from blockcore.qapi.names import BlkdebugEvent

MERGE_BYTES = 256 << 10
"""Largest allocation, in bytes, that is written in one go together with the old data around it.

One call instead of three costs a copy of the guest's data.  Larger allocations are
written in parts, to spare that copy.
"""


class Writer:
    """The guest writes of an image."""

    def __init__(
        self, image: Image, mapping: Mapping, allocator: Allocator, reader: Reader
    ) -> None:
        self.image = image
        self.mapping = mapping
        self.allocator = allocator
        self._reader = reader

    async def pwrite(self, offset: int, buf: memoryview) -> None:
        """Write `buf` at guest `offset`; raise OSError.

        Each step writes a contiguous run of clusters that exist, or allocates one.
        Writes to clusters that are being allocated wait for the allocation.
        """
        bits = self.image.cluster_bits
        while buf:
            first, last = offset >> bits, (offset + len(buf) - 1) >> bits
            if self.allocator.in_flight.meets(first, last):
                await self.allocator.in_flight.settled(first, last)
            done = 0
            if not self.mapping.known_hole(offset):
                done = await self._write_in_place(offset, buf)
            if not done:
                done = await self._write_new(offset, buf)
            offset += done
            buf = buf[done:]

    async def _write_in_place(self, offset: int, buf: memoryview) -> int:
        """Write the beginning of `buf` to existing clusters, and return how many bytes."""
        run = await self.mapping.run(offset, len(buf))
        if run.kind is not Kind.NORMAL or not run.entry & COPIED:
            return 0
        await self.image.check_data_write(run.host, run.length)
        self.image.event(BlkdebugEvent.WRITE_AIO)
        await self.image.file.pwrite(run.host, buf[: run.length])
        return run.length

    async def _write_new(self, offset: int, buf: memoryview) -> int:
        """Write the beginning of `buf` to new clusters, and return how many bytes.

        0 if the clusters were allocated by another write meanwhile: look again.
        """
        allocation = self.allocator.begin_at_once(offset, len(buf))
        if allocation is None:
            allocation = await self._begin(offset, len(buf))
        if allocation is None:
            return 0
        end = (allocation.last + 1) << self.image.cluster_bits
        done = min(len(buf), end - offset)
        written = False
        try:
            await self._write_clusters(allocation, offset, buf[:done])
            written = True
        finally:
            self.allocator.end(allocation, written=written)
        return done

    async def _begin(self, offset: int, length: int) -> Allocation | None:
        await self.image.lock.free()
        with self.image.lock.held():
            self.image.check_usable()
            return await self.allocator.begin(offset, length)

    async def _write_clusters(self, new: Allocation, offset: int, buf: memoryview) -> None:
        """Fill new clusters with `buf`, and around it with the old data (perform_cow).

        If everything around `buf` is zeroes, the clusters are zeroed instead of
        copied.  A small allocation is written in one go; of a larger one, the parts
        before and after `buf` are copied first.
        """
        image = self.image
        start = new.first << image.cluster_bits
        head = offset - start
        length = new.count << image.cluster_bits
        tail = length - head - len(buf)
        if not head and not tail or await self._zeroed(new, start, head, tail):
            image.event(BlkdebugEvent.WRITE_AIO)
            await image.file.pwrite(new.host + head, buf)
            return
        if length <= MERGE_BYTES:
            whole = memoryview(bytearray(length))
            await self._old_data(start, whole[:head])
            await self._old_data(offset + len(buf), whole[length - tail :])
            whole[head : length - tail] = buf
            image.event(BlkdebugEvent.WRITE_AIO)
            image.event(BlkdebugEvent.COW_WRITE)
            await image.file.pwrite(new.host, whole)
            return
        for at, size in ((start, head), (offset + len(buf), tail)):
            if size:
                part = memoryview(bytearray(size))
                await self._old_data(at, part)
                image.event(BlkdebugEvent.COW_WRITE)
                await image.file.pwrite(new.host + at - start, part)
        image.event(BlkdebugEvent.WRITE_AIO)
        await image.file.pwrite(new.host + head, buf)

    async def _zeroed(self, new: Allocation, start: int, head: int, tail: int) -> bool:
        """Zero new clusters if everything around the data is zeroes (handle_alloc_space).

        Returns False if there is other data, or if the file can be zeroed only by writing.
        """
        length = new.count << self.image.cluster_bits
        if not await self._reader.known_zero(start, head):
            return False
        if not await self._reader.known_zero(start + length - tail, tail):
            return False
        self.image.event(BlkdebugEvent.CLUSTER_ALLOC_SPACE)
        try:
            await self.image.file.zero(new.host, length, may_unmap=False, no_fallback=True)
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            return False
        return True

    async def _old_data(self, offset: int, buf: memoryview) -> None:
        if buf:
            self.image.event(BlkdebugEvent.COW_READ)
            await self._reader.pread(offset, buf)
