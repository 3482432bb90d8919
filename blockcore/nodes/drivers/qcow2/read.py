# SPDX-License-Identifier: MIT
"""Guest reads: data from the file, compressed data, the backing file's data, or zeroes."""

from __future__ import annotations

from collections.abc import Callable

from blockcore.bql.effects import Call
from blockcore.nodes.drivers.qcow2.compressed import Inflate
from blockcore.nodes.drivers.qcow2.entries import READS_AS_ZERO, Kind, compressed_range
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping, Run
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlkdebugEvent


class Reader:
    """The guest reads of an image; `backing` returns the present backing file."""

    def __init__(
        self,
        image: Image,
        mapping: Mapping,
        inflate: Inflate,
        backing: Callable[[], BlockNode | None],
    ) -> None:
        self.image = image
        self.mapping = mapping
        self._inflate = inflate
        self._backing = backing

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Read guest data, also beyond the end of the image; raise OSError."""
        while buf:
            run = await self.mapping.run(offset, len(buf))
            await self._read_run(run, offset, buf[: run.length])
            offset += run.length
            buf = buf[run.length :]

    async def known_zero(self, offset: int, length: int) -> bool:
        """Tell whether this image's tables alone show that a range reads as zeroes."""
        backing = self._backing()
        while length > 0:
            run = await self.mapping.run(offset, length)
            if run.kind is Kind.UNALLOCATED:
                if backing is not None and offset < backing.size:
                    return False
            elif run.kind not in READS_AS_ZERO:
                return False
            offset, length = offset + run.length, length - run.length
        return True

    async def _read_run(self, run: Run, offset: int, buf: memoryview) -> None:
        backing = self._backing()
        if run.kind is Kind.NORMAL:
            self.image.event(BlkdebugEvent.READ_AIO)
            await self.image.read(run.host, buf)
        elif run.kind is Kind.COMPRESSED:
            await self._read_compressed(run.entry, offset & self.image.cluster_mask, buf)
        elif run.kind is Kind.UNALLOCATED and backing is not None:
            await self._read_backing(backing, offset, buf)
        else:
            buf[:] = bytes(len(buf))

    async def _read_backing(self, backing: BlockNode, offset: int, buf: memoryview) -> None:
        there = min(len(buf), max(backing.size - offset, 0))
        if there:
            self.image.event(BlkdebugEvent.READ_BACKING_AIO)
            await backing.pread(offset, buf[:there])
        if there < len(buf):
            buf[there:] = bytes(len(buf) - there)

    async def _read_compressed(self, entry: int, within: int, buf: memoryview) -> None:
        host, length = compressed_range(entry, self.image.cluster_bits)
        data = bytearray(length)
        self.image.event(BlkdebugEvent.READ_COMPRESSED)
        await self.image.read(host, memoryview(data))
        cluster = await Call(self._inflate, bytes(data), self.image.cluster_size)
        buf[:] = cluster[within : within + len(buf)]
