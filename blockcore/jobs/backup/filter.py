# SPDX-License-Identifier: MIT
"""The copy-before-write filter: data that is about to be overwritten is copied first.

(`block/copy-before-write.c`.)  Backups put it over their source, so that the
target has what was there when they began.
"""

from __future__ import annotations

import errno

from blockcore.faults.gate import EVERYWHERE
from blockcore.jobs.backup.block_copy import BlockCopy
from blockcore.jobs.backup.copy_call import CopyCall
from blockcore.nodes.driver import NodeHost, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import ALL, Pair, Perm, filtered_child
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import failure
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.ranges import align_down, align_up


class CopyBeforeWriteNode(FilterNode):
    """Copies what a guest's write is about to overwrite, before it lets the write go on.

    If the copy fails, the guest's write fails, and the backup does not learn of it
    (on-cbw-error=break-guest-write).  After the backup has been cancelled nothing is
    copied: the old data is no longer needed.

    `keeper` is the node that has the bitmap of what is to be copied: the source, or
    None for the filter itself.
    """

    driver = "copy-before-write"
    filters = "file"
    passes_fua = True
    of_job = True

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        copy: BlockCopy,
        keeper: BlockNode | None = None,
    ) -> None:
        super().__init__(options, host, copy.source)
        self.children["target"] = copy.target
        self.copy = copy
        self._keeper = keeper  # not itself: what refers to itself waits for the collector
        if keeper is None:
            self.bitmaps.add(copy.bitmap)
        self._done = DirtyBitmap(copy.source.size, copy.cluster_size)
        access = DirtyBitmap(copy.source.size, copy.cluster_size)
        access.set(0, access.size)
        for bitmap in (self._done, access):
            bitmap.enabled = False
            self.bitmaps.add(bitmap)

    @property
    def keeper(self) -> BlockNode:
        return self if self._keeper is None else self._keeper

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return the permissions on a child (cbw_child_perm).

        The target may be written by others as well: it may be below the source's guests.
        As long as there is nothing above the filter, others may write to the source.
        """
        if name == "target":
            return Perm.WRITE, ALL & ~Perm.RESIZE
        needs, shares = filtered_child(perm, shared)
        if not self.parents:
            return needs, shares
        if self._host.qemu.backups_read_below or perm & Perm.WRITE:
            needs |= Perm.CONSISTENT_READ
        if self.copy.discard_source:
            needs |= Perm.WRITE
        return needs, shares & ~(Perm.WRITE | Perm.RESIZE)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        await self._save(offset, len(buf))
        await super().do_pwrite(offset, buf)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self._save(offset, length)
        await super().do_zero(offset, length, may_unmap)

    async def _save(self, offset: int, length: int) -> None:
        """Copy the clusters that a request touches and that have not been copied; raise OSError.

        The error has the copy's errno, and does not tell which side of the backup has failed.
        """
        if self.copy.abandoned:
            return
        cluster = self.copy.cluster_size
        start, end = align_down(offset, cluster), align_up(offset + length, cluster)
        call = CopyCall(start, end)
        await self.copy.run(call)
        if call.error is not None and not self.copy.abandoned:
            # A SourceError would count as one of the source for a job that writes here.
            raise failure(call.error.errno or errno.EIO)
        self._done.set(start, end - start)

    async def flush(self, *, of_write: bool = False) -> None:
        """Flush the guest's data only; the target is the backup's affair (cbw_co_flush)."""
        await self.below.flush()

    def do_way(self) -> Way | None:
        """Return the way past the filter for reads; every write has to be saved first."""
        way = super().do_way()
        if way is not None:
            way.write_gate = EVERYWHERE
        return way
