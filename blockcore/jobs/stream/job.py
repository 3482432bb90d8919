# SPDX-License-Identifier: MIT
"""block-stream: an image gets what it lacks from below, until it needs that no more.

(`block/stream.c`.)
"""

from __future__ import annotations

import errno

from blockcore.job.block_job import BlockJob
from blockcore.job.job_txn import JobTxn
from blockcore.jobs.filters import drop_filter, insert_node, told
from blockcore.jobs.rules import JobOptions, NewBacking, quietly_read_only
from blockcore.jobs.stream.filter import CopyOnReadNode
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
from blockcore.qapi.names import (
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobType,
    QmpError,
)

CHUNK = 512 << 10
"""STREAM_CHUNK: how much is looked at, and copied, in one go."""

_SHARED = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED


class Extent:
    """Which part of a chain is streamed: from below `target` down to `bottom`, that included.

    `above_base` is the lowest node that the target will not need: what is under
    it will be under `target`.  Filters over `base` are done without, those
    under `bottom` are not.
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
        """The nodes under the target that it will not need any more."""
        nodes = list(chain(self.target))
        return nodes[1 : nodes.index(self.above_base) + 1]


class StreamJob(BlockJob):
    """Reads through the filter, which is where guests read as well."""

    type = JobType.STREAM

    def __init__(
        self,
        machine: Machine,
        cor: CopyOnReadNode,
        extent: Extent,
        options: JobOptions,
        *,
        on_error: BlockdevOnError,
        backing: NewBacking,
        target_read_only: bool,
        frozen: FrozenChain,
    ) -> None:
        self._cor: CopyOnReadNode | None = cor
        super().__init__(
            machine,
            JobTxn(machine),
            options.job_id,
            cor,
            speed=options.speed,
            auto_finalize=options.auto_finalize,
            auto_dismiss=options.auto_dismiss,
        )
        self._machine = machine
        self._target = extent.target
        self._extent = extent
        self._on_error = on_error
        self._backing = backing
        self._target_read_only = target_read_only
        self._frozen = frozen
        try:
            self.add_node(extent.target, Perm.WRITE_UNCHANGED, _SHARED | Perm.WRITE)
            for node in extent.intermediate():
                self.add_node(node, NONE, _SHARED)
        except QmpError:
            self.fail_early()
            raise

    async def run(self) -> None:
        target = skip_filters(self._target)
        if target is self._extent.bottom:
            return
        length = self._target.size
        self.progress.set_remaining(length)
        first_error: OSError | None = None
        offset = delay_ns = 0
        while offset < length:
            await self.sleep_for_limit(delay_ns)
            if self.is_cancelled:
                break
            delay_ns, copied, done = 0, False, 0
            try:
                copied, done = await self._find(target, offset, min(CHUNK, length - offset))
                if copied:
                    await self._target.populate(offset, done)
            except OSError as exc:
                done = done or min(CHUNK, length - offset)
                action = self.error_action(
                    self._on_error, IoOperationType.READ, exc.errno or errno.EIO
                )
                if action is BlockErrorAction.STOP:
                    continue
                first_error = first_error or exc
                if action is BlockErrorAction.REPORT:
                    break
            self.progress.update(done)
            offset += done
            delay_ns = self.delay_ns(done) if copied else 0
        if first_error is not None:
            raise first_error

    async def _find(self, target: BlockNode, offset: int, length: int) -> tuple[bool, int]:
        """Whether the beginning of a range is to be copied, and how much of it."""
        there, known = await target.is_allocated(offset, length)
        if there:
            return False, known
        below = target.cow
        assert below is not None
        found, reaches = await is_allocated_above(
            below, self._extent.bottom, offset, known, include_base=True
        )
        if not found and not reaches:
            return False, self._target.size - offset
        return found, reaches

    async def prepare(self) -> None:
        """Make what is under the streamed part the backing file, in the header and the graph.

        What has been copied is on the disk before the header does without
        what it was copied from, as with commits.
        """
        self._frozen.thaw()
        await self._drop_filter()
        target = skip_filters(self._target)
        above = self._extent.above_base
        if target.cow is None:
            return
        await target.flush()
        base = above.filtered or above.cow
        async with Drain(self._machine, [target]):
            await self._write_header(target, None if base is None else skip_filters(base))
            await self._put_on(target, base)

    async def _put_on(self, target: BlockNode, base: BlockNode | None) -> None:
        """Change the link and close what is streamed, or nothing and OSError(EPERM).

        (bdrv_set_backing_hd.)  The job reads the target still, as it did
        through the filter.
        """
        reader = NodeUser(Perm.CONSISTENT_READ, _SHARED | Perm.WRITE)
        target.parents.append(reader)
        try:
            async with Relink(self._machine.graph) as change:
                change.set_child(target, "backing", base)
                change.check()
                for node in self.nodes:
                    if node is not self._target:
                        self.remove_node(node)
        except QmpError:
            raise failure(errno.EPERM) from None
        finally:
            target.parents.remove(reader)

    async def _write_header(self, target: BlockNode, base: BlockNode | None) -> None:
        if base is None:
            await target.do_change_backing_file(None, None)
        else:
            await target.do_change_backing_file(*self._backing.of(base))

    async def clean(self) -> None:
        self._frozen.thaw()
        await self._drop_filter()
        if self._target_read_only and self._machine.qemu.streams_restore_read_only:
            self.keep_blocked(self._target, Perm.CONSISTENT_READ)
            await quietly_read_only(self._machine, self._target)

    async def _drop_filter(self) -> None:
        cor, self._cor = self._cor, None
        if cor is not None:
            self.remove_node(cor)
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
    """Start streaming (stream_start); QmpError, and nothing has changed."""
    extent = Extent(target, base, bottom)
    read_only = target.read_only
    if read_only:
        await _make_writable(machine, extent)

    def make(node: NodeOptions) -> CopyOnReadNode:
        return CopyOnReadNode(node, machine, target, extent.bottom)

    definition = BlockdevOptionsCor(
        driver="copy-on-read",
        node_name=options.filter_node_name,
        file=target.node_name,
        bottom=extent.bottom.node_name,
    )
    cor = frozen = None
    try:
        cor = await insert_node(machine, target, make, definition)
        with told("Could not create node: "):
            frozen = FrozenChain(cor, extent.bottom)
        job = StreamJob(
            machine,
            cor,
            extent,
            options,
            on_error=on_error,
            backing=backing,
            target_read_only=read_only,
            frozen=frozen,
        )
    except QmpError:
        if frozen is not None:
            frozen.thaw()
        if cor is not None:
            await drop_filter(machine, cor)
        if read_only:
            await quietly_read_only(machine, target)
        raise
    job.start()


async def _make_writable(machine: Machine, extent: Extent) -> None:
    """With the chain held, as it will be from then on."""
    held = FrozenChain(extent.target, extent.above_base)
    try:
        await set_read_only(machine, extent.target, False)
    finally:
        held.thaw()
