# SPDX-License-Identifier: MIT
"""The work of a mirror: from the first copy until source and target are the same.

(`block/mirror.c`: mirror_run.)
"""

from __future__ import annotations

import errno

from blockcore.bql.effects import kept
from blockcore.job.block_job import RETRY_NS, BlockJob
from blockcore.job.job_driver import not_completable
from blockcore.job.job_txn import JobTxn
from blockcore.jobs.mirror.active import ActiveWrites
from blockcore.jobs.mirror.copier import Copier
from blockcore.jobs.mirror.filter import MirrorTopNode
from blockcore.jobs.mirror.initial import find_out_what_to_copy
from blockcore.jobs.mirror.options import MirrorOptions
from blockcore.jobs.rules import JobOptions
from blockcore.jobs.shortcut import SourceError
from blockcore.machine.drain import Drain
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Perm
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockErrorAction,
    IoOperationType,
    JobType,
    MirrorCopyMode,
    QmpError,
)
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.ratelimit import SLICE_NS


class MirrorWork(BlockJob):
    """The work of a mirror; `MirrorJob` has its end.

    `bitmap` says what differs; it belongs to `keeper`, the source or the filter.
    `failure` is the error that ends the job once what is on its way has ended.
    """

    type = JobType.MIRROR

    def __init__(
        self,
        machine: Machine,
        top: MirrorTopNode,
        target: BlockNode,
        options: JobOptions,
        mirror: MirrorOptions,
    ) -> None:
        if mirror.is_commit:
            self.type = JobType.COMMIT  # type: ignore[misc]  # what users have always seen
        else:
            self.actively_synced = False
        self.mirror = mirror
        self.copy_mode = mirror.copy_mode
        self.machine = machine
        self.top = top
        self.source = top.below
        self.target = target
        self.should_complete = False
        self.failure: OSError | None = None
        self._ignored = False
        self._active: ActiveWrites | None = None
        self._last_pause_ns = 0
        self._last_drain: Drain | None = None
        self._replaced: BlockNode | None = None
        self.bitmap = DirtyBitmap(self.source.size, mirror.granularity)
        self.keeper = top if machine.qemu.job_filters_keep_bitmaps else self.source
        top.copies = mirror.copy_mode is MirrorCopyMode.WRITE_BLOCKING
        if top.copies or self.keeper is top:
            self.bitmap.enabled = False
            top.marks = self.bitmap
        self._copier: Copier | None = None
        super().__init__(
            machine,
            JobTxn(machine),
            options.job_id,
            top,
            Perm.CONSISTENT_READ,
            Perm.CONSISTENT_READ | Perm.WRITE | Perm.WRITE_UNCHANGED,
            speed=options.speed,
            auto_finalize=options.auto_finalize,
            auto_dismiss=options.auto_dismiss,
        )

    @property
    def copier(self) -> Copier:
        assert self._copier is not None
        return self._copier

    def _copies_writes(self) -> bool:
        """Whether guests' writes go to the target as well."""
        blocking = self.copy_mode is MirrorCopyMode.WRITE_BLOCKING
        return blocking and self.failure is None and not self.is_cancelled

    async def run(self) -> None:
        """However it ends, nothing is on its way, and guests wait for what comes of it."""
        try:
            await self._run()
        except (OSError, QmpError):
            await self._come_to_rest()
            raise
        await self._come_to_rest()

    def let_go(self) -> None:
        """Part with what knows the job: nothing of it is to wait for the collector."""
        self.top.job = self._active = self._copier = None

    async def _come_to_rest(self) -> None:
        await self.on_pause()
        await self._drain()

    async def _run(self) -> None:
        await self._check_sizes()
        self._copier = Copier(
            self.machine,
            self.source,
            self.target,
            self.bitmap,
            buf_size=self.mirror.buf_size,
            unmap=self.mirror.unmap,
            failed=self._failed,
            copied=self.progress.update,
        )
        self._last_pause_ns = self._host.clock.monotonic_ns()
        if not self.source.size:
            await self._mirror_nothing()
            return
        if not self.mirror.is_none_mode:
            await find_out_what_to_copy(self._copier, self.mirror, self._go_on)
        if not self.is_cancelled:
            self._active = self.top.job = ActiveWrites(
                self.copier, self.progress, self._copies_writes, self._write_failed, self._synced
            )
            await self._mirror()

    async def _check_sizes(self) -> None:
        if self.mirror.is_commit:
            if self.source.size > self.target.size:
                await self.target.truncate(self.source.size)
        elif self.source.size != self.target.size:
            raise QmpError("Source and target image have different sizes")

    async def _mirror_nothing(self) -> None:
        await self.become_ready()
        self._synced(True)
        while not self.cancel_requested and not self.should_complete:
            await self.wait()

    async def _go_on(self) -> bool:
        now_ns = self._host.clock.monotonic_ns()
        if now_ns - self._last_pause_ns > SLICE_NS:
            self._last_pause_ns = now_ns
            await self.sleep(0)
        else:
            await self.pause_point()
        return not self.is_cancelled

    async def _mirror(self) -> None:
        """The main loop of mirror_run; at its end the source is drained, if all is well."""
        copier, active = self.copier, self._active
        assert active is not None
        delay_ns = 0
        while True:
            if self.failure is not None:
                raise self.failure
            await self.pause_point()
            if self.is_cancelled:
                return
            dirty = self.bitmap.count
            on_their_way = copier.bytes_in_flight + active.bytes_in_flight
            self.progress.set_remaining(on_their_way + dirty)
            if self._may_iterate():
                if copier.is_full() or (not dirty and copier.ops.own):
                    await copier.ops.one_ends()
                    continue
                if dirty:
                    delay_ns = await copier.iteration(self.delay_ns)
            should_complete = False
            if not copier.ops.own and not dirty:
                if not self.is_ready:
                    if not await self._flush():
                        continue
                    await self.become_ready()
                if self.copy_mode is MirrorCopyMode.WRITE_BLOCKING:
                    self._synced(True)
                should_complete = self.should_complete or self.cancel_requested
                dirty = self.bitmap.count
            if not dirty and should_complete and await self._in_sync():
                return
            if self.is_ready and not should_complete:
                delay_ns = 0 if copier.ops.own or dirty else SLICE_NS
            if self._ignored:
                delay_ns, self._ignored = max(delay_ns, RETRY_NS), False
            if self.is_ready and not should_complete:
                await self.sleep(delay_ns)
            else:
                await self.sleep_for_limit(delay_ns)
            self._last_pause_ns = self._host.clock.monotonic_ns()

    def _may_iterate(self) -> bool:
        """Not after an error, and not for ever without a pause, so that drains have an end."""
        lasted_ns = self._host.clock.monotonic_ns() - self._last_pause_ns
        return lasted_ns < SLICE_NS and self.iostatus is BlockDeviceIoStatus.OK

    async def _in_sync(self) -> bool:
        """Keep guests out; whether they have written nothing more, and the target is flushed."""
        await self._drain()
        if not self.bitmap.count and await self._flush():
            return True
        self.end_drain()
        return False

    async def _drain(self) -> None:
        if self._last_drain is None:
            self._last_drain = Drain(self.machine, [self.source])
            self._last_drain.begin()
            await self._last_drain.settled(but=self)

    def end_drain(self) -> None:
        """Let guests write again."""
        drain, self._last_drain = self._last_drain, None
        if drain is not None:
            drain.end()

    async def _flush(self) -> bool:
        """Flush the target; an error of that is one of its errors."""
        try:
            await self.target.flush()
        except OSError as exc:
            self._failed(IoOperationType.WRITE, exc)
            return False
        return True

    def _write_failed(self, exc: OSError) -> None:
        """A guest's write could not be copied; with the clusters around it it is read first."""
        reading = isinstance(exc, SourceError)
        self._failed(IoOperationType.READ if reading else IoOperationType.WRITE, exc)

    def _failed(self, operation: IoOperationType, exc: OSError) -> None:
        """Apply the policy of the side that has failed."""
        self._synced(False)
        reading = operation is IoOperationType.READ
        policy = self.mirror.on_source_error if reading else self.mirror.on_target_error
        action = self.error_action(policy, operation, exc.errno or errno.EIO)
        if action is BlockErrorAction.REPORT:
            self.failure = self.failure or kept(exc)
        elif action is BlockErrorAction.IGNORE:
            self._ignored = True

    def _synced(self, synced: bool = False) -> None:
        if self.actively_synced is not None:
            self.actively_synced = synced

    async def change_copy_mode(self, mode: MirrorCopyMode) -> None:
        """From `background` to `write-blocking`, which is all that QEMU can (mirror_change).

        No write goes past the filter any more before one is copied.
        """
        if self.mirror.is_commit:
            await super().change_copy_mode(mode)
        if mode is self.copy_mode:
            return
        if mode is not MirrorCopyMode.WRITE_BLOCKING:
            raise QmpError(f"Change to copy mode '{mode}' is not implemented")
        assert self.keeper is self.top, "the filter marks what it does not copy"
        self.top.copies = True
        await self.machine.leave_shortcuts(self.top)
        self.copy_mode = mode

    async def on_pause(self) -> None:
        if self._copier is not None:
            await self._copier.ops.all_end()

    def on_cancel(self, force: bool) -> bool:
        """Once it is ready, to cancel it gently is to let it finish, and to stay on the source."""
        force = force or not self.is_ready
        if force:
            self.cut_off(self.target)
        return force

    def on_complete(self) -> None:
        if not self.is_ready:
            raise not_completable(self.id)
        name = self.mirror.replaces
        if name is not None and self._replaced is None:
            node = self.machine.graph.nodes.get(name)
            if node is None:
                raise QmpError(f"Node name '{name}' not found")
            node.op_blockers.block(
                self.mirror, "block device is in use by block-job-complete"
            )
            self._replaced = node
        self.should_complete = True
