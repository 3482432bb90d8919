# SPDX-License-Identifier: MIT
"""block-stream: copy into an image what it needs from the images below it.

(`block/stream.c`.)
"""

from __future__ import annotations

import errno

from blockcore.job.block_job import BlockJob, BlockJobDriver
from blockcore.job.job_txn import JobTxn
from blockcore.job.options import JobOptions
from blockcore.jobs.chunks import copy_by_chunks
from blockcore.jobs.filters import drop_filter, insert_node, told
from blockcore.jobs.rules import NewBacking, quietly_read_only
from blockcore.jobs.sides import of_source
from blockcore.jobs.stream.filter import CopyOnReadNode
from blockcore.jobs.undo import Undo
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.filter_options import BlockdevOptionsCor
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.graph.chain import (
    FrozenChain,
    chain,
    find_base,
    find_overlay,
    is_allocated_above,
    skip_filters,
)
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NONE, NodeUser, Perm
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlockdevOnError, JobType, QmpError

_SHARED = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED
"""The permissions that the job leaves to others on the nodes that it reads."""


class Extent:
    """The part of a chain that is streamed: below `target`, down to `bottom` inclusive.

    `above_base` is the lowest node that the target will not need: the node below it
    will be below `target`.  Filters over `base` go away with the images, filters below
    `bottom` stay.
    """

    def __init__(self, target: BlockNode, base: BlockNode | None, bottom: BlockNode | None) -> None:
        self.target = target
        if bottom is not None:
            lowest = bottom
        elif base is not None:
            lowest = find_overlay(target, base) or target
        else:
            lowest = find_base(target)
        self.bottom = lowest
        self.above_base = lowest
        below = lowest.cow if base is not None else None
        while below is not None and below.filtered is not None and below is not base:
            self.above_base, below = below, below.filtered

    def intermediate(self) -> list[BlockNode]:
        """Return the nodes below the target that it will not need any more."""
        nodes = list(chain(self.target))
        return nodes[1 : nodes.index(self.above_base) + 1]


class Stream(BlockJobDriver):
    """The driver of a stream: it reads through the filter, which keeps the data, as guests do."""

    type = JobType.STREAM

    def __init__(
        self,
        machine: Machine,
        cor: CopyOnReadNode,
        extent: Extent,
        *,
        on_error: BlockdevOnError,
        backing: NewBacking,
        target_read_only: bool,
        frozen: FrozenChain,
    ) -> None:
        self.on_source_error = on_error
        self._cor: CopyOnReadNode | None = cor
        self._machine = machine
        self._target = extent.target
        self._extent = extent
        self._backing = backing
        self._target_read_only = target_read_only
        self._frozen = frozen

    def take_nodes(self, job: BlockJob) -> None:
        """Use the target, and the nodes that it will not need any more; raise QmpError."""
        job.add_node(self._target, Perm.WRITE_UNCHANGED, _SHARED | Perm.WRITE)
        for node in self._extent.intermediate():
            job.add_node(node, NONE, _SHARED)

    async def run(self, job: BlockJob) -> None:
        """Copy what the target lacks, unless nothing is below it in the streamed part."""
        if skip_filters(self._target) is self._extent.bottom:
            return
        length = self._target.size
        job.progress.set_remaining(length)
        await copy_by_chunks(job, length, self._find, self._populate, skips_ignored=True)

    async def _find(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the beginning of a range is to be copied, and its length in bytes."""
        target = skip_filters(self._target)
        there, known = await target.is_allocated(offset, length)
        if there:
            return False, known
        below = target.cow
        assert below is not None
        found, reaches = await is_allocated_above(
            below, self._extent.bottom, offset, known, include_base=True
        )
        # The images below end before this place: nothing is left to copy.
        if not found and not reaches:
            return False, self._target.size - offset
        return found, reaches

    async def _populate(self, offset: int, length: int) -> None:
        """Copy a range into the target; every failure counts as one of reading, as in QEMU."""
        await of_source(self._target.populate(offset, length))

    async def prepare(self, job: BlockJob) -> None:
        """Make the node below the streamed part the backing file, in the header and the graph.

        (stream_prepare.)  The target is flushed before: what has been copied must be on
        the disk when the header no longer names the images that it came from.
        """
        self._frozen.thaw()
        await self._drop_filter(job)
        target = skip_filters(self._target)
        above = self._extent.above_base
        if target.cow is None:
            return
        await target.flush()
        base = above.filtered or above.cow
        async with Drain(self._machine, [target]):
            await self._write_header(target, None if base is None else skip_filters(base))
            await self._put_on(job, target, base)

    async def _put_on(self, job: BlockJob, target: BlockNode, base: BlockNode | None) -> None:
        """Change the backing link and close the streamed images (bdrv_set_backing_hd).

        Raise OSError(EPERM), and change nothing, if permissions do not allow it.
        """
        # The job still reads the target, as it did through the filter: the new link must allow it.
        reader = NodeUser(Perm.CONSISTENT_READ, _SHARED | Perm.WRITE)
        try:
            async with Relink(self._machine.graph) as change:
                change.set_child(target, "backing", base)
                # At the end of the block a server may keep an image from closing: that must not
                # leave the target with a user who is not there.
                target.parents.append(reader)
                try:
                    change.check()
                finally:
                    target.parents.remove(reader)
                for node in job.nodes:
                    if node is not self._target:
                        job.remove_node(node)
        except QmpError:
            raise failure(errno.EPERM) from None

    async def _write_header(self, target: BlockNode, base: BlockNode | None) -> None:
        if base is None:
            await target.do_change_backing_file(None, None)
        else:
            await target.do_change_backing_file(*self._backing.of(base))

    async def clean(self, job: BlockJob) -> None:
        """Take the filter away, and make the target read-only again if the release does so."""
        self._frozen.thaw()
        await self._drop_filter(job)
        if self._target_read_only and self._machine.qemu.streams_restore_read_only:
            job.keep_blocked(self._target, Perm.CONSISTENT_READ)
            await quietly_read_only(self._machine, self._target)

    async def _drop_filter(self, job: BlockJob) -> None:
        cor, self._cor = self._cor, None
        if cor is not None:
            job.remove_node(cor)
            await drop_filter(self._machine, cor)


async def start_stream(
    machine: Machine,
    target: BlockNode,
    base: BlockNode | None,
    bottom: BlockNode | None,
    options: JobOptions,
    *,
    on_error: BlockdevOnError,
    backing: NewBacking,
) -> None:
    """Start streaming (stream_start); raise QmpError, and nothing has changed.

    `base` is the node that stays below, `bottom` the lowest node to copy; at most one
    of them is given.
    """
    extent = Extent(target, base, bottom)

    def make(node: NodeOptions) -> CopyOnReadNode:
        return CopyOnReadNode(node, machine, target, extent.bottom)

    definition = BlockdevOptionsCor(
        driver="copy-on-read",
        node_name=options.filter_node_name,
        file=target.node_name,
        bottom=extent.bottom.node_name,
    )
    async with Undo() as undo:
        read_only = target.read_only
        if read_only:
            await _make_writable(machine, extent)
            undo.push_async_callback(quietly_read_only, machine, target)
        cor = await insert_node(machine, target, make, definition)
        undo.push_async_callback(drop_filter, machine, cor)
        with told("Could not create node: "):
            frozen = FrozenChain(cor, extent.bottom)
        undo.callback(frozen.thaw)
        stream = Stream(
            machine,
            cor,
            extent,
            on_error=on_error,
            backing=backing,
            target_read_only=read_only,
            frozen=frozen,
        )
        job = BlockJob(machine, stream, JobTxn(machine), cor, options)
        undo.callback(job.fail_early)
        stream.take_nodes(job)
        undo.pop_all()
    job.start()


async def _make_writable(machine: Machine, extent: Extent) -> None:
    """Reopen the target as writable, with the chain frozen as it will be during the job."""
    held = FrozenChain(extent.target, extent.above_base)
    try:
        await set_read_only(machine, extent.target, False)
    finally:
        held.thaw()
