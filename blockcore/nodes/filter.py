# SPDX-License-Identifier: MIT
"""The base of filters: nodes that show one child's data, and do something on the way."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar

from blockcore.faults.options import Request
from blockcore.nodes.driver import Extent, NodeHost, NodeOptions
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.names import FaultIOType


class FilterNode(BlockNode):
    """A node that passes all requests to `below`, its child with the name `filters`."""

    filters: ClassVar[str]

    shows_child = True

    def __init__(self, options: NodeOptions, host: NodeHost, below: BlockNode) -> None:
        super().__init__(options, host)
        self.children[self.filters] = below
        self.below = below

    def set_child(self, name: str, child: BlockNode | None) -> None:
        super().set_child(name, child)
        if name == self.filters and child is not None:
            self.below = child

    async def do_open(self) -> None:
        self.size = self.below.size
        self.cluster_size = self.below.cluster_size

    def reconfigured(self) -> None:
        self.cluster_size = self.below.cluster_size
        self.child_resized()

    def child_resized(self) -> None:
        if self.size != self.below.size:
            self.resized(self.below.size)

    async def pread(
        self, offset: int, buf: memoryview, *, copy_on_read: bool = False
    ) -> None:
        if not copy_on_read:
            await super().pread(offset, buf)
            return
        request = Request(FaultIOType.READ, offset, len(buf), buf)
        # Passed on as it is: the node below has the image, and tracks the requests.
        await self.perform(request, self._read_below_and_keep)

    async def populate(self, offset: int, length: int) -> None:
        request = Request(FaultIOType.READ, offset, length)
        await self.perform(request, self._populate_below)

    def _read_below_and_keep(self, request: Request) -> Awaitable[None]:
        return self.below.pread(request.offset, request.data, copy_on_read=True)

    def _populate_below(self, request: Request) -> Awaitable[None]:
        return self.below.populate(request.offset, request.nbytes)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        await self.below.pread(offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        await self.below.pwrite(offset, buf)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self.below.zero_as_child(offset, length, may_unmap=may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        await self.below.discard(offset, length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return await self.below.block_status(offset, length)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        return await self.below.is_allocated(offset, length)

    async def do_truncate(self, size: int) -> None:
        await self.below.truncate(size)

    def do_way(self) -> Way | None:
        return self.below.way()
