# SPDX-License-Identifier: MIT
"""Data from one node to another: a read and a write, or one call past nodes that need not know.

What forbids a guest the short path forbids this one too (`direct`).
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcore.bql.effects import LaneCall
from blockcore.nodes.direct import Direct
from blockcore.nodes.drivers.file_io import read_all, write_all
from blockcore.nodes.node import BlockNode
from blockcore.rules.host import Concerned

Part = tuple[int, int]
"""Offset and length, in bytes."""


class SourceError(OSError):
    """It was the source that failed."""


class DataCopier:
    """Copies parts of `source` to the same places of `target`; `most` bytes are usual.

    With one call for both, there are no more buffers in use than threads, and
    what a buffer holds is still in a processor's cache when it is written.
    """

    def __init__(
        self, host: Concerned, source: BlockNode, target: BlockNode, most: int
    ) -> None:
        self._host = host
        self._source = source
        self._target = target
        self._most = most
        self._buffers: list[memoryview] = []
        self._concerns: int | None = None
        self._read: Direct | None = None
        self._write: Direct | None = None

    async def copy(self, offset: int, length: int) -> None:
        """Raises SourceError, or OSError if it was the target that failed."""
        ways = self._ways(offset, length)
        if ways is not None:
            _, error = await self._past(*ways, ((offset, length),))
            if error is not None:
                raise error
            return
        buffer = self._buffer(length)
        try:
            try:
                await self._source.pread(offset, buffer[:length])
            except OSError as exc:
                raise SourceError(exc.errno, exc.strerror) from None
            await self._target.pwrite(offset, buffer[:length])
        finally:
            self._buffers.append(buffer)

    def is_unseen(self, offset: int, length: int) -> bool:
        """Whether to read and write a part, and to ask what it is, concerns nobody now."""
        ways = self._ways(offset, length)
        return ways is not None and not ways[0].has_rules

    async def copy_all(self, parts: Sequence[Part]) -> tuple[int, OSError | None]:
        """Copy one part after the other, until one fails.

        Gives how many have been copied, and the error of the next as `copy` raises it.
        """
        ways = self._ways(*parts[0])
        if ways is not None and all(self._ways(*part) is not None for part in parts[1:]):
            return await self._past(*ways, parts)
        for done, part in enumerate(parts):
            try:
                await self.copy(*part)
            except OSError as exc:
                return done, exc
        return len(parts), None

    def _ways(self, offset: int, length: int) -> tuple[Direct, Direct] | None:
        """Both files, if what is to be read and written there concerns nobody now."""
        if offset + length > min(self._source.size, self._target.size):
            return None
        concerns = self._host.concerns
        if self._concerns != concerns:
            self._read, self._write = _plain(self._source), _plain(self._target)
            self._concerns = concerns
        read, write = self._read, self._write
        if read is None or read.read_gate.touches(offset, length):
            return None
        if write is None or write.write_gate.touches(offset, length):
            return None
        return read, write

    async def _past(
        self, read: Direct, write: Direct, parts: Sequence[Part]
    ) -> tuple[int, OSError | None]:
        """Leave the traces that the nodes' own reads and writes would have left."""
        for passing in read.read_passes:
            passing()
        lane = read.system.copying_to(write.system)
        done, error = await LaneCall(lane, self._move_all, read, write, parts)
        touched = done if error is None or isinstance(error, SourceError) else done + 1
        for part in parts[:touched]:
            _written(write, *part)
        return done, error

    def _move_all(
        self, read: Direct, write: Direct, parts: Sequence[Part]
    ) -> tuple[int, OSError | None]:
        """Called without the lock, on several threads."""
        for done, (offset, length) in enumerate(parts):
            try:
                self._move(read.fd, offset + read.shift, write.fd, offset + write.shift, length)
            except OSError as exc:
                return done, exc
        return len(parts), None

    def _move(self, read_fd: int, read_at: int, write_fd: int, write_at: int, length: int) -> None:
        buffer = self._buffer(length)
        try:
            try:
                read_all(read_fd, buffer[:length], read_at)
            except OSError as exc:
                raise SourceError(exc.errno, exc.strerror) from None
            write_all(write_fd, buffer[:length], write_at)
        finally:
            self._buffers.append(buffer)

    def _buffer(self, length: int) -> memoryview:
        """To be put back; with or without the lock."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(self._most))
        return buffer if len(buffer) >= length else memoryview(bytearray(length))


def _plain(node: BlockNode) -> Direct | None:
    """The way to the file of a node whose requests need not wait for each other."""
    below: BlockNode | None = node
    while below is not None:
        if below.requests is not None:
            return None
        below = below.file or below.filtered
    return node.direct()


def _written(write: Direct, offset: int, length: int) -> None:
    for passing in write.write_passes:
        passing()
    for bitmap, shift in write.bitmaps:
        bitmap.set(offset + shift, length)
    for node, shift in write.nodes:
        node.wrote_directly(offset + length + shift)
