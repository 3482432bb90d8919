# SPDX-License-Identifier: MIT
"""The work of a mirror: from the first copy until source and target are equal.

(`block/mirror.c`: mirror_run.)
"""

from __future__ import annotations

from functools import partial

from blockcore.bql.effects import kept
from blockcore.job.block_job import RETRY_NS, BlockJob
from blockcore.jobs.mirror.active import ActiveWrites
from blockcore.jobs.mirror.copier import Copier
from blockcore.jobs.mirror.filter import MirrorTopNode
from blockcore.jobs.mirror.initial import find_out_what_to_copy
from blockcore.jobs.mirror.options import MirrorOptions
from blockcore.jobs.sides import side_of
from blockcore.machine.drain import Drain
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockErrorAction,
    MirrorCopyMode,
    QmpError,
)
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.ratelimit import SLICE_NS


class MirrorWork:
    """The work of one mirror; `bitmap` says where source and target differ.

    `should_complete`: the user wants it to end.  `failure` is the error that ends
    the job once what is on its way has ended.  `synced`: writes reach the target
    before they are answered, and the target has all others.
    """

    def __init__(
        self,
        machine: Machine,
        top: MirrorTopNode,
        target: BlockNode,
        bitmap: DirtyBitmap,
        mirror: MirrorOptions,
    ) -> None:
        self.copy_mode = mirror.copy_mode
        self.bitmap = bitmap
        self.should_complete = False
        self.synced = False
        self.failure: OSError | None = None
        self._machine = machine
        self._top = top
        self._source = top.below
        self._target = target
        self._mirror = mirror
        self._copier: Copier | None = None
        self._active: ActiveWrites | None = None
        self._ignored = False
        self._last_pause_ns = 0
        self._last_drain: Drain | None = None

    @property
    def copier(self) -> Copier:
        """The copier, while the work goes on."""
        assert self._copier is not None
        return self._copier

    @property
    def active(self) -> ActiveWrites | None:
        """The copier of guests' writes, once it is known what else is to be copied."""
        return self._active

    async def run(self, job: BlockJob) -> None:
        """Mirror until the user wants the end, the job is cancelled, or an error ends it.

        When it returns or raises, nothing is on its way, and guests wait until the job has
        settled which node they use.
        """
        try:
            await self._begin(job)
            if not self._source.size:
                await self._mirror_nothing(job)
            elif await self._know_what_to_copy(job):
                await self._mirror_all(job)
        except (OSError, QmpError):
            await self._come_to_rest(job)
            raise
        await self._come_to_rest(job)

    async def rest(self) -> None:
        """Wait until none of the job's own parts is on its way."""
        if self._copier is not None:
            await self._copier.ops.all_end()

    async def _come_to_rest(self, job: BlockJob) -> None:
        await self.rest()
        await self._drain(job)

    def end_drain(self) -> None:
        """Let guests write again."""
        drain, self._last_drain = self._last_drain, None
        if drain is not None:
            drain.end()

    def let_go(self) -> None:
        """Drop the objects that refer to the job, so that the collector is not needed."""
        self._top.job = self._active = self._copier = None

    async def _begin(self, job: BlockJob) -> None:
        source, target = self._source, self._target
        if self._mirror.is_commit:
            if source.size > target.size:
                await target.truncate(source.size)
        elif source.size != target.size:
            raise QmpError("Source and target image have different sizes")
        self._copier = Copier(
            self._machine,
            source,
            target,
            self.bitmap,
            buf_size=self._mirror.buf_size,
            unmap=self._mirror.unmap,
            failed=partial(self._failed, job),
            copied=job.progress.update,
        )
        self._last_pause_ns = self._machine.clock.monotonic_ns()

    async def _mirror_nothing(self, job: BlockJob) -> None:
        """Be ready at once with a source of size 0, and wait for the end."""
        await job.become_ready()
        self.synced = True
        while not job.cancel_requested and not self.should_complete:
            await job.wait()

    async def _know_what_to_copy(self, job: BlockJob) -> bool:
        """Mark what is to be copied; from then on guests' writes go to the target.

        Return False if the job is cancelled.
        """
        if not self._mirror.is_none_mode:
            await find_out_what_to_copy(self.copier, self._mirror, partial(self._go_on, job))
        if job.is_cancelled:
            return False
        self._active = self._top.job = ActiveWrites(
            self.copier,
            job.progress,
            partial(self._copies_writes, job),
            partial(self._failed, job),
            self._missed,
        )
        return True

    async def _go_on(self, job: BlockJob) -> bool:
        """Let other work have its turn; return False if the job is cancelled."""
        now_ns = self._machine.clock.monotonic_ns()
        if now_ns - self._last_pause_ns > SLICE_NS:
            self._last_pause_ns = now_ns
            await job.sleep(0)
        else:
            await job.pause_point()
        return not job.is_cancelled

    async def _mirror_all(self, job: BlockJob) -> None:
        """Copy until source and target are equal and the job is to end (mirror_run's main loop).

        When it returns without being cancelled, the source is drained.
        """
        # Each round: end if the job has to; begin to copy the next area; if nothing is dirty or on
        # its way, flush and be ready; if the job is to complete as well, keep guests out and look
        # once more; else sleep.  The order is mirror_run's.
        ops = self.copier.ops
        delay_ns = 0
        while True:
            if self.failure is not None:
                raise self.failure
            await job.pause_point()
            if job.is_cancelled:
                return
            # How much was dirty before this iteration (QEMU's cnt): what it begins has still to
            # arrive, so that only the next one may find that all has been copied.
            dirty = self._tell_remaining(job)
            if self._may_iterate(job):
                if self.copier.is_full() or (not dirty and ops.own):
                    await ops.one_ends()
                    continue
                if dirty:
                    delay_ns = await self.copier.iteration(job.delay_ns)
            completing = False
            if not dirty and not ops.own:
                if not await self._reach_sync(job):
                    continue
                completing = self.should_complete or job.cancel_requested
                # Guests have written while the target was flushed.
                dirty = self.bitmap.count
            if completing and not dirty and await self._stay_in_sync(job):
                return
            delay_ns = await self._sleep(job, delay_ns, dirty, completing)

    def _tell_remaining(self, job: BlockJob) -> int:
        """Set the progress, and return how many bytes are dirty.

        What is on its way is still to be copied as well.
        """
        assert self._active is not None
        dirty = self.bitmap.count
        on_their_way = self.copier.bytes_in_flight + self._active.bytes_in_flight
        job.progress.set_remaining(on_their_way + dirty)
        return dirty

    def _may_iterate(self, job: BlockJob) -> bool:
        """Return whether to begin a part now.

        Not after an error that has stopped the job.  Not after SLICE_NS without a pause,
        so that a drain comes to an end.
        """
        lasted_ns = self._machine.clock.monotonic_ns() - self._last_pause_ns
        return lasted_ns < SLICE_NS and job.iostatus is BlockDeviceIoStatus.OK

    async def _reach_sync(self, job: BlockJob) -> bool:
        """Become ready, when all has been copied; return False if the target cannot be flushed."""
        if not job.is_ready:
            if not await self._flush(job):
                return False
            await job.become_ready()
        if self.copy_mode is MirrorCopyMode.WRITE_BLOCKING:
            self.synced = True
        return True

    async def _stay_in_sync(self, job: BlockJob) -> bool:
        """Keep guests out, and return whether all they have written is copied and flushed.

        If not, guests go on, and so does the work.
        """
        await self._drain(job)
        if not self.bitmap.count and await self._flush(job):
            return True
        self.end_drain()
        return False

    async def _sleep(self, job: BlockJob, delay_ns: int, dirty: int, completing: bool) -> int:
        """Sleep before the next iteration, and return for how long, in ns.

        That is `delay_ns`, or what applies instead.  A ready mirror follows the guest
        whatever its speed limit is, and looks every SLICE_NS if there is nothing to
        copy.  A mirror that is to complete does not wait for that.
        """
        follows = job.is_ready and not completing
        if follows:
            delay_ns = 0 if self.copier.ops.own or dirty else SLICE_NS
        if self._ignored:
            delay_ns, self._ignored = max(delay_ns, RETRY_NS), False
        if follows:
            await job.sleep(delay_ns)
        else:
            await job.sleep_for_limit(delay_ns)
        self._last_pause_ns = self._machine.clock.monotonic_ns()
        return delay_ns

    async def _drain(self, job: BlockJob) -> None:
        if self._last_drain is None:
            self._last_drain = Drain(self._machine, [self._source])
            self._last_drain.begin()
            await self._last_drain.settled(but=job)

    async def _flush(self, job: BlockJob) -> bool:
        """Flush the target; return False after an error, which the policy has decided about."""
        try:
            await self._target.flush()
        except OSError as exc:
            self._failed(job, exc)
            return False
        return True

    def _copies_writes(self, job: BlockJob) -> bool:
        """Return whether guests' writes go to the target as well."""
        blocking = self.copy_mode is MirrorCopyMode.WRITE_BLOCKING
        return blocking and self.failure is None and not job.is_cancelled

    def _missed(self) -> None:
        """Take note of a write that did not go to the target."""
        self.synced = False

    def _failed(self, job: BlockJob, exc: OSError) -> None:
        """Apply the policy of the side that has failed.

        The copy of a guest's write may fail by reading, too: of the cluster around it.
        """
        self.synced = False
        action = job.failed(side_of(exc), exc)
        if action is BlockErrorAction.REPORT:
            self.failure = self.failure or kept(exc)
        elif action is BlockErrorAction.IGNORE:
            self._ignored = True
