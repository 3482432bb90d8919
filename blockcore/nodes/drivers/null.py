# SPDX-License-Identifier: MIT
"""The null-co driver: accepts all writes, and reads as zeroes."""

from __future__ import annotations

from blockcore.bql.effects import Until, never
from blockcore.nodes.definitions.options import BlockdevOptionsNull
from blockcore.nodes.driver import Extent, NodeHost, NodeOptions
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError

DEFAULT_SIZE = 1 << 30


class NullNode(BlockNode):
    """A null device; `size` is in bytes, `latency_ns` (ns) the duration of each request.

    QEMU does not touch the buffer of a read unless read-zeroes is on.  Over NBD
    that would give one client another request's data, so reads return zeroes.
    """

    driver = "null-co"

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        size: int = DEFAULT_SIZE,
        latency_ns: int = 0,
        read_zeroes: bool = False,
    ) -> None:
        super().__init__(options, host)
        self.size = size
        self.latency_ns = latency_ns
        self.read_zeroes = read_zeroes

    @classmethod
    async def make(cls, definition: BlockdevOptionsNull, making: Making) -> NullNode:
        if definition.size is not None and definition.size < 0:
            raise QmpError("Parameter 'size' expects a >0 size")
        return cls(
            making.options,
            making.host,
            size=DEFAULT_SIZE if definition.size is None else definition.size,
            latency_ns=definition.latency_ns or 0,
            read_zeroes=bool(definition.read_zeroes),
        )

    async def _take_time(self) -> None:
        if self.latency_ns:
            await Until(never, self._host.clock.monotonic_ns() + self.latency_ns)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        buf[:] = bytes(len(buf))
        await self._take_time()

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        await self._take_time()

    def writes_through(self) -> bool:
        return True

    async def write_through(self) -> None:
        """Do nothing: there is no data to flush, and the write has taken the latency."""

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self._take_time()

    async def do_allocated_file_size(self) -> int:
        return 0

    async def do_flush(self) -> None:
        await self._take_time()

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=not self.read_zeroes, zero=self.read_zeroes)
