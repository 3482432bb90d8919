# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from the commands of blockcore.
"""The commands of a machine, each a method, with the types of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faultline.schema import (
    BackupPerf,
    BarrierEnd,
    BitmapSyncMode,
    BlkdebugEvent,
    BlockdevCacheOptions,
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    BlockDeviceInfo,
    BlockdevOnError,
    BlockdevOptions,
    BlockdevOptionsTag,
    BlockDirtyBitmap,
    BlockDirtyBitmapSha256,
    BlockInfo,
    BlockJobInfo,
    BlockStats,
    CommandInfo,
    CorruptHow,
    CrashKeep,
    CrashStateInfo,
    DelayDistribution,
    DriveInfo,
    FaultAction,
    FaultChanged,
    FaultHits,
    FaultId,
    FaultIds,
    FaultInfo,
    FaultIOType,
    FaultOptionsTag,
    FaultOrigin,
    FaultRelease,
    FaultSweep,
    IOThreadInfo,
    JobInfo,
    JobType,
    MirrorCopyMode,
    MirrorSyncMode,
    NameInfo,
    NewImageMode,
    OnStop,
    PanicAction,
    PowerCutInfo,
    RebootAction,
    RequestInfo,
    SeedInfo,
    ShutdownAction,
    StatusInfo,
    TornKeep,
    TransactionAction,
    TransactionProperties,
    VersionInfo,
    VolumeInfo,
    WatchdogAction,
    WriteLogInfo,
    YankInstance,
)
from faultline.sizes import Size, size_of
from faultline.wire import wire_names


class Commands:
    """All commands; each raises CommandError, TimedOut and MachineEnded.

    Sizes may be texts such as "64k"; `timeout` is the deadline, in seconds.
    """

    def _run(
        self, command: str, members: Mapping[str, Any], timeout: float | None
    ) -> Any:
        raise NotImplementedError

    def block_commit(
        self,
        *,
        device: str,
        job_id: str | None = None,
        base_node: str | None = None,
        base: str | None = None,
        top_node: str | None = None,
        top: str | None = None,
        backing_file: str | None = None,
        backing_mask_protocol: bool | None = None,
        speed: Size | None = None,
        on_error: BlockdevOnError | None = None,
        filter_node_name: str | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Write the data of `top`, and of the images between, into `base`, and drop these
        images.

        `top` is the drive's own image if it is not given; then the job becomes
        ready, and the drive is on `base` once the job is completed.
        `backing_mask_protocol` is as for `block-stream`.
        """
        self._run(
            "block-commit",
            {
                "device": device,
                "job-id": job_id,
                "base-node": base_node,
                "base": base,
                "top-node": top_node,
                "top": top,
                "backing-file": backing_file,
                "backing-mask-protocol": backing_mask_protocol,
                "speed": size_of(speed),
                "on-error": on_error,
                "filter-node-name": filter_node_name,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
            },
            timeout,
        )

    def block_dirty_bitmap_add(
        self,
        *,
        node: str,
        name: str,
        granularity: int | None = None,
        persistent: bool | None = None,
        disabled: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Record from now on which parts of a node are written to."""
        self._run(
            "block-dirty-bitmap-add",
            {
                "node": node,
                "name": name,
                "granularity": granularity,
                "persistent": persistent,
                "disabled": disabled,
            },
            timeout,
        )

    def block_dirty_bitmap_clear(
        self,
        *,
        node: str,
        name: str,
        timeout: float | None = None,
    ) -> None:
        """Mark everything in a bitmap as clean."""
        self._run(
            "block-dirty-bitmap-clear",
            {
                "node": node,
                "name": name,
            },
            timeout,
        )

    def block_dirty_bitmap_disable(
        self,
        *,
        node: str,
        name: str,
        timeout: float | None = None,
    ) -> None:
        """Let a bitmap keep its state: it records no more writes until it is enabled."""
        self._run(
            "block-dirty-bitmap-disable",
            {
                "node": node,
                "name": name,
            },
            timeout,
        )

    def block_dirty_bitmap_enable(
        self,
        *,
        node: str,
        name: str,
        timeout: float | None = None,
    ) -> None:
        """Let a bitmap record from now on."""
        self._run(
            "block-dirty-bitmap-enable",
            {
                "node": node,
                "name": name,
            },
            timeout,
        )

    def block_dirty_bitmap_merge(
        self,
        *,
        node: str,
        target: str,
        bitmaps: list[str | BlockDirtyBitmap],
        timeout: float | None = None,
    ) -> None:
        """Mark as dirty in `target` what is dirty in any of `bitmaps`; all of them or none."""
        self._run(
            "block-dirty-bitmap-merge",
            {
                "node": node,
                "target": target,
                "bitmaps": bitmaps,
            },
            timeout,
        )

    def block_dirty_bitmap_remove(
        self,
        *,
        node: str,
        name: str,
        timeout: float | None = None,
    ) -> None:
        """Forget a bitmap."""
        self._run(
            "block-dirty-bitmap-remove",
            {
                "node": node,
                "name": name,
            },
            timeout,
        )

    def block_job_cancel(
        self,
        *,
        device: str,
        force: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Cancel a job; without `force` a ready one completes its copy, and the drive stays
        put."""
        self._run(
            "block-job-cancel",
            {
                "device": device,
                "force": force,
            },
            timeout,
        )

    def block_job_change(
        self,
        *,
        id: str,
        type: JobType,
        copy_mode: MirrorCopyMode | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let a mirror copy guests' writes before they are answered, from now on.

        QEMU has no other change of a job (block_job_change).
        """
        self._run(
            "block-job-change",
            {
                "id": id,
                "type": type,
                "copy-mode": copy_mode,
            },
            timeout,
        )

    def block_job_complete(
        self,
        *,
        device: str,
        timeout: float | None = None,
    ) -> None:
        """Let a ready job come to its end, as `job-complete` does."""
        self._run(
            "block-job-complete",
            {
                "device": device,
            },
            timeout,
        )

    def block_job_dismiss(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Forget a concluded job, as `job-dismiss` does."""
        self._run(
            "block-job-dismiss",
            {
                "id": id,
            },
            timeout,
        )

    def block_job_finalize(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Take the last steps of a pending job, as `job-finalize` does."""
        self._run(
            "block-job-finalize",
            {
                "id": id,
            },
            timeout,
        )

    def block_job_pause(
        self,
        *,
        device: str,
        timeout: float | None = None,
    ) -> None:
        """Ask a job to pause, as `job-pause` does."""
        self._run(
            "block-job-pause",
            {
                "device": device,
            },
            timeout,
        )

    def block_job_resume(
        self,
        *,
        device: str,
        timeout: float | None = None,
    ) -> None:
        """Let a job go on, as `job-resume` does."""
        self._run(
            "block-job-resume",
            {
                "device": device,
            },
            timeout,
        )

    def block_job_set_speed(
        self,
        *,
        device: str,
        speed: Size,
        timeout: float | None = None,
    ) -> None:
        """Limit a job to `speed` bytes per second; 0 is no limit."""
        self._run(
            "block-job-set-speed",
            {
                "device": device,
                "speed": size_of(speed),
            },
            timeout,
        )

    def block_set_write_threshold(
        self,
        *,
        node_name: str,
        write_threshold: int,
        timeout: float | None = None,
    ) -> None:
        """Send BLOCK_WRITE_THRESHOLD once, when a write ends beyond this offset in bytes; 0:
        never."""
        self._run(
            "block-set-write-threshold",
            {
                "node-name": node_name,
                "write-threshold": write_threshold,
            },
            timeout,
        )

    def block_stream(
        self,
        *,
        device: str,
        job_id: str | None = None,
        base: str | None = None,
        base_node: str | None = None,
        backing_file: str | None = None,
        backing_mask_protocol: bool | None = None,
        bottom: str | None = None,
        speed: Size | None = None,
        on_error: BlockdevOnError | None = None,
        filter_node_name: str | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy into an image what it lacks from the images above `base`, or from its whole
        chain.

        Afterwards `base` is the image's backing file; without `base` it has none.
        `bottom` names the lowest image to copy instead.  `backing_mask_protocol` writes
        the format `raw` into the header where the new backing file has no format.
        """
        self._run(
            "block-stream",
            {
                "device": device,
                "job-id": job_id,
                "base": base,
                "base-node": base_node,
                "backing-file": backing_file,
                "backing-mask-protocol": backing_mask_protocol,
                "bottom": bottom,
                "speed": size_of(speed),
                "on-error": on_error,
                "filter-node-name": filter_node_name,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
            },
            timeout,
        )

    def block_resize(
        self,
        *,
        size: Size,
        device: str | None = None,
        node_name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change the size of a node to `size` bytes; growing is sparse, shrinking loses data.

        The drives above are drained meanwhile.  An NBD client learns the new size
        when it connects again: the protocol has no message for it.
        """
        self._run(
            "block_resize",
            {
                "size": size_of(size),
                "device": device,
                "node-name": node_name,
            },
            timeout,
        )

    def block_set_io_throttle(
        self,
        *,
        bps: int,
        bps_rd: int,
        bps_wr: int,
        iops: int,
        iops_rd: int,
        iops_wr: int,
        device: str | None = None,
        id: str | None = None,
        bps_max: int | None = None,
        bps_rd_max: int | None = None,
        bps_wr_max: int | None = None,
        iops_max: int | None = None,
        iops_rd_max: int | None = None,
        iops_wr_max: int | None = None,
        bps_max_length: int | None = None,
        bps_rd_max_length: int | None = None,
        bps_wr_max_length: int | None = None,
        iops_max_length: int | None = None,
        iops_rd_max_length: int | None = None,
        iops_wr_max_length: int | None = None,
        iops_size: int | None = None,
        group: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Limit a drive, together with all others of its group, in bytes and requests per
        second.

        The drive stays in its group unless another is named; a drive without a group
        gets one of its own name.  All zero takes the drive out of its group.  Lengths
        are seconds of burst at the `max` rate.
        """
        self._run(
            "block_set_io_throttle",
            {
                "bps": bps,
                "bps_rd": bps_rd,
                "bps_wr": bps_wr,
                "iops": iops,
                "iops_rd": iops_rd,
                "iops_wr": iops_wr,
                "device": device,
                "id": id,
                "bps_max": bps_max,
                "bps_rd_max": bps_rd_max,
                "bps_wr_max": bps_wr_max,
                "iops_max": iops_max,
                "iops_rd_max": iops_rd_max,
                "iops_wr_max": iops_wr_max,
                "bps_max_length": bps_max_length,
                "bps_rd_max_length": bps_rd_max_length,
                "bps_wr_max_length": bps_wr_max_length,
                "iops_max_length": iops_max_length,
                "iops_rd_max_length": iops_rd_max_length,
                "iops_wr_max_length": iops_wr_max_length,
                "iops_size": iops_size,
                "group": group,
            },
            timeout,
        )

    def blockdev_add(
        self,
        *,
        driver: BlockdevOptionsTag,
        node_name: str | None = None,
        discard: BlockdevDiscardOptions | None = None,
        cache: BlockdevCacheOptions | None = None,
        read_only: bool | None = None,
        auto_read_only: bool | None = None,
        force_share: bool | None = None,
        detect_zeroes: BlockdevDetectZeroesOptions | None = None,
        timeout: float | None = None,
        **members: Any
    ) -> None:
        """Open a node, as `-blockdev` does; it stays until `blockdev-del`."""
        self._run(
            "blockdev-add",
            {
                "driver": driver,
                "node-name": node_name,
                "discard": discard,
                "cache": cache,
                "read-only": read_only,
                "auto-read-only": auto_read_only,
                "force-share": force_share,
                "detect-zeroes": detect_zeroes,
                **wire_names(members),
            },
            timeout,
        )

    def blockdev_backup(
        self,
        *,
        device: str,
        sync: MirrorSyncMode,
        target: str,
        job_id: str | None = None,
        speed: Size | None = None,
        bitmap: str | None = None,
        bitmap_mode: BitmapSyncMode | None = None,
        compress: bool | None = None,
        on_source_error: BlockdevOnError | None = None,
        on_target_error: BlockdevOnError | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        filter_node_name: str | None = None,
        discard_source: bool | None = None,
        x_perf: BackupPerf | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy what a drive shows at this moment to a node, whatever its guest writes
        meanwhile.

        What the guest is about to overwrite is copied first.
        """
        self._run(
            "blockdev-backup",
            {
                "device": device,
                "sync": sync,
                "target": target,
                "job-id": job_id,
                "speed": size_of(speed),
                "bitmap": bitmap,
                "bitmap-mode": bitmap_mode,
                "compress": compress,
                "on-source-error": on_source_error,
                "on-target-error": on_target_error,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
                "filter-node-name": filter_node_name,
                "discard-source": discard_source,
                "x-perf": x_perf,
            },
            timeout,
        )

    def blockdev_del(
        self,
        *,
        node_name: str,
        timeout: float | None = None,
    ) -> None:
        """Close a node that `blockdev-add` has opened and that has no user."""
        self._run(
            "blockdev-del",
            {
                "node-name": node_name,
            },
            timeout,
        )

    def blockdev_mirror(
        self,
        *,
        device: str,
        target: str,
        sync: MirrorSyncMode,
        job_id: str | None = None,
        replaces: str | None = None,
        speed: Size | None = None,
        granularity: int | None = None,
        buf_size: Size | None = None,
        on_source_error: BlockdevOnError | None = None,
        on_target_error: BlockdevOnError | None = None,
        filter_node_name: str | None = None,
        copy_mode: MirrorCopyMode | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy a drive to a node, and follow what its guest writes; `job-complete` changes
        over."""
        self._run(
            "blockdev-mirror",
            {
                "device": device,
                "target": target,
                "sync": sync,
                "job-id": job_id,
                "replaces": replaces,
                "speed": size_of(speed),
                "granularity": granularity,
                "buf-size": size_of(buf_size),
                "on-source-error": on_source_error,
                "on-target-error": on_target_error,
                "filter-node-name": filter_node_name,
                "copy-mode": copy_mode,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
            },
            timeout,
        )

    def blockdev_reopen(
        self,
        *,
        options: list[BlockdevOptions],
        timeout: float | None = None,
    ) -> None:
        """Give nodes other options; an option that is not given has its default again.

        If `file` or `backing` names another node, that node replaces the child.
        """
        self._run(
            "blockdev-reopen",
            {
                "options": options,
            },
            timeout,
        )

    def blockdev_snapshot(
        self,
        *,
        node: str,
        overlay: str,
        timeout: float | None = None,
    ) -> None:
        """Let a node take the place of another, which becomes its backing file.

        `blockdev-add` has opened the overlay, without a backing file.
        """
        self._run(
            "blockdev-snapshot",
            {
                "node": node,
                "overlay": overlay,
            },
            timeout,
        )

    def blockdev_snapshot_sync(
        self,
        *,
        snapshot_file: str,
        device: str | None = None,
        node_name: str | None = None,
        snapshot_node_name: str | None = None,
        format: str | None = None,
        mode: NewImageMode | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let a new image take the place of a drive's root, which becomes its backing file.

        From then on the old root is read-only.  With mode `existing` the image
        exists already.
        """
        self._run(
            "blockdev-snapshot-sync",
            {
                "snapshot-file": snapshot_file,
                "device": device,
                "node-name": node_name,
                "snapshot-node-name": snapshot_node_name,
                "format": format,
                "mode": mode,
            },
            timeout,
        )

    def change_backing_file(
        self,
        *,
        device: str,
        image_node_name: str,
        backing_file: str,
        timeout: float | None = None,
    ) -> None:
        """Write another backing file name into an image of a drive's chain
        (qmp_change_backing_file).

        The nodes stay as they are.  The format that is written is that of the
        backing node; QEMU writes the image's own.
        """
        self._run(
            "change-backing-file",
            {
                "device": device,
                "image-node-name": image_node_name,
                "backing-file": backing_file,
            },
            timeout,
        )

    def cont(
        self,
        *,
        timeout: float | None = None,
    ) -> None:
        """Let the machine run, with every io-status ok, and retry the held requests."""
        self._run(
            "cont",
            {
            },
            timeout,
        )

    def drive_backup(
        self,
        *,
        device: str,
        sync: MirrorSyncMode,
        target: str,
        job_id: str | None = None,
        speed: Size | None = None,
        bitmap: str | None = None,
        bitmap_mode: BitmapSyncMode | None = None,
        compress: bool | None = None,
        on_source_error: BlockdevOnError | None = None,
        on_target_error: BlockdevOnError | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        filter_node_name: str | None = None,
        discard_source: bool | None = None,
        x_perf: BackupPerf | None = None,
        format: str | None = None,
        mode: NewImageMode | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy what a drive shows at this moment to an image, which is made for it.

        With mode=existing `target` is an image that exists.
        """
        self._run(
            "drive-backup",
            {
                "device": device,
                "sync": sync,
                "target": target,
                "job-id": job_id,
                "speed": size_of(speed),
                "bitmap": bitmap,
                "bitmap-mode": bitmap_mode,
                "compress": compress,
                "on-source-error": on_source_error,
                "on-target-error": on_target_error,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
                "filter-node-name": filter_node_name,
                "discard-source": discard_source,
                "x-perf": x_perf,
                "format": format,
                "mode": mode,
            },
            timeout,
        )

    def drive_mirror(
        self,
        *,
        device: str,
        target: str,
        sync: MirrorSyncMode,
        job_id: str | None = None,
        format: str | None = None,
        node_name: str | None = None,
        replaces: str | None = None,
        mode: NewImageMode | None = None,
        speed: Size | None = None,
        granularity: int | None = None,
        buf_size: Size | None = None,
        on_source_error: BlockdevOnError | None = None,
        on_target_error: BlockdevOnError | None = None,
        unmap: bool | None = None,
        copy_mode: MirrorCopyMode | None = None,
        auto_finalize: bool | None = None,
        auto_dismiss: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy a drive to an image that is made for it, and follow what its guest writes.

        With mode=existing `target` is an image that exists.
        """
        self._run(
            "drive-mirror",
            {
                "device": device,
                "target": target,
                "sync": sync,
                "job-id": job_id,
                "format": format,
                "node-name": node_name,
                "replaces": replaces,
                "mode": mode,
                "speed": size_of(speed),
                "granularity": granularity,
                "buf-size": size_of(buf_size),
                "on-source-error": on_source_error,
                "on-target-error": on_target_error,
                "unmap": unmap,
                "copy-mode": copy_mode,
                "auto-finalize": auto_finalize,
                "auto-dismiss": auto_dismiss,
            },
            timeout,
        )

    def job_cancel(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Cancel a job at once, in whatever state it is."""
        self._run(
            "job-cancel",
            {
                "id": id,
            },
            timeout,
        )

    def job_complete(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Let a ready job come to its end; the drive then uses what the job has made."""
        self._run(
            "job-complete",
            {
                "id": id,
            },
            timeout,
        )

    def job_dismiss(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Forget a concluded job."""
        self._run(
            "job-dismiss",
            {
                "id": id,
            },
            timeout,
        )

    def job_finalize(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Take the last steps of a pending job, and of all other jobs of its transaction."""
        self._run(
            "job-finalize",
            {
                "id": id,
            },
            timeout,
        )

    def job_pause(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Ask a job to pause as soon as it can; JOB_STATUS_CHANGE tells when it has."""
        self._run(
            "job-pause",
            {
                "id": id,
            },
            timeout,
        )

    def job_resume(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Let a job go on that a user or an error has paused; its io-status becomes ok."""
        self._run(
            "job-resume",
            {
                "id": id,
            },
            timeout,
        )

    def query_block(
        self,
        *,
        timeout: float | None = None,
    ) -> list[BlockInfo]:
        """Return all drives, in the order in which they were made."""
        result: list[BlockInfo] = self._run(
            "query-block",
            {
            },
            timeout,
        )
        return result

    def query_block_jobs(
        self,
        *,
        timeout: float | None = None,
    ) -> list[BlockJobInfo]:
        """Return all block jobs, the newest first."""
        result: list[BlockJobInfo] = self._run(
            "query-block-jobs",
            {
            },
            timeout,
        )
        return result

    def query_blockstats(
        self,
        *,
        query_nodes: bool | None = None,
        timeout: float | None = None,
    ) -> list[BlockStats]:
        """Return the counters of all drives with the nodes below them, or of all nodes."""
        result: list[BlockStats] = self._run(
            "query-blockstats",
            {
                "query-nodes": query_nodes,
            },
            timeout,
        )
        return result

    def query_commands(
        self,
        *,
        timeout: float | None = None,
    ) -> list[CommandInfo]:
        """Return the names of all commands."""
        result: list[CommandInfo] = self._run(
            "query-commands",
            {
            },
            timeout,
        )
        return result

    def query_iothreads(
        self,
        *,
        timeout: float | None = None,
    ) -> list[IOThreadInfo]:
        """Return an empty list: there are no iothreads."""
        result: list[IOThreadInfo] = self._run(
            "query-iothreads",
            {
            },
            timeout,
        )
        return result

    def query_jobs(
        self,
        *,
        timeout: float | None = None,
    ) -> list[JobInfo]:
        """Return all jobs, the newest first."""
        result: list[JobInfo] = self._run(
            "query-jobs",
            {
            },
            timeout,
        )
        return result

    def query_name(
        self,
        *,
        timeout: float | None = None,
    ) -> NameInfo:
        """Return the name given with the key `name`."""
        result: NameInfo = self._run(
            "query-name",
            {
            },
            timeout,
        )
        return result

    def query_named_block_nodes(
        self,
        *,
        flat: bool | None = None,
        timeout: float | None = None,
    ) -> list[BlockDeviceInfo]:
        """Return all nodes, the newest first; `flat` leaves out the information on backing
        images."""
        result: list[BlockDeviceInfo] = self._run(
            "query-named-block-nodes",
            {
                "flat": flat,
            },
            timeout,
        )
        return result

    def query_qmp_schema(
        self,
        *,
        timeout: float | None = None,
    ) -> list[Any]:
        """Return all commands, events and types, as QEMU's introspection describes its own."""
        result: list[Any] = self._run(
            "query-qmp-schema",
            {
            },
            timeout,
        )
        return result

    def query_status(
        self,
        *,
        timeout: float | None = None,
    ) -> StatusInfo:
        """Return the run state; `running` is true only in the state of that name."""
        result: StatusInfo = self._run(
            "query-status",
            {
            },
            timeout,
        )
        return result

    def query_version(
        self,
        *,
        timeout: float | None = None,
    ) -> VersionInfo:
        """Return the version of QEMU whose answers are given; `package` says that it is not
        QEMU."""
        result: VersionInfo = self._run(
            "query-version",
            {
            },
            timeout,
        )
        return result

    def query_yank(
        self,
        *,
        timeout: float | None = None,
    ) -> list[YankInstance]:
        """Return all instances whose connections can be cut, the oldest first."""
        result: list[YankInstance] = self._run(
            "query-yank",
            {
            },
            timeout,
        )
        return result

    def quit(
        self,
        *,
        timeout: float | None = None,
    ) -> None:
        """Say SHUTDOWN, cancel all jobs, and end the process, with exit status 0."""
        self._run(
            "quit",
            {
            },
            timeout,
        )

    def set_action(
        self,
        *,
        reboot: RebootAction | None = None,
        shutdown: ShutdownAction | None = None,
        panic: PanicAction | None = None,
        watchdog: WatchdogAction | None = None,
        timeout: float | None = None,
    ) -> None:
        """Accept what QEMU accepts; without a guest CPU none of these things can happen."""
        self._run(
            "set-action",
            {
                "reboot": reboot,
                "shutdown": shutdown,
                "panic": panic,
                "watchdog": watchdog,
            },
            timeout,
        )

    def stop(
        self,
        *,
        timeout: float | None = None,
    ) -> None:
        """Stop the machine; the reply comes when no request is in flight and all is flushed."""
        self._run(
            "stop",
            {
            },
            timeout,
        )

    def system_reset(
        self,
        *,
        timeout: float | None = None,
    ) -> None:
        """Reset the devices, and drop their held requests.

        Over NBD a request must be answered: a dropped one fails with ESHUTDOWN.
        """
        self._run(
            "system_reset",
            {
            },
            timeout,
        )

    def transaction(
        self,
        *,
        actions: list[TransactionAction],
        properties: TransactionProperties | None = None,
        timeout: float | None = None,
    ) -> None:
        """Carry out all of the actions, at one moment as guests see it, or none of them.

        Everything is drained first, but only the nodes that an action names are waited
        for as long as it takes; guests of these wait until the end.  Jobs go on, except
        for jobs on nodes that an action drains.
        """
        self._run(
            "transaction",
            {
                "actions": actions,
                "properties": properties,
            },
            timeout,
        )

    def x_barrier(
        self,
        *,
        device: str | None = None,
        timeout_ms: int | None = None,
        timeout: float | None = None,
    ) -> BarrierEnd:
        """Answer when no request is in flight on a drive, or on any, or after `timeout-ms`.

        A request is in flight from when it comes until it is answered, also while it is
        held, delayed or hangs: x-query-requests tells which.  Guests may send others at any
        time, so the one who asks knows that they do not.  The commands of this client come
        after the answer; those of others do not wait.
        """
        result: BarrierEnd = self._run(
            "x-barrier",
            {
                "device": device,
                "timeout-ms": timeout_ms,
            },
            timeout,
        )
        return result

    def x_crash_clone(
        self,
        *,
        device: str,
        export: str,
        state: str | None = None,
        keep: CrashKeep | None = None,
        seed: int | None = None,
        torn: bool | None = None,
        timeout: float | None = None,
    ) -> CrashStateInfo:
        """Export what a crash at this moment would leave of a drive, beside the live drive.

        Nothing is copied.  `export` is the name of the new export, which can be read and
        written until x-crash-drop; what its clients write is in memory.  `state` names a
        state, or `keep`, `seed` and `torn` choose one as x-power-cut does.
        """
        result: CrashStateInfo = self._run(
            "x-crash-clone",
            {
                "device": device,
                "export": export,
                "state": state,
                "keep": keep,
                "seed": seed,
                "torn": torn,
            },
            timeout,
        )
        return result

    def x_crash_drop(
        self,
        *,
        export: str,
        timeout: float | None = None,
    ) -> None:
        """End the export of a crash clone: its clients are disconnected, and its data is gone."""
        self._run(
            "x-crash-drop",
            {
                "export": export,
            },
            timeout,
        )

    def x_crash_enumerate(
        self,
        *,
        device: str,
        limit: int | None = None,
        torn: bool | None = None,
        timeout: float | None = None,
    ) -> list[CrashStateInfo]:
        """Return states that a crash at this moment might leave on the medium of a drive.

        All of them if they are at most `limit` (1000), else a sample of that number:
        nothing and everything, each write lost alone, each kept alone, each prefix, each
        tear, then others at random; of each its share if there are more.  Without `torn`
        (default: true) writes are kept whole.  `device` is a drive's id, or the node-name
        of a cache or of a node above one.
        """
        result: list[CrashStateInfo] = self._run(
            "x-crash-enumerate",
            {
                "device": device,
                "limit": limit,
                "torn": torn,
            },
            timeout,
        )
        return result

    def x_debug_block_dirty_bitmap_sha256(
        self,
        *,
        node: str,
        name: str,
        timeout: float | None = None,
    ) -> BlockDirtyBitmapSha256:
        """Return the SHA-256 of all bits, as QEMU computes it (hbitmap_sha256)."""
        result: BlockDirtyBitmapSha256 = self._run(
            "x-debug-block-dirty-bitmap-sha256",
            {
                "node": node,
                "name": name,
            },
            timeout,
        )
        return result

    def x_drive_set_policy(
        self,
        *,
        device: str,
        rerror: str | None = None,
        werror: str | None = None,
        retry_interval: int | None = None,
        retry_timeout: int | None = None,
        x_on_stop: OnStop | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change what happens when requests of a drive fail, from the next failure on.

        `device` is a drive's id or a node-name.  Held requests stay held, and those that
        wait for their next try are tried then.  `retry-interval` and `retry-timeout` are
        milliseconds for rerror and werror=retry; without a timeout (0) a request is tried
        until it succeeds.  With `x-on-stop` eshutdown the requests that are held fail now.
        """
        self._run(
            "x-drive-set-policy",
            {
                "device": device,
                "rerror": rerror,
                "werror": werror,
                "retry-interval": retry_interval,
                "retry-timeout": retry_timeout,
                "x-on-stop": x_on_stop,
            },
            timeout,
        )

    def x_fault_add(
        self,
        *,
        node_name: str,
        id: str | None = None,
        action: FaultOptionsTag | None = None,
        event: BlkdebugEvent | None = None,
        state: int | None = None,
        origin: FaultOrigin | None = None,
        connection: int | None = None,
        fua: bool | None = None,
        iotype: FaultIOType | list[FaultIOType] | None = None,
        sector: int | None = None,
        once: bool | None = None,
        immediately: bool | None = None,
        offset: int | None = None,
        length: int | None = None,
        count: int | None = None,
        after: int | None = None,
        every: int | None = None,
        rate: float | None = None,
        not_before_ms: int | None = None,
        not_after_ms: int | None = None,
        up_ms: int | None = None,
        down_ms: int | None = None,
        while_file: str | None = None,
        new_state: int | None = None,
        notify: bool | None = None,
        errno: int | str | None = None,
        delay_ms: int | None = None,
        jitter_ms: int | None = None,
        distribution: DelayDistribution | None = None,
        hang_ms: int | None = None,
        keep: TornKeep | None = None,
        sectors: int | None = None,
        by: int | None = None,
        how: CorruptHow | None = None,
        bits: int | None = None,
        at: int | None = None,
        value: int | None = None,
        medium: bool | None = None,
        block_size: int | None = None,
        timeout: float | None = None,
    ) -> FaultId:
        """Make requests to a node fail, from now on; return the rule's id, made up if not
        given.

        `node-name` also takes a drive's id.  The members are those of blkdebug's
        inject-error, and more: `errno` also by name; `offset` and `length` (bytes)
        for a range, which has to be within the node if a drive is as long as the
        node; `after`, the number of matching requests that pass first; `count`, the
        number of requests to hit (`once` is 1); `rate`, the probability of each hit,
        drawn from the machine's seed.  Without an `event` the rule is in force at once.
        A rule that can never hit anything is refused; one that hits nothing as things
        are, for example because the node is read-only, is made, with `warnings`.
        """
        result: FaultId = self._run(
            "x-fault-add",
            {
                "node-name": node_name,
                "id": id,
                "action": action,
                "event": event,
                "state": state,
                "origin": origin,
                "connection": connection,
                "fua": fua,
                "iotype": iotype,
                "sector": sector,
                "once": once,
                "immediately": immediately,
                "offset": offset,
                "length": length,
                "count": count,
                "after": after,
                "every": every,
                "rate": rate,
                "not-before-ms": not_before_ms,
                "not-after-ms": not_after_ms,
                "up-ms": up_ms,
                "down-ms": down_ms,
                "while-file": while_file,
                "new-state": new_state,
                "notify": notify,
                "errno": errno,
                "delay-ms": delay_ms,
                "jitter-ms": jitter_ms,
                "distribution": distribution,
                "hang-ms": hang_ms,
                "keep": keep,
                "sectors": sectors,
                "by": by,
                "how": how,
                "bits": bits,
                "at": at,
                "value": value,
                "medium": medium,
                "block-size": block_size,
            },
            timeout,
        )
        return result

    def x_fault_clear(
        self,
        *,
        node_name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Remove all rules, or the rules of one node (or drive's id).

        Those of blkdebug nodes go, too, with their changes of state.  Each node is in
        blkdebug's first state again.
        """
        self._run(
            "x-fault-clear",
            {
                "node-name": node_name,
            },
            timeout,
        )

    def x_fault_load(
        self,
        *,
        text: str,
        timeout: float | None = None,
    ) -> FaultIds:
        """Add the rules of a file, whose text this is: one on each line, or none if one is
        wrong.

        A line is as behind ``fault=``, or a JSON object with the arguments of
        x-fault-add; blank lines and those that begin with # are left out.  An error
        begins with the line's number.  All rules are made at the same moment.
        """
        result: FaultIds = self._run(
            "x-fault-load",
            {
                "text": text,
            },
            timeout,
        )
        return result

    def x_fault_modify(
        self,
        *,
        id: str,
        action: FaultAction | None = None,
        event: BlkdebugEvent | None = None,
        state: int | None = None,
        origin: FaultOrigin | None = None,
        connection: int | None = None,
        fua: bool | None = None,
        iotype: FaultIOType | list[FaultIOType] | None = None,
        sector: int | None = None,
        once: bool | None = None,
        immediately: bool | None = None,
        offset: int | None = None,
        length: int | None = None,
        count: int | None = None,
        after: int | None = None,
        every: int | None = None,
        rate: float | None = None,
        not_before_ms: int | None = None,
        not_after_ms: int | None = None,
        up_ms: int | None = None,
        down_ms: int | None = None,
        while_file: str | None = None,
        new_state: int | None = None,
        notify: bool | None = None,
        errno: int | str | None = None,
        delay_ms: int | None = None,
        jitter_ms: int | None = None,
        distribution: DelayDistribution | None = None,
        hang_ms: int | None = None,
        keep: TornKeep | None = None,
        sectors: int | None = None,
        by: int | None = None,
        how: CorruptHow | None = None,
        bits: int | None = None,
        at: int | None = None,
        value: int | None = None,
        medium: bool | None = None,
        block_size: int | None = None,
        timeout: float | None = None,
    ) -> FaultChanged:
        """Change members of a rule; those that are not given stay, and so do `seen` and `hits`.

        The members are those of x-fault-add, but for `node-name`.  One that excludes
        another takes its place: `count` that of `once`, `offset` that of `sector`.  With
        another `action`, what has the default of the old one gets that of the new one.  A
        rule that is used up hits again if its new `count` is more than its hits.  A
        rule of a blkdebug node is from then on as one that x-fault-add has made.  Requests that
        are waiting keep what was decided when they were hit.  Which request a sweep hits is
        changed by x-fault-sweep only.
        """
        result: FaultChanged = self._run(
            "x-fault-modify",
            {
                "id": id,
                "action": action,
                "event": event,
                "state": state,
                "origin": origin,
                "connection": connection,
                "fua": fua,
                "iotype": iotype,
                "sector": sector,
                "once": once,
                "immediately": immediately,
                "offset": offset,
                "length": length,
                "count": count,
                "after": after,
                "every": every,
                "rate": rate,
                "not-before-ms": not_before_ms,
                "not-after-ms": not_after_ms,
                "up-ms": up_ms,
                "down-ms": down_ms,
                "while-file": while_file,
                "new-state": new_state,
                "notify": notify,
                "errno": errno,
                "delay-ms": delay_ms,
                "jitter-ms": jitter_ms,
                "distribution": distribution,
                "hang-ms": hang_ms,
                "keep": keep,
                "sectors": sectors,
                "by": by,
                "how": how,
                "bits": bits,
                "at": at,
                "value": value,
                "medium": medium,
                "block-size": block_size,
            },
            timeout,
        )
        return result

    def x_fault_release(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> FaultRelease:
        """Let the requests go on that a rule keeps hanging; those that come later hang again."""
        result: FaultRelease = self._run(
            "x-fault-release",
            {
                "id": id,
            },
            timeout,
        )
        return result

    def x_fault_remove(
        self,
        *,
        id: str,
        timeout: float | None = None,
    ) -> None:
        """Remove one rule that x-fault-add has made, or a rule of a blkdebug node.

        A node without any rule, or change of state of its own, is in blkdebug's first state
        again.
        """
        self._run(
            "x-fault-remove",
            {
                "id": id,
            },
            timeout,
        )

    def x_fault_sweep(
        self,
        *,
        id: str | None = None,
        node_name: str | None = None,
        nth: int | None = None,
        action: FaultAction | None = None,
        event: BlkdebugEvent | None = None,
        state: int | None = None,
        origin: FaultOrigin | None = None,
        connection: int | None = None,
        fua: bool | None = None,
        iotype: FaultIOType | list[FaultIOType] | None = None,
        sector: int | None = None,
        immediately: bool | None = None,
        offset: int | None = None,
        length: int | None = None,
        not_before_ms: int | None = None,
        not_after_ms: int | None = None,
        up_ms: int | None = None,
        down_ms: int | None = None,
        while_file: str | None = None,
        new_state: int | None = None,
        notify: bool | None = None,
        errno: int | str | None = None,
        delay_ms: int | None = None,
        jitter_ms: int | None = None,
        distribution: DelayDistribution | None = None,
        hang_ms: int | None = None,
        keep: TornKeep | None = None,
        sectors: int | None = None,
        by: int | None = None,
        how: CorruptHow | None = None,
        bits: int | None = None,
        at: int | None = None,
        value: int | None = None,
        medium: bool | None = None,
        block_size: int | None = None,
        timeout: float | None = None,
    ) -> FaultSweep:
        """Let exactly the Nth matching request be hit; tell whether the one before was.

        Without a rule of that `id`, one is made: `nth` is 1 if not given, the other
        members are those of x-fault-add.  Sent again with the `id`, it ends a round and
        begins the next: the rule is as new, what it kept hanging goes on, and members
        that are given replace its own.  Without `nth`, the next request is armed if the
        rule has fired; else all have been hit, and the rule is removed.  Members that do not
        fit are refused in any case, and the round goes on.
        """
        result: FaultSweep = self._run(
            "x-fault-sweep",
            {
                "id": id,
                "node-name": node_name,
                "nth": nth,
                "action": action,
                "event": event,
                "state": state,
                "origin": origin,
                "connection": connection,
                "fua": fua,
                "iotype": iotype,
                "sector": sector,
                "immediately": immediately,
                "offset": offset,
                "length": length,
                "not-before-ms": not_before_ms,
                "not-after-ms": not_after_ms,
                "up-ms": up_ms,
                "down-ms": down_ms,
                "while-file": while_file,
                "new-state": new_state,
                "notify": notify,
                "errno": errno,
                "delay-ms": delay_ms,
                "jitter-ms": jitter_ms,
                "distribution": distribution,
                "hang-ms": hang_ms,
                "keep": keep,
                "sectors": sectors,
                "by": by,
                "how": how,
                "bits": bits,
                "at": at,
                "value": value,
                "medium": medium,
                "block-size": block_size,
            },
            timeout,
        )
        return result

    def x_fault_wait(
        self,
        *,
        id: str,
        hits: int | None = None,
        timeout_ms: int | None = None,
        timeout: float | None = None,
    ) -> FaultHits:
        """Answer when a rule has hit `hits` requests since it was made, or after `timeout-ms`.

        A rule that is removed, or can hit no more, is no longer waited for.  The
        commands of this client come after the answer; those of others do not wait.
        """
        result: FaultHits = self._run(
            "x-fault-wait",
            {
                "id": id,
                "hits": hits,
                "timeout-ms": timeout_ms,
            },
            timeout,
        )
        return result

    def x_power_cut(
        self,
        *,
        device: str | None = None,
        keep: CrashKeep | None = None,
        seed: int | None = None,
        torn: bool | None = None,
        state: str | None = None,
        timeout: float | None = None,
    ) -> PowerCutInfo:
        """Cut the power of a drive, or of all, and switch it on again.

        Writes that were neither flushed nor sent with FUA to a drive with
        cache.x-volatile=on are kept as `keep` says: `none` (the default), `all`, the first
        ones (`prefix`), or some at `random`; with `torn` also parts of them.  `seed`
        (default: the machine's) decides about chance.  Or `state` has the name of a state.
        `device` is a drive's id, or a node-name.  Clients are disconnected, held and
        hanging requests are dropped, jobs on the drive cancelled; io-status is ok.  Without
        `device` that is a reset: a stopped machine enters prelaunch.
        """
        result: PowerCutInfo = self._run(
            "x-power-cut",
            {
                "device": device,
                "keep": keep,
                "seed": seed,
                "torn": torn,
                "state": state,
            },
            timeout,
        )
        return result

    def x_query_drives(
        self,
        *,
        timeout: float | None = None,
    ) -> list[DriveInfo]:
        """Return what happens when requests fail, of all drives in the order of query-block."""
        result: list[DriveInfo] = self._run(
            "x-query-drives",
            {
            },
            timeout,
        )
        return result

    def x_query_faults(
        self,
        *,
        timeout: float | None = None,
    ) -> list[FaultInfo]:
        """Return all rules with what they have seen and hit, in the order in which they were
        made."""
        result: list[FaultInfo] = self._run(
            "x-query-faults",
            {
            },
            timeout,
        )
        return result

    def x_query_requests(
        self,
        *,
        timeout: float | None = None,
    ) -> list[RequestInfo]:
        """Return the requests that have come and are not answered, of each drive in their
        order.

        A request `waits-for` the machine to `run` when the machine is stopped or
        about to stop, for the end of a `drain`, for the `throttle` of its drive, for
        the next `retry` of what has failed, or for a `fault` rule that delays it or lets it
        hang.
        Requests on the shortcut are left out, since they wait for nothing.
        """
        result: list[RequestInfo] = self._run(
            "x-query-requests",
            {
            },
            timeout,
        )
        return result

    def x_query_seed(
        self,
        *,
        timeout: float | None = None,
    ) -> SeedInfo:
        """Return the seed of the machine's random numbers, with which they can be had again."""
        result: SeedInfo = self._run(
            "x-query-seed",
            {
            },
            timeout,
        )
        return result

    def x_query_volumes(
        self,
        *,
        node_name: str | None = None,
        timeout: float | None = None,
    ) -> list[VolumeInfo]:
        """Return all volumes of limited physical size, or that of one node (or drive's id)."""
        result: list[VolumeInfo] = self._run(
            "x-query-volumes",
            {
                "node-name": node_name,
            },
            timeout,
        )
        return result

    def x_replay_stop(
        self,
        *,
        held: bool,
        timeout: float | None = None,
    ) -> None:
        """Stop the machine if an error has asked for that, and say when later errors do.

        With `held` the stops that errors ask for wait for this command; without, they
        come by themselves, as at first.  A replay has its stops where its recording has them.
        """
        self._run(
            "x-replay-stop",
            {
                "held": held,
            },
            timeout,
        )

    def x_volume_extend(
        self,
        *,
        node_name: str,
        size: Size | None = None,
        add: Size | None = None,
        latency_ms: int | None = None,
        errno: int | str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let a volume grow to `size` bytes, or by `add` bytes, rounded up to whole extents.

        `node-name` also takes a drive's id, and a node above the volume.  The
        reply comes when the extension is done, which takes `latency-ms`.  With an
        `errno` (a number or a name) the extension fails after that time, and the
        volume stays as it is.  Held requests stay held until `cont`.
        """
        self._run(
            "x-volume-extend",
            {
                "node-name": node_name,
                "size": size_of(size),
                "add": size_of(add),
                "latency-ms": latency_ms,
                "errno": errno,
            },
            timeout,
        )

    def x_volume_responder(
        self,
        *,
        node_name: str,
        enable: bool | None = None,
        threshold: Size | None = None,
        percent: int | None = None,
        chunk: Size | None = None,
        latency_min_ms: int | None = None,
        latency_max_ms: int | None = None,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Let the machine play the storage manager of a volume; `enable` false ends it.

        The manager extends the volume by `chunk` bytes when a write ends less than
        `threshold` bytes below the physical size, or when `percent` of the last
        chunk is in use (20 if neither is given, as with vdsm).  It lets a machine go
        on that has stopped because the volume was full.  Every extension takes
        between `latency-min-ms` and `latency-max-ms` (`latency-min-ms`, if not
        given); `seed` decides how long.  Meanwhile the write threshold of the
        `file` node belongs to the manager.
        """
        self._run(
            "x-volume-responder",
            {
                "node-name": node_name,
                "enable": enable,
                "threshold": size_of(threshold),
                "percent": percent,
                "chunk": size_of(chunk),
                "latency-min-ms": latency_min_ms,
                "latency-max-ms": latency_max_ms,
                "seed": seed,
            },
            timeout,
        )

    def x_write_log_save(
        self,
        *,
        device: str,
        filename: str,
        timeout: float | None = None,
    ) -> WriteLogInfo:
        """Save the writes that a crash at this moment might lose, in the format of dm-log-
        writes.

        `filename` is a new file, or one that is overwritten.  `device` is a drive's id, or
        the node-name of a cache or of a node above one.
        """
        result: WriteLogInfo = self._run(
            "x-write-log-save",
            {
                "device": device,
                "filename": filename,
            },
            timeout,
        )
        return result

    def yank(
        self,
        *,
        instances: list[YankInstance],
        timeout: float | None = None,
    ) -> None:
        """Cut the connections of all these instances, or of none if one of them does not exist."""
        self._run(
            "yank",
            {
                "instances": instances,
            },
            timeout,
        )
