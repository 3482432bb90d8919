"""The raw format: its child's bytes, or a window of them."""

from __future__ import annotations

import errno
import os

from blockcore.gate import Gate
from blockcore.nodes.direct import Direct
from blockcore.nodes.node import BlockNode, Extent, NodeOptions, Surroundings
from blockcore.nodes.probe import PROBE_BYTES, format_of
from blockcore.qapi import BlkdebugEvent, QmpError


class RawNode(BlockNode):
    """Passes requests on, `offset` bytes further down, and says so to its child.

    `offset` and `size` are QAPI's BlockdevOptionsRaw, bytes; `size` None is
    all there is behind `offset`.  Of a `probed` one nobody has said that it
    is raw: a guest must not make it look like an image of another format,
    which could refer to any file, for the next who opens it.
    """

    driver = "raw"

    def __init__(
        self,
        options: NodeOptions,
        around: Surroundings,
        file: BlockNode,
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        super().__init__(options, around)
        self.children["file"] = file
        self.below = file
        self.offset = offset
        self.window = size
        self.probed = False

    async def do_open(self) -> None:
        """Check the window against the child, in QEMU's words (raw_apply_options)."""
        there = self.below.size
        if self.offset > there:
            raise QmpError("The requested offset is larger than the containing file")
        if self.window is not None and there - self.offset < self.window:
            raise QmpError("The requested size is larger than the containing file")
        self.size = there - self.offset if self.window is None else self.window
        self.cluster_size = self.below.cluster_size

    def child_resized(self) -> None:
        if self.window is None:
            self.resized(max(self.below.size - self.offset, 0))

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self.child_event(BlkdebugEvent.READ_AIO)
        await self.below.pread(self.offset + offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        if self.probed and offset < PROBE_BYTES:
            await self._check_format(offset, buf)
        self.child_event(BlkdebugEvent.WRITE_AIO)
        await self.below.pwrite(self.offset + offset, buf)

    async def _check_format(self, offset: int, buf: memoryview) -> None:
        """OSError(EPERM) if a write would make a known format of this."""
        data = bytearray(min(PROBE_BYTES, max(self.size, offset + len(buf))))
        if offset or len(buf) < len(data):
            await self.below.pread(self.offset, memoryview(data))
        part = buf[: len(data) - offset]
        data[offset : offset + len(part)] = part
        if format_of(data) != "raw":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self.below.zero(
            self.offset + offset, length, may_unmap=may_unmap, no_fallback=True
        )

    async def do_discard(self, offset: int, length: int) -> None:
        await self.below.discard(self.offset + offset, length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return await self.below.block_status(self.offset + offset, length)

    async def do_truncate(self, size: int) -> None:
        if self.window is not None:
            raise QmpError("Cannot resize fixed-size raw disks")
        await self.below.truncate(self.offset + size)

    def do_direct(self) -> Direct | None:
        direct = self.below.direct((BlkdebugEvent.READ_AIO,), (BlkdebugEvent.WRITE_AIO,))
        if direct is not None and self.probed:
            direct.write_gate = direct.write_gate.union(Gate([(0, PROBE_BYTES)]), self.offset)
        if direct is None or not self.offset:
            return direct
        return direct.shifted(self.offset)
