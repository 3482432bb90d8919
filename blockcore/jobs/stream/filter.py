# SPDX-License-Identifier: MIT
"""The copy-on-read filter: data that a read finds further down is kept in the image right below.

(`block/copy-on-read.c`.)  Streaming puts it over the image, so that guests'
reads do a part of the job's work.
"""

from __future__ import annotations

from blockcore.nodes.driver import NodeHost, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.graph.chain import backing_chain_next, is_allocated_above
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Pair, Perm, filtered_child
from blockcore.nodes.shortcut.way import Way


class CopyOnReadNode(FilterNode):
    """Copies what lies in the images from the next one down to `bottom`, including `bottom`."""

    driver = "copy-on-read"
    filters = "file"
    passes_fua = True
    of_job = True

    def __init__(
        self, options: NodeOptions, host: NodeHost, file: BlockNode, bottom: BlockNode
    ) -> None:
        super().__init__(options, host, file)
        self.bottom = bottom

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return a filter's permissions, and WRITE_UNCHANGED: reads write what is there already."""
        perm, shared = filtered_child(perm, shared)
        return perm | Perm.WRITE_UNCHANGED, shared | Perm.WRITE_UNCHANGED

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        done = 0
        while done < len(buf):
            copied, there = await self._source(offset + done, len(buf) - done)
            part = buf[done : done + there]
            await self.below.pread(offset + done, part, copy_on_read=copied)
            done += there

    async def _source(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the beginning of a range is to be kept, and its length in bytes.

        A range whose state cannot be found out is kept: the read will give the error.
        """
        try:
            there, known = await self.below.is_allocated(offset, length)
            if there:
                return False, known
            below = backing_chain_next(self.below)
            found, reaches = await is_allocated_above(
                below, self.bottom, offset, known, include_base=True
            )
        except OSError:
            return True, length
        return found, reaches or known

    def do_way(self) -> Way | None:
        """Return None: a read may have to write."""
        return None
