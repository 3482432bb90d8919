# SPDX-License-Identifier: MIT
"""Mirrors: a copy that follows the drive until it takes the drive's place (`block/mirror.c`).

The same engine commits the image that a guest writes to: the target is then a
node of the source's own chain.
"""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from blockcore.job.block_job import BlockJob, BlockJobDriver
from blockcore.job.job_txn import JobTxn
from blockcore.job.options import JobOptions
from blockcore.jobs.filters import insert_filter
from blockcore.jobs.mirror.filter import MirrorTopNode
from blockcore.jobs.mirror.options import BackingMode, MirrorOptions
from blockcore.jobs.mirror.work import MirrorWork
from blockcore.jobs.rules import quietly_read_only
from blockcore.jobs.undo import Undo
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.filter_options import BlockdevOptionsTop
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.graph.chain import FrozenChain, chain, skip_filters
from blockcore.nodes.graph.relink import Relink, take_away
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import NONE, Perm
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import JobType, MirrorCopyMode, QmpError
from blockcore.rules.bitmap import DirtyBitmap

_READ, _WRITE, _UNCHANGED = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED


class Mirror(BlockJobDriver):
    """The driver of a mirror: its work (`work`), what users may ask of it, and its end.

    The bitmap of what differs belongs to `keeper`, the source or the filter.
    """

    def __init__(
        self, machine: Machine, top: MirrorTopNode, target: BlockNode, mirror: MirrorOptions
    ) -> None:
        # QEMU shows a commit of the active image as a commit (commit_active_job_driver).
        self.type = JobType.COMMIT if mirror.is_commit else JobType.MIRROR
        self.on_source_error = mirror.on_source_error
        self.on_target_error = mirror.on_target_error
        self._mirror = mirror
        self._machine = machine
        self._top = top
        self._source = top.below
        self._target = target
        bitmap = DirtyBitmap(self._source.size, mirror.granularity)
        self.keeper = top if machine.qemu.job_filters_keep_bitmaps else self._source
        top.copies = mirror.copy_mode is MirrorCopyMode.WRITE_BLOCKING
        if top.copies or self.keeper is top:
            bitmap.enabled = False
            top.marks = bitmap
        self.work = MirrorWork(machine, top, target, bitmap, mirror)
        self._over = False
        self._frozen: FrozenChain | None = None
        self._replaced: BlockNode | None = None

    @property
    def actively_synced(self) -> bool | None:
        return None if self._mirror.is_commit else self.work.synced

    def take_nodes(self, job: BlockJob) -> None:
        """Use the source, the target, and in a commit the nodes between; raise QmpError."""
        job.add_node(self._source, NONE, _READ | _WRITE | _UNCHANGED)
        nodes = list(chain(self._top))
        if self._target not in nodes:
            job.add_node(self._target, _WRITE, _UNCHANGED, has_backend=True)
            return
        # The job allows writes to the nodes between: otherwise it would forbid them to the target.
        for node in nodes[2 : nodes.index(self._target)]:
            on_target = skip_filters(node) is skip_filters(self._target)
            job.add_node(node, NONE, _UNCHANGED | _WRITE | (_READ if on_target else NONE))
        grows = Perm.RESIZE if self._target.size < self._source.size else NONE
        job.add_node(self._target, _WRITE | grows, _UNCHANGED | _READ, has_backend=True)
        self._frozen = FrozenChain(self._top, self._target)

    def run(self, job: BlockJob) -> Coroutine[Any, Any, None]:
        return self.work.run(job)

    async def pause(self, job: BlockJob) -> None:
        await self.work.rest()

    def cancel(self, job: BlockJob, force: bool) -> bool:
        """Return whether to cancel at once, and end the target's requests in that case.

        Without `force` a ready mirror ends in sync, and the drive stays on the source.
        """
        force = force or not job.is_ready
        if force:
            job.cut_off(self._target)
        return force

    def complete(self, job: BlockJob) -> bool:
        """Let a ready mirror end, and reserve the node to replace; raise QmpError if it is gone.

        (mirror_complete.)  Return False if the mirror is not ready.
        """
        if not job.is_ready:
            return False
        name = self._mirror.replaces
        if name is not None and self._replaced is None:
            node = self._machine.graph.nodes.get(name)
            if node is None:
                raise QmpError(f"Node name '{name}' not found")
            node.op_blockers.block(
                self._mirror, "block device is in use by block-job-complete"
            )
            self._replaced = node
        self.work.should_complete = True
        return True

    async def change(self, job: BlockJob, mode: MirrorCopyMode) -> None:
        """Go from `background` to `write-blocking`, the only change that QEMU has (mirror_change).

        Raise QmpError for another one.  Before the first write is copied, no write goes past
        the filter any more.
        """
        if self._mirror.is_commit:
            await super().change(job, mode)
        if mode is self.work.copy_mode:
            return
        if mode is not MirrorCopyMode.WRITE_BLOCKING:
            raise QmpError(f"Change to copy mode '{mode}' is not implemented")
        assert self.keeper is self._top, "the filter marks what it does not copy"
        self._top.copies = True
        await self._machine.leave_shortcuts(self._top)
        self.work.copy_mode = mode

    async def prepare(self, job: BlockJob) -> None:
        await self._exit(job, failed=False)

    async def abort(self, job: BlockJob) -> None:
        await self._exit(job, failed=True)

    async def _exit(self, job: BlockJob, *, failed: bool) -> None:
        """Take mirror_top away; unless the job has failed, put the target in its place.

        (mirror_exit_common.)  If that is impossible, do the rest, and raise OSError.
        """
        if self._over:
            return
        self._over = True
        if self._frozen is not None:
            self._frozen.thaw()
        machine, top, source, target = self._machine, self._top, self._source, self._target
        # With everything at rest: give up the target, so that links to it may change; give it its
        # backing file; put users on it; take the filter away.  After an error the target gets no
        # users; the rest is done all the same.
        drain = Drain(machine, [top])
        drain.begin()
        await drain.settled()
        self.keeper.bitmaps.remove(self.work.bitmap)
        job.remove_node(target)
        top.stopped = True
        error = 0 if failed else await self._set_backing()
        if not failed and not error and self.work.should_complete:
            error = 0 if await self._pivot(source, target) else errno.EPERM
        if self._replaced is not None:
            self._replaced.op_blockers.unblock(self._mirror)
        job.remove_nodes()
        await take_away(machine.graph, top)
        if failed and self._mirror.base_read_only:
            await quietly_read_only(machine, target)
        drain.end()
        self.work.end_drain()
        self.work.let_go()
        for node in (source, target):
            await machine.graph.release(node)
        if error:
            raise failure(error)

    async def _set_backing(self) -> int:
        """Give the target the backing file that it is to have; return 0 or an errno.

        Without it the target does not show what the source did, and gets no users.
        """
        target = skip_filters(self._target)
        try:
            if self._mirror.backing_mode is BackingMode.SOURCE_CHAIN:
                backing = self._source if self._mirror.is_none_mode else self._mirror.base
                if target.cow is not backing:
                    async with Relink(self._machine.graph) as change:
                        change.set_child(target, "backing", backing)
            elif self._mirror.backing_mode is BackingMode.OPEN_CHAIN:
                if target.supports_backing and target.cow is None:
                    async with Relink(self._machine.graph) as change:
                        await change.open_backing(target)
        except QmpError:
            is_open = self._mirror.backing_mode is BackingMode.OPEN_CHAIN
            return errno.EINVAL if is_open else errno.EPERM
        return 0

    async def _pivot(self, source: BlockNode, target: BlockNode) -> bool:
        """Put the users of the source, or of the node to replace, on the target; return success."""
        old = self._replaced or source
        try:
            if old.read_only is not target.read_only:
                await set_read_only(self._machine, target, old.read_only)
            async with Drain(self._machine, [target]):
                # The node may have left the chain since the job began (mirror_exit_common).
                if old not in _shown(source):
                    return False
                async with Relink(self._machine.graph) as change:
                    change.replace(old, target)
        except QmpError:
            return False
        return True


def _shown(node: BlockNode) -> list[BlockNode]:
    """Return the node and the nodes that it filters: all of them show the same data."""
    nodes = [node]
    while (below := nodes[-1].filtered) is not None:
        nodes.append(below)
    return nodes


def check_to_replace(machine: Machine, source: BlockNode, name: str) -> BlockNode:
    """Return the node that a mirror is to replace (check_to_replace_node); raise QmpError."""
    node = machine.graph.nodes.get(name)
    if node is None:
        raise QmpError(f"Failed to find node with node-name='{name}'")
    node.check_op(BlockOpType.REPLACE)
    if node not in _shown(source):
        raise QmpError(
            f"Cannot replace '{name}' by a node mirrored from '{source.node_name}', because it"
            " cannot be guaranteed that doing so would not lead to an abrupt change of visible data"
        )
    return node


async def start_mirror(
    machine: Machine,
    source: BlockNode,
    target: BlockNode,
    options: JobOptions,
    mirror: MirrorOptions,
) -> None:
    """Start to mirror (mirror_start_job); raise QmpError, and nothing has changed."""
    if skip_filters(source) is skip_filters(target):
        raise QmpError("Can't mirror node into itself")
    job_id = machine.device_of(source) if options.job_id is None else options.job_id

    def make(node: NodeOptions) -> MirrorTopNode:
        top = MirrorTopNode(node, machine, source)
        top.is_commit = mirror.is_commit
        return top

    definition = BlockdevOptionsTop(
        driver="mirror_top", node_name=options.filter_node_name, backing=source.node_name
    )
    async with Drain(machine, [source]), Undo() as undo:
        top = await insert_filter(machine, source, make, definition)
        undo.push_async_callback(take_away, machine.graph, top)
        driver = Mirror(machine, top, target, mirror)
        job = BlockJob(
            machine,
            driver,
            JobTxn(machine),
            top,
            replace(options, job_id=job_id),
            _READ,
            _READ | _WRITE | _UNCHANGED,
        )
        undo.callback(job.fail_early)
        driver.take_nodes(job)
        # Guests write again when the section ends: from then on everything has to be marked.
        driver.keeper.bitmaps.add(driver.work.bitmap)
        undo.pop_all()
    job.start()


async def start_active_commit(
    machine: Machine,
    top: BlockNode,
    base: BlockNode,
    options: JobOptions,
    mirror: MirrorOptions,
) -> None:
    """Start to commit an image that has a writer (commit_active_start); raise QmpError."""
    async with Undo() as undo:
        read_only = base.read_only
        if read_only:
            await set_read_only(machine, base, False)
            undo.push_async_callback(quietly_read_only, machine, base)
        restores = read_only and machine.qemu.failed_commits_restore_base
        mirror = replace(mirror, base_read_only=restores)
        await start_mirror(machine, top, base, options, mirror)
        undo.pop_all()
