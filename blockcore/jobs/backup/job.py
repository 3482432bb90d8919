# SPDX-License-Identifier: MIT
"""Backups: a copy of what a drive was when the job began (`block/backup.c`)."""

from __future__ import annotations

from enum import StrEnum

from blockcore.bql.effects import Until
from blockcore.job.block_job import RETRY_NS, BlockJob, BlockJobDriver
from blockcore.job.job import Completion
from blockcore.job.options import JobOptions
from blockcore.jobs.backup.block_copy import BlockCopy
from blockcore.jobs.backup.copy_call import MAX_WORKERS, CopyCall
from blockcore.jobs.backup.filter import CopyBeforeWriteNode
from blockcore.jobs.filters import drop_filter, insert_node, told
from blockcore.jobs.sides import side_of
from blockcore.jobs.undo import Undo
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.filter_options import BlockdevOptionsCbw
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import (
    BlockdevOnError,
    BlockErrorAction,
    JobType,
    MirrorSyncMode,
    QmpError,
)
from blockcore.qapi.record import dataclass
from blockcore.rules.bitmap import DirtyBitmap

INT64_MAX = (1 << 63) - 1
"""The largest cluster size that bdrv_cbw_append takes, in bytes."""


class BitmapSyncMode(StrEnum):
    """When the bitmap that says what to copy is cleared."""

    ON_SUCCESS = "on-success"
    NEVER = "never"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """How to back up; `bitmap` is one of the source's bitmaps.

    `max_chunk` and `min_cluster_size` are in bytes, 0 for no limit.
    `discard_source`: what has been copied is discarded in the source.
    """

    sync: MirrorSyncMode
    bitmap: DirtyBitmap | None = None
    bitmap_mode: BitmapSyncMode = BitmapSyncMode.ON_SUCCESS
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT
    max_workers: int = MAX_WORKERS
    max_chunk: int = 0
    min_cluster_size: int = 0
    discard_source: bool = False


class Backup(BlockJobDriver):
    """The driver of a backup: it copies what guests' writes have not made the filter copy."""

    type = JobType.BACKUP

    def __init__(self, machine: Machine, cbw: CopyBeforeWriteNode, backup: BackupOptions) -> None:
        self.on_source_error = backup.on_source_error
        self.on_target_error = backup.on_target_error
        self._machine = machine
        self._cbw = cbw
        self._backup = backup
        self._source = cbw.below
        self._copy = cbw.copy
        self._call: CopyCall | None = None

    def take_nodes(self, job: BlockJob) -> None:
        """Use the target, and give the job the progress of the copying; raise QmpError."""
        job.add_node(self._copy.target)
        self._choose_clusters()
        self._copy.meter = job.progress

    def _choose_clusters(self) -> None:
        """Say in the bitmap what is to be copied (backup_init_bcs_bitmap).

        This comes before guests go on: their writes may be the first to copy, and a user
        may pause the job right away.
        """
        copy, sync = self._copy, self._backup.sync
        if sync is MirrorSyncMode.BITMAP:
            assert self._backup.bitmap is not None
            copy.bitmap.clear()
            copy.bitmap.merge(self._backup.bitmap)
        copy.skip_unallocated = sync is MirrorSyncMode.TOP

    async def run(self, job: BlockJob) -> None:
        """Copy what `sync` wants, until it is done, the job is cancelled, or OSError."""
        sync = self._backup.sync
        job.progress.set_remaining(self._copy.bitmap.count)
        if sync is MirrorSyncMode.NONE:
            await _leave_it_to_guests(job)
            return
        if sync is MirrorSyncMode.TOP:
            await self._leave_out_unallocated(job)
        await self._copy_all(job)

    async def _leave_out_unallocated(self, job: BlockJob) -> None:
        """Take out of the bitmap what is not in the top image (backup_run, for sync=top)."""
        offset = 0
        while offset < self._source.size:
            await job.sleep(0)
            if job.is_cancelled:
                return
            offset += await self._copy.reset_unallocated(offset)
        self._copy.skip_unallocated = False

    async def _copy_all(self, job: BlockJob) -> None:
        """Copy everything that is in the bitmap (backup_loop).

        After an error, or a pause, another call copies the rest.
        """
        while not job.is_cancelled:
            call = self._call = self._new_call(job)
            self._machine.spawn(self._carry_out(job, call))
            while not call.is_finished() and not job.is_cancelled:
                await job.wait()
            if not call.is_finished():
                call.cancel()
                await Until(call.is_finished)
                return
            if call.error is not None:
                await self._after_error(job, call.error)
            elif not call.cancelled:
                return

    def _new_call(self, job: BlockJob) -> CopyCall:
        call = CopyCall(
            0,
            self._copy.bitmap.size,
            max_workers=self._backup.max_workers,
            max_chunk=self._backup.max_chunk,
        )
        call.limit = job.limit
        return call

    async def _carry_out(self, job: BlockJob, call: CopyCall) -> None:
        await self._copy.run(call)
        job.enter()

    async def _after_error(self, job: BlockJob, error: OSError) -> None:
        """Apply the policy to a call's error: raise it, wait for the user, or wait `RETRY_NS`."""
        if job.is_cancelled:
            return
        action = job.failed(side_of(error), error)
        if action is BlockErrorAction.REPORT:
            raise error
        if action is BlockErrorAction.STOP:
            await job.pause_point()
        else:
            await job.sleep(RETRY_NS)

    async def pause(self, job: BlockJob) -> None:
        """Cancel the call, and wait until what it has begun has ended."""
        call = self._call
        if call is not None and not call.finished:
            call.cancel()
            await Until(call.is_finished)

    def cancel(self, job: BlockJob, force: bool) -> bool:
        """Cancel at once, and let guests' writes go on without a copy."""
        self._copy.abandoned = True
        job.cut_off(self._copy.target)
        return True

    def set_speed(self, job: BlockJob) -> None:
        if self._call is not None:
            self._call.wake()

    async def commit(self, job: BlockJob) -> None:
        self._settle_bitmap(failed=False)

    async def abort(self, job: BlockJob) -> None:
        self._settle_bitmap(failed=True)

    def _settle_bitmap(self, *, failed: bool) -> None:
        """Keep or clear the bitmap that was copied by (backup_cleanup_sync_bitmap).

        Its successor has recorded what guests have written since the job began.
        """
        bitmap, mode = self._backup.bitmap, self._backup.bitmap_mode
        if bitmap is None or bitmap.successor is None:
            return
        bitmaps = self._source.bitmaps
        always = mode is BitmapSyncMode.ALWAYS
        if (not failed or always) and mode is not BitmapSyncMode.NEVER:
            after = bitmaps.abdicate(bitmap)
            if failed:
                after.merge(self._copy.bitmap)
        else:
            bitmaps.reclaim(bitmap)

    async def clean(self, job: BlockJob) -> None:
        """Give up the nodes, take the filter away, and close the target if it has no other user."""
        job.remove_nodes()
        target = self._copy.target
        await drop_backup_filter(self._machine, self._cbw)
        await self._machine.graph.release(target)


async def _leave_it_to_guests(job: BlockJob) -> None:
    """Wait until the job is cancelled; only what guests overwrite is copied."""
    while not job.is_cancelled:
        await job.wait()


async def create_backup(
    machine: Machine,
    source: BlockNode,
    target: BlockNode,
    txn: Completion,
    options: JobOptions,
    backup: BackupOptions,
) -> BlockJob:
    """Create a backup that can be started (backup_job_create); raise QmpError and change nothing.

    The caller has drained the source, until it has started the job.
    """
    _check_cluster_size(backup.min_cluster_size)
    copy = BlockCopy(
        machine,
        source,
        target,
        min_cluster_size=backup.min_cluster_size,
        discard_source=backup.discard_source,
    )
    if backup.max_chunk and backup.max_chunk < copy.cluster_size:
        raise QmpError(
            f"Required max-chunk ({backup.max_chunk}) is less than backup cluster size"
            f" ({copy.cluster_size})"
        )

    def make(node: NodeOptions) -> CopyBeforeWriteNode:
        keeper = None if machine.qemu.job_filters_keep_bitmaps else source
        return CopyBeforeWriteNode(node, machine, copy, keeper)

    definition = BlockdevOptionsCbw(
        driver="copy-before-write",
        node_name=options.filter_node_name,
        file=source.node_name,
        target=target.node_name,
    )
    async with Undo() as undo:
        if backup.bitmap is not None:
            source.bitmaps.create_successor(backup.bitmap)
            undo.callback(source.bitmaps.reclaim, backup.bitmap)
        cbw = await insert_node(machine, source, make, definition, implicit=False)
        undo.push_async_callback(drop_backup_filter, machine, cbw)
        if cbw.keeper is not cbw:
            cbw.keeper.bitmaps.add(copy.bitmap)
        driver = Backup(machine, cbw, backup)
        job = BlockJob(machine, driver, txn, cbw, options)
        undo.callback(job.fail_early)
        driver.take_nodes(job)
        undo.pop_all()
    return job


def _check_cluster_size(size: int) -> None:
    """Raise QmpError in the words of bdrv_cbw_append and block_copy_state_new."""
    if size > INT64_MAX:
        raise QmpError(f"min-cluster-size too large: {size} > {INT64_MAX}")
    if size & (size - 1):
        with told("Could not create node: Cannot create block-copy-state: "):
            raise QmpError("min-cluster-size needs to be a power of 2")


async def drop_backup_filter(machine: Machine, cbw: CopyBeforeWriteNode) -> None:
    """Take the filter away, with the bitmap of what is to be copied (bdrv_cbw_drop).

    An overlay of the source may be below the filter by now.
    """
    await drop_filter(machine, cbw)
    cbw.keeper.bitmaps.remove(cbw.copy.bitmap)
