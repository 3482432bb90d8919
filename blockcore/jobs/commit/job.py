# SPDX-License-Identifier: MIT
"""block-commit of an image that has no writer: its data goes down into an image below it.

(`block/commit.c`.)  A commit of the image under a running guest is a mirror.
"""

from __future__ import annotations

import errno

from blockcore.job.block_job import BlockJob, BlockJobDriver
from blockcore.job.job import check_job_id
from blockcore.job.job_txn import JobTxn
from blockcore.job.options import JobOptions
from blockcore.jobs.chunks import CHUNK, copy_by_chunks
from blockcore.jobs.commit.filter import CommitTopNode
from blockcore.jobs.filters import drop_filter, insert_filter
from blockcore.jobs.rules import NewBacking, quietly_read_only
from blockcore.jobs.sides import of_source
from blockcore.jobs.undo import Undo
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.filter_options import BlockdevOptionsTop
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.graph.chain import (
    FrozenChain,
    chain,
    find_overlay,
    is_allocated_above,
    skip_filters,
)
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NONE, NodeUser, Perm
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlockdevOnError, JobType, QmpError


class Commit(BlockJobDriver):
    """The driver of a commit: it reads `top`, as the users of `top` see it, and writes `base`."""

    type = JobType.COMMIT

    def __init__(
        self,
        machine: Machine,
        base: BlockNode,
        *,
        on_error: BlockdevOnError,
        backing: NewBacking,
        base_read_only: bool,
    ) -> None:
        self.on_source_error = self.on_target_error = on_error
        self._machine = machine
        self._filter: CommitTopNode | None = None
        self._base = base
        self._backing = backing
        self._base_read_only = base_read_only
        self._zero = False
        self._buffer = memoryview(bytearray(CHUNK))
        self._frozen: FrozenChain | None = None

    def take_nodes(self, job: BlockJob, commit_top: CommitTopNode) -> None:
        """Use all nodes from below the filter down to the base; raise QmpError."""
        base, self._filter, self._top = self._base, commit_top, commit_top.below
        nodes = list(chain(self._top))
        self._between = nodes[: nodes.index(base)]
        # What is written to `base` makes the nodes between inconsistent, except filters on
        # `base`.  The job allows writes to all of them: otherwise it would forbid writes to
        # the nodes below them, its own among them.
        for node in self._between:
            shared = Perm.WRITE_UNCHANGED | Perm.WRITE
            if skip_filters(node) is skip_filters(base):
                shared |= Perm.CONSISTENT_READ
            job.add_node(node, NONE, shared, has_backend=node is self._top)
        reads = Perm.CONSISTENT_READ
        grows = Perm.RESIZE if base.size < self._top.size else NONE
        writes = reads | Perm.WRITE | grows
        self._frozen = FrozenChain(commit_top, base)
        try:
            job.add_node(base, writes, reads | Perm.WRITE_UNCHANGED, has_backend=True)
        except QmpError:
            self._unfreeze()
            raise

    async def run(self, job: BlockJob) -> None:
        """Copy what is above `base` into it, after `base` has grown to the size of `top`."""
        length = self._top.size
        job.progress.set_remaining(length)
        if self._base.size < length:
            await self._base.truncate(length)
        await copy_by_chunks(job, length, self._find, self._copy)

    async def _find(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the beginning of a range is above `base`, and its length in bytes."""
        copied, done = await is_allocated_above(self._top, self._base, offset, length)
        self._zero = False
        if copied and self._machine.qemu.commits_write_zeroes:
            extent = await self._top.block_status(offset, done)
            self._zero, done = extent.zero, extent.length
        return copied, done

    async def _copy(self, offset: int, length: int) -> None:
        """Copy what was found last; raise SourceError, or OSError if the base failed."""
        if self._zero:
            await self._base.zero(offset, length, may_unmap=True)
            return
        part = self._buffer[:length]
        await of_source(self._top.pread(offset, part))
        await self._base.pwrite(offset, part)

    async def prepare(self, job: BlockJob) -> None:
        """Put the users of the committed images on `base` (bdrv_drop_intermediate).

        The base is flushed before: what has been copied must be in the file when an
        overlay's header names the base.
        """
        self._unfreeze()
        top_filter = self._filter
        assert top_filter is not None
        await self._base.flush()
        base = self._base
        # The job writes there no more: a writer forbids the users of the filter to have the
        # base as their backing file (commit_prepare unrefs `s->base` at this moment).
        job.keep_blocked(base)
        async with Drain(self._machine, [base]):
            for overlay in self._overlays(top_filter):
                await self._rename(overlay)
            await self._put_on_base(job, top_filter)

    async def _put_on_base(self, job: BlockJob, top_filter: CommitTopNode) -> None:
        """Move the filter's users to the base and close the nodes between; raise OSError(EIO).

        That is the error if a user's permissions do not allow the base.
        """
        try:
            async with Relink(self._machine.graph) as change:
                change.replace(top_filter, self._base)
                change.check()
                self._filter = None
                for node in self._between:
                    job.remove_node(node)
                change.release(top_filter)
        except QmpError:
            raise failure(errno.EIO) from None

    def _overlays(self, top_filter: CommitTopNode) -> list[BlockNode]:
        """Return the nodes on the filter; raise OSError(EIO) if another job relies on it.

        It does if it is a user of the filter, or has frozen a link to it.
        """
        overlays = top_filter.node_parents
        frozen = [
            name
            for node in overlays
            for name, child in node.children.items()
            if child is top_filter and name in node.frozen
        ]
        if frozen or any(isinstance(user, NodeUser) for user in top_filter.parents):
            raise failure(errno.EIO)
        return overlays

    async def _rename(self, image: BlockNode) -> None:
        """Write the new backing file name into the header of an image, which may be read-only.

        A filter above the committed image has no header.  The image above that filter keeps
        the old name, as in QEMU.
        """
        if not image.supports_backing:
            return
        if read_only := image.read_only:
            await set_read_only(self._machine, image, False)
        try:
            await image.do_change_backing_file(*self._backing.of(self._base))
        finally:
            if read_only:
                await quietly_read_only(self._machine, image)

    async def abort(self, job: BlockJob) -> None:
        """Leave the images as they were, except for what has been written to `base`."""
        self._unfreeze()
        job.remove_nodes()
        await self.drop_filter()

    async def drop_filter(self) -> None:
        """Take the filter away, if it is there."""
        commit_top, self._filter = self._filter, None
        if commit_top is not None:
            await drop_filter(self._machine, commit_top)

    async def clean(self, job: BlockJob) -> None:
        """Give up writing to the base, and make it read-only again if it was."""
        job.keep_blocked(self._base)
        if self._base_read_only:
            await quietly_read_only(self._machine, self._base)

    def _unfreeze(self) -> None:
        if self._frozen is not None:
            self._frozen.thaw()


async def start_commit(
    machine: Machine,
    root: BlockNode,
    top: BlockNode,
    base: BlockNode,
    options: JobOptions,
    *,
    on_error: BlockdevOnError,
    backing: NewBacking,
) -> None:
    """Start committing `top`, which is below `root`, into `base` (commit_start); raise QmpError."""
    if skip_filters(top) is skip_filters(base):
        raise QmpError("Invalid files for merge: top and base are the same")
    check_job_id(machine, machine.device_of(root) if options.job_id is None else options.job_id)

    def make(node: NodeOptions) -> CommitTopNode:
        return CommitTopNode(node, machine, top)

    definition = BlockdevOptionsTop(
        driver="commit_top", node_name=options.filter_node_name, backing=top.node_name
    )
    async with Undo() as undo:
        base_read_only = base.read_only
        if base_read_only:
            await set_read_only(machine, base, False)
            undo.push_async_callback(quietly_read_only, machine, base)
        commit = Commit(
            machine, base, on_error=on_error, backing=backing, base_read_only=base_read_only
        )
        job = BlockJob(machine, commit, JobTxn(machine), root, options)
        # The filter goes after the job, whose permissions would be in the way (commit_start).
        undo.push_async_callback(commit.drop_filter)
        undo.callback(job.fail_early)
        commit_top = await insert_filter(machine, top, make, definition, read_only=True)
        commit.take_nodes(job, commit_top)
        undo.pop_all()
    job.start()


def overlay_of(root: BlockNode, top: BlockNode) -> BlockNode:
    """Return the image whose backing file is `top`; there is one, since `top` is not the root."""
    overlay = find_overlay(root, top)
    assert overlay is not None
    return overlay
