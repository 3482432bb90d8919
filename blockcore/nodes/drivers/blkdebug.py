# SPDX-License-Identifier: MIT
"""The blkdebug filter: its child, with faults written down in advance.

The rules themselves work in `faults/injector.py`, on whichever node they are; what
makes this driver special is that it comes with some, and with limits of its
own that send requests down less travelled roads.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blockcore.faults.injector import StateChange
from blockcore.faults.options import FaultOptions
from blockcore.nodes.driver import NodeHost, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import failure


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkdebugLimits:
    """QAPI's members of the same names, in bytes; 0 is no limit.

    Requests above a `max` are split.  Zeroes shorter than `opt_write_zero`
    are written as data, discards shorter than `opt_discard` are dropped.
    """

    max_transfer: int = 0
    opt_write_zero: int = 0
    max_write_zero: int = 0
    opt_discard: int = 0
    max_discard: int = 0


class BlkdebugNode(FilterNode):
    """Passes requests on to `image` after its rules have been asked."""

    driver = "blkdebug"
    filters = "image"
    passes_fua = True

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        image: BlockNode,
        *,
        config: str = "",
        rules: Iterable[FaultOptions] = (),
        changes: Iterable[StateChange] = (),
        limits: BlkdebugLimits | None = None,
    ) -> None:
        super().__init__(options, host, image)
        self.config = config
        self.limits = limits or BlkdebugLimits()
        self.injector().load(rules, changes)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        for start, end in _pieces(len(buf), self.limits.max_transfer):
            await self.below.pread(offset + start, buf[start:end])

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        for start, end in _pieces(len(buf), self.limits.max_transfer):
            await self.below.pwrite(offset + start, buf[start:end])

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        if length < self.limits.opt_write_zero:
            raise failure(errno.ENOTSUP)
        for start, end in _pieces(length, self.limits.max_write_zero):
            await self.below.zero_as_child(offset + start, end - start, may_unmap=may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        if length < self.limits.opt_discard:
            raise failure(errno.ENOTSUP)
        for start, end in _pieces(length, self.limits.max_discard):
            await self.below.discard(offset + start, end - start)

    def do_way(self) -> Way | None:
        return None if self.limits.max_transfer else self.below.way()


def _pieces(length: int, limit: int) -> Iterator[tuple[int, int]]:
    step = limit or length
    return ((start, min(start + step, length)) for start in range(0, length, step or 1))
