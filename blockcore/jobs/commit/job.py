# SPDX-License-Identifier: MIT
"""block-commit of an image that nobody writes: its data goes down into one below it.

(`block/commit.c`.)  Committing the image under a running guest is a mirror.
"""

from __future__ import annotations

import errno

from blockcore.job.block_job import RETRY_NS, BlockJob
from blockcore.job.job import check_job_id
from blockcore.job.job_txn import JobTxn
from blockcore.jobs.commit.filter import CommitTopNode
from blockcore.jobs.filters import drop_filter, insert_filter
from blockcore.jobs.rules import JobOptions, NewBacking, quietly_read_only
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
from blockcore.qapi.names import (
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobType,
    QmpError,
)

CHUNK = 512 << 10
"""COMMIT_BUFFER_SIZE."""


class CommitJob(BlockJob):
    """Reads from `top`, as those above see it, and writes to `base`."""

    type = JobType.COMMIT

    def __init__(
        self,
        machine: Machine,
        root: BlockNode,
        base: BlockNode,
        options: JobOptions,
        *,
        on_error: BlockdevOnError,
        backing: NewBacking,
        base_read_only: bool,
    ) -> None:
        super().__init__(
            machine,
            JobTxn(machine),
            options.job_id,
            root,
            speed=options.speed,
            auto_finalize=options.auto_finalize,
            auto_dismiss=options.auto_dismiss,
        )
        self._machine = machine
        self._root = root
        self._filter: CommitTopNode | None = None
        self._base = base
        self._on_error = on_error
        self._backing = backing
        self._base_read_only = base_read_only
        self._buffer = memoryview(bytearray(CHUNK))
        self._frozen: FrozenChain | None = None

    def take_nodes(self, commit_top: CommitTopNode) -> None:
        """Use everything from under the filter down to the base; QmpError."""
        base, self._filter, self._top = self._base, commit_top, commit_top.below
        nodes = list(chain(self._top))
        self._between = nodes[: nodes.index(base)]
        # What is written to `base` makes those between inconsistent, but for
        # filters on it.  Not to allow writes to them would forbid writes to
        # what they are on.
        for node in self._between:
            shared = Perm.WRITE_UNCHANGED | Perm.WRITE
            if skip_filters(node) is skip_filters(base):
                shared |= Perm.CONSISTENT_READ
            self.add_node(node, NONE, shared, has_backend=node is self._top)
        reads = Perm.CONSISTENT_READ
        grows = Perm.RESIZE if base.size < self._top.size else NONE
        writes = reads | Perm.WRITE | grows
        self._frozen = FrozenChain(commit_top, base)
        try:
            self.add_node(base, writes, reads | Perm.WRITE_UNCHANGED, has_backend=True)
        except QmpError:
            self._unfreeze()
            raise

    async def run(self) -> None:
        length = self._top.size
        self.progress.set_remaining(length)
        if self._base.size < length:
            await self._base.truncate(length)
        offset = delay_ns = 0
        while offset < length:
            await self.sleep_for_limit(delay_ns)
            if self.is_cancelled:
                return
            operation, copied, done = IoOperationType.READ, False, 0
            try:
                copied, done = await is_allocated_above(
                    self._top, self._base, offset, min(CHUNK, length - offset)
                )
                zero = False
                if copied and self._machine.qemu.commits_write_zeroes:
                    extent = await self._top.block_status(offset, done)
                    zero, done = extent.zero, extent.length
                if zero:
                    operation = IoOperationType.WRITE
                    await self._base.zero(offset, done, may_unmap=True)
                elif copied:
                    part = self._buffer[:done]
                    await self._top.pread(offset, part)
                    operation = IoOperationType.WRITE
                    await self._base.pwrite(offset, part)
            except OSError as exc:
                action = self.error_action(self._on_error, operation, exc.errno or errno.EIO)
                if action is BlockErrorAction.REPORT:
                    raise
                delay_ns = RETRY_NS if action is BlockErrorAction.IGNORE else 0
                continue
            self.progress.update(done)
            offset += done
            delay_ns = self.delay_ns(done) if copied else 0

    async def prepare(self) -> None:
        """Let whoever is on the committed images be on `base` (bdrv_drop_intermediate).

        What has been copied is in the file before an overlay's header says
        that it is to be found there.
        """
        self._unfreeze()
        top_filter = self._filter
        assert top_filter is not None
        await self._base.flush()
        base = self._base
        # The job writes there no more: a writer forbids the users of the filter to have the
        # base as their backing file (commit_prepare unrefs `s->base` at this moment).
        self.keep_blocked(base)
        async with Drain(self._machine, [base]):
            for overlay in self._overlays(top_filter):
                await self._rename(overlay)
            await self._put_on_base(top_filter)

    async def _put_on_base(self, top_filter: CommitTopNode) -> None:
        """Close what is between; OSError(EIO) if the users of the filter cannot use the base."""
        try:
            async with Relink(self._machine.graph) as change:
                change.replace(top_filter, self._base)
                change.check()
                self._filter = None
                for node in self._between:
                    self.remove_node(node)
                change.release(top_filter)
        except QmpError:
            raise failure(errno.EIO) from None

    def _overlays(self, top_filter: CommitTopNode) -> list[BlockNode]:
        """The nodes on it; OSError(EIO) if another job relies on it or on one of the links."""
        overlays = [user for user in top_filter.parents if isinstance(user, BlockNode)]
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
        """Write the new name into the header of an image, which may be read-only.

        As in QEMU the image above a filter that is in between keeps its name
        for what it is on.
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

    async def abort(self) -> None:
        """The images are as before, but for what has been written to `base`."""
        self._unfreeze()
        self.remove_nodes()
        if self._filter is not None:
            await drop_filter(self._machine, self._filter)
            self._filter = None

    async def clean(self) -> None:
        self.keep_blocked(self._base)
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
    """Start committing `top`, which is under `root`, into `base` (commit_start); QmpError."""
    if skip_filters(top) is skip_filters(base):
        raise QmpError("Invalid files for merge: top and base are the same")
    check_job_id(machine, machine.device_of(root) if options.job_id is None else options.job_id)
    base_read_only = base.read_only
    if base_read_only:
        await set_read_only(machine, base, False)

    def make(node: NodeOptions) -> CommitTopNode:
        return CommitTopNode(node, machine, top)

    definition = BlockdevOptionsTop(
        driver="commit_top", node_name=options.filter_node_name, backing=top.node_name
    )
    job = commit_top = None
    try:
        job = CommitJob(
            machine,
            root,
            base,
            options,
            on_error=on_error,
            backing=backing,
            base_read_only=base_read_only,
        )
        commit_top = await insert_filter(machine, top, make, definition, read_only=True)
        job.take_nodes(commit_top)
    except QmpError:
        if job is not None:
            job.fail_early()
        if commit_top is not None:
            await drop_filter(machine, commit_top)
        if base_read_only:
            await quietly_read_only(machine, base)
        raise
    job.start()


def overlay_of(root: BlockNode, top: BlockNode) -> BlockNode:
    """The image whose backing file is committed; there is one, since `top` is not the root."""
    overlay = find_overlay(root, top)
    assert overlay is not None
    return overlay
