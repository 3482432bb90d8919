# SPDX-License-Identifier: MIT
"""What a fault rule says, and what a kind of fault has to do.

A kind of fault is a subclass of `FaultOptions` with its own members, and with one
coroutine around the driver's part of a request.  `kinds` lists them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from blockcore.bql.clock import Clock
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType, QmpError, UInt64

SECTOR_SIZE = 512


class Request(NamedTuple):
    """One request to a node: what its driver is about to do.

    `offset` and `nbytes` are bytes, of a flush both 0.  `buf` has `nbytes` bytes
    and is there for reads (to be filled) and writes; `may_unmap` is for
    write-zeroes.
    """

    iotype: BlkdebugIOType
    offset: int
    nbytes: int
    buf: memoryview | None = None
    may_unmap: bool = False

    @property
    def data(self) -> memoryview:
        """Return the buffer of a read or write."""
        assert self.buf is not None
        return self.buf


R = TypeVar("R")

Go = Callable[[Request], Awaitable[R]]
"""Performs the driver's part of a request; raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOptions:
    """Which requests a rule hits; members as in QAPI's BlkdebugInjectErrorOptions, and ours.

    `offset` and `length` are bytes (`length` None: to the end of the device);
    a request is concerned if it overlaps the range.  `sector` is blkdebug's:
    the request must contain the first byte of that 512-byte sector; -1 is any.
    A flush has no range, so a rule with one never concerns it.  `after` requests
    that would match pass first; then `count` of them are hit (None: all; `once`
    is 1), each with probability `rate`.  `immediately` is about when QEMU's
    coroutine yields, which no client can see.
    """

    node_name: str
    id: str | None = None
    action: str = "error"
    event: BlkdebugEvent = BlkdebugEvent.NONE
    state: int = 0
    iotype: BlkdebugIOType | None = None
    sector: int = -1
    once: bool = False
    immediately: bool = False
    offset: UInt64 | None = None
    length: UInt64 | None = None
    count: UInt64 | None = None
    after: UInt64 = UInt64(0)
    rate: float = 1.0

    @property
    def lets_go(self) -> bool:
        """Whether a request that the rule hits is as if it had not: nothing is used up."""
        return False

    async def carry_out(self, request: Request, go: Go[R], clock: Clock) -> R:
        """Do to a request what the rule says; `go` performs the driver's part.

        `clock` is the machine's, for kinds that wait (`Until` takes deadlines of it).
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise QmpError if members contradict each other, or can never mean anything."""
        if self.sector != -1 and (self.offset is not None or self.length is not None):
            raise QmpError("'sector' and 'offset' cannot be specified at the same time")
        if self.state and self.event is BlkdebugEvent.NONE:
            raise QmpError("'state' needs an 'event'")
        if self.once and self.count is not None:
            raise QmpError("'once' and 'count' cannot be specified at the same time")
        if self.sector < -1:
            raise QmpError("Parameter 'sector' expects a sector number, or -1 for any")
        if not 0.0 <= self.rate <= 1.0:
            raise QmpError("Parameter 'rate' expects a number between 0 and 1")
        for name, value in (("count", self.count), ("length", self.length)):
            if value == 0:
                raise QmpError(f"Parameter '{name}' expects a value greater than zero")

    @property
    def ends(self) -> dict[str, int]:
        """Return, for each member that says where, the byte behind the first one that it needs."""
        places: dict[str, int] = {}
        if self.sector != -1:
            places["sector"] = self.sector * SECTOR_SIZE + 1
        if self.offset is not None:
            places["offset"] = self.offset + 1
        if self.length is not None:
            places["length"] = (self.offset or 0) + self.length
        return places

    @property
    def hits_max(self) -> int | None:
        """How many requests the rule hits before it is used up; None: any number."""
        return 1 if self.once else self.count

    @property
    def byte_range(self) -> tuple[int | None, int]:
        """Where requests are concerned, from and to; None: wherever they are."""
        if self.sector != -1:
            start = self.sector * SECTOR_SIZE
            return start, start + 1
        if self.offset is None and self.length is None:
            return None, 0
        start = self.offset or 0
        return start, (1 << 63) if self.length is None else start + self.length
