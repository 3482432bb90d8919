# SPDX-License-Identifier: MIT
"""The filter over the source of a mirror (`block/mirror.c`: bdrv_mirror_top).

In the background copy mode it passes requests on, and marks what is written unless
the source does.  With write-blocking a guest's write goes to the target as well
before it is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.faults.gate import EVERYWHERE
from blockcore.nodes.driver import NodeHost, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import ALL, NONE, Pair, Perm, filtered_child
from blockcore.nodes.shortcut.way import Way
from blockcore.rules.bitmap import DirtyBitmap

ToTarget = Callable[[BlockNode, int, int], Awaitable[None]]
"""Repeats on the target, in a part, what was done to the source: target, offset, length."""


class Active(Protocol):
    """The part of the job that copies what guests write (`active.ActiveWrites`)."""

    @property
    def wanted(self) -> Callable[[], bool]:
        """The test of whether writes are to go to the target now."""

    def missed(self) -> None:
        """Take note of a write that did not go to the target."""

    def write(self, offset: int, length: int) -> AbstractAsyncContextManager[None]:
        """Keep the job from a range until the target is written, after its copies there."""

    async def to_target(self, offset: int, length: int, do: ToTarget) -> None:
        """Write the target after the source has been written; never fail for the guest."""


class MirrorTopNode(FilterNode):
    """The filter over a mirror's source.

    `job` is there while the mirror works; `stopped` is set when it needs the source no
    more.  `is_commit`: the target is a node of the source's own chain.
    """

    driver = "mirror_top"
    filters = "backing"
    of_job = True
    never_frozen = True

    job: Active | None = None
    stopped = False
    is_commit = False

    def __init__(self, options: NodeOptions, host: NodeHost, below: BlockNode) -> None:
        super().__init__(options, host, below)
        self._marks: DirtyBitmap | None = None
        self._copies = False
        self._unmarked: list[tuple[int, int]] = []
        """The ranges that are being written and will be marked afterwards."""

    @property
    def marks(self) -> DirtyBitmap | None:
        """The job's bitmap, where this filter marks writes; None if the source records in it."""
        return self._marks

    @marks.setter
    def marks(self, bitmap: DirtyBitmap | None) -> None:
        self._marks = bitmap
        self.concerns_changed()

    @property
    def copies(self) -> bool:
        """Whether the job may want guests' writes to go to the target as well."""
        return self._copies

    @copies.setter
    def copies(self, on: bool) -> None:
        self._copies = on
        self.concerns_changed()

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return the permissions on the source (bdrv_mirror_top_child_perm).

        In a commit the nodes below may be inconsistent, and the job writes to them.
        """
        if self.stopped:
            return NONE, ALL
        perm, shared = filtered_child(perm, shared)
        if self.is_commit:
            return perm & ~Perm.CONSISTENT_READ, shared | Perm.WRITE
        return perm, shared

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        async def again(target: BlockNode, at: int, length: int) -> None:
            await target.pwrite(at, buf[at - offset : at - offset + length])

        await self._twice(offset, len(buf), partial(super().do_pwrite, offset, buf), again)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        async def again(target: BlockNode, at: int, part: int) -> None:
            await target.zero(at, part, may_unmap=may_unmap)

        once = partial(super().do_zero, offset, length, may_unmap)
        await self._twice(offset, length, once, again)

    async def _twice(
        self, offset: int, length: int, once: Callable[[], Awaitable[None]], again: ToTarget
    ) -> None:
        """Do a write to the source, then to the target if the job wants that."""
        job = self.job
        if job is None or not job.wanted():
            await self._once(offset, length, once)
            return
        # A write that began before the copying is marked when it ends.  This write must wait
        # until then, or it would clear that mark.  (QEMU does not wait: mirror_change.)
        await Until(partial(self._is_settled, offset, offset + length))
        async with job.write(offset, length):
            try:
                await once()
            except OSError:
                # A part may have been written, so that it is marked; QEMU does not.
                self._missed(offset, length)
                raise
            await job.to_target(offset, length, again)

    async def _once(
        self, offset: int, length: int, once: Callable[[], Awaitable[None]]
    ) -> None:
        """Do a write to the source only, and mark where."""
        place = (offset, offset + length)
        self._unmarked.append(place)
        try:
            await once()
        finally:
            # Marked also after a failure: a part may have been written.
            self._unmarked.remove(place)
            self._missed(offset, length)

    def _missed(self, offset: int, length: int) -> None:
        if self.marks is not None:
            self.marks.set(offset, length)
        if self.job is not None:
            self.job.missed()

    def _is_settled(self, start: int, end: int) -> bool:
        return not any(start < others and other < end for other, others in self._unmarked)

    def do_way(self) -> Way | None:
        """Return the way past the filter.

        A write may not take it if it may have to go to the target as well; else it marks
        the job's bitmap, as a write on the long way does.
        """
        way = super().do_way()
        if way is not None and self.copies:
            way.write_gate = EVERYWHERE
        elif way is not None and self.marks is not None:
            way.traces.mark_in(self.marks)
        return way
