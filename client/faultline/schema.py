# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from the commands of blockcore.
"""The types of the schema, as JSON has them: structs are dicts, enums texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

EVENTS = (
    "BLOCK_IMAGE_CORRUPTED",
    "BLOCK_IO_ERROR",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_READY",
    "BLOCK_WRITE_THRESHOLD",
    "JOB_STATUS_CHANGE",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
    "X_FAULT_TRIGGERED",
    "X_VOLUME_EXTENDED",
)
"""The names of the events that a machine of this package has."""


class Abort(TypedDict):
    pass


ActionCompletionMode = Literal[
    "individual",
    "grouped",
]


BackupPerf = TypedDict(
    "BackupPerf",
    {
        "use-copy-range": "NotRequired[bool]",
        "max-workers": "NotRequired[int]",
        "max-chunk": "NotRequired[int]",
        "min-cluster-size": "NotRequired[int]",
    },
)


BarrierEnd = TypedDict(
    "BarrierEnd",
    {
        "timed-out": "bool",
    },
)


BitmapSyncMode = Literal[
    "on-success",
    "never",
    "always",
]


BlkdebugEvent = Literal[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
]


BlkdebugIOType = Literal[
    "read",
    "write",
    "write-zeroes",
    "discard",
    "flush",
    "block-status",
]


BlockDeviceInfo = TypedDict(
    "BlockDeviceInfo",
    {
        "file": "str",
        "node-name": "str",
        "ro": "bool",
        "drv": "str",
        "active": "bool",
        "backing_file": "NotRequired[str]",
        "backing_file_depth": "int",
        "encrypted": "bool",
        "detect_zeroes": "BlockdevDetectZeroesOptions",
        "bps": "int",
        "bps_rd": "int",
        "bps_wr": "int",
        "iops": "int",
        "iops_rd": "int",
        "iops_wr": "int",
        "image": "ImageInfo",
        "bps_max": "NotRequired[int]",
        "bps_rd_max": "NotRequired[int]",
        "bps_wr_max": "NotRequired[int]",
        "iops_max": "NotRequired[int]",
        "iops_rd_max": "NotRequired[int]",
        "iops_wr_max": "NotRequired[int]",
        "bps_max_length": "NotRequired[int]",
        "bps_rd_max_length": "NotRequired[int]",
        "bps_wr_max_length": "NotRequired[int]",
        "iops_max_length": "NotRequired[int]",
        "iops_rd_max_length": "NotRequired[int]",
        "iops_wr_max_length": "NotRequired[int]",
        "iops_size": "NotRequired[int]",
        "group": "NotRequired[str]",
        "cache": "BlockdevCacheInfo",
        "write_threshold": "int",
        "dirty-bitmaps": "NotRequired[list[BlockDirtyInfo]]",
    },
)


BlockDeviceIoStatus = Literal[
    "ok",
    "failed",
    "nospace",
]


class BlockDeviceStats(TypedDict):
    rd_bytes: int
    wr_bytes: int
    zone_append_bytes: int
    unmap_bytes: int
    rd_operations: int
    wr_operations: int
    zone_append_operations: int
    flush_operations: int
    unmap_operations: int
    rd_total_time_ns: int
    wr_total_time_ns: int
    zone_append_total_time_ns: int
    flush_total_time_ns: int
    unmap_total_time_ns: int
    wr_highest_offset: int
    rd_merged: int
    wr_merged: int
    zone_append_merged: int
    unmap_merged: int
    idle_time_ns: NotRequired[int]
    failed_rd_operations: int
    failed_wr_operations: int
    failed_zone_append_operations: int
    failed_flush_operations: int
    failed_unmap_operations: int
    invalid_rd_operations: int
    invalid_wr_operations: int
    invalid_zone_append_operations: int
    invalid_flush_operations: int
    invalid_unmap_operations: int
    account_invalid: bool
    account_failed: bool
    timed_stats: list[BlockDeviceTimedStats]


class BlockDeviceTimedStats(TypedDict):
    interval_length: int


class BlockDirtyBitmap(TypedDict):
    node: str
    name: str


class BlockDirtyBitmapAdd(TypedDict):
    node: str
    name: str
    granularity: NotRequired[int]
    persistent: NotRequired[bool]
    disabled: NotRequired[bool]


class BlockDirtyBitmapMerge(TypedDict):
    node: str
    target: str
    bitmaps: list[str | BlockDirtyBitmap]


class BlockDirtyBitmapSha256(TypedDict):
    sha256: str


class BlockDirtyInfo(TypedDict):
    name: NotRequired[str]
    count: int
    granularity: int
    recording: bool
    busy: bool
    persistent: bool
    inconsistent: NotRequired[bool]


BlockErrorAction = Literal[
    "ignore",
    "report",
    "stop",
]


BlockImageCorrupted = TypedDict(
    "BlockImageCorrupted",
    {
        "device": "str",
        "node-name": "NotRequired[str]",
        "msg": "str",
        "offset": "NotRequired[int]",
        "size": "NotRequired[int]",
        "fatal": "bool",
    },
)


BlockInfo = TypedDict(
    "BlockInfo",
    {
        "device": "str",
        "qdev": "NotRequired[str]",
        "type": "str",
        "removable": "bool",
        "locked": "bool",
        "inserted": "NotRequired[BlockDeviceInfo]",
        "io-status": "NotRequired[BlockDeviceIoStatus]",
    },
)


BlockIoError = TypedDict(
    "BlockIoError",
    {
        "device": "str",
        "qom-path": "str",
        "node-name": "NotRequired[str]",
        "operation": "IoOperationType",
        "action": "DeviceErrorAction",
        "nospace": "NotRequired[bool]",
        "reason": "str",
    },
)


class BlockJobCancelled(TypedDict):
    type: JobType
    device: str
    len: int
    offset: int
    speed: int


class BlockJobCompleted(TypedDict):
    type: JobType
    device: str
    len: int
    offset: int
    speed: int
    error: NotRequired[str]


class BlockJobError(TypedDict):
    device: str
    operation: IoOperationType
    action: BlockErrorAction


BlockJobInfo = TypedDict(
    "BlockJobInfo",
    {
        "type": "JobType",
        "device": "str",
        "len": "int",
        "offset": "int",
        "busy": "bool",
        "paused": "bool",
        "speed": "int",
        "io-status": "BlockDeviceIoStatus",
        "ready": "bool",
        "status": "JobStatus",
        "auto-finalize": "bool",
        "auto-dismiss": "bool",
        "error": "NotRequired[str]",
        "actively-synced": "NotRequired[bool]",
    },
)


class BlockJobPending(TypedDict):
    type: JobType
    id: str


class BlockJobReady(TypedDict):
    type: JobType
    device: str
    len: int
    offset: int
    speed: int


BlockStats = TypedDict(
    "BlockStats",
    {
        "device": "NotRequired[str]",
        "qdev": "NotRequired[str]",
        "node-name": "NotRequired[str]",
        "stats": "BlockDeviceStats",
        "driver-specific": "NotRequired[BlockStatsSpecificFile]",
        "parent": "NotRequired[BlockStats]",
        "backing": "NotRequired[BlockStats]",
    },
)


BlockStatsSpecificFile = TypedDict(
    "BlockStatsSpecificFile",
    {
        "driver": "str",
        "discard-nb-ok": "int",
        "discard-nb-failed": "int",
        "discard-bytes-ok": "int",
    },
)


BlockWriteThreshold = TypedDict(
    "BlockWriteThreshold",
    {
        "node-name": "str",
        "amount-exceeded": "int",
        "write-threshold": "int",
    },
)


BlockdevAioOptions = Literal[
    "threads",
    "native",
    "io_uring",
]


BlockdevBackup = TypedDict(
    "BlockdevBackup",
    {
        "job-id": "NotRequired[str]",
        "device": "str",
        "sync": "MirrorSyncMode",
        "speed": "NotRequired[int]",
        "bitmap": "NotRequired[str]",
        "bitmap-mode": "NotRequired[BitmapSyncMode]",
        "compress": "NotRequired[bool]",
        "on-source-error": "NotRequired[BlockdevOnError]",
        "on-target-error": "NotRequired[BlockdevOnError]",
        "auto-finalize": "NotRequired[bool]",
        "auto-dismiss": "NotRequired[bool]",
        "filter-node-name": "NotRequired[str]",
        "discard-source": "NotRequired[bool]",
        "x-perf": "NotRequired[BackupPerf]",
        "target": "str",
    },
)


BlockdevCacheInfo = TypedDict(
    "BlockdevCacheInfo",
    {
        "writeback": "bool",
        "direct": "bool",
        "no-flush": "bool",
    },
)


BlockdevCacheOptions = TypedDict(
    "BlockdevCacheOptions",
    {
        "direct": "NotRequired[bool]",
        "no-flush": "NotRequired[bool]",
    },
)


BlockdevDetectZeroesOptions = Literal[
    "off",
    "on",
    "unmap",
]


BlockdevDiscardOptions = Literal[
    "ignore",
    "unmap",
]


BlockdevOnError = Literal[
    "report",
    "ignore",
    "enospc",
    "stop",
    "auto",
]


BlockdevOptions = TypedDict(
    "BlockdevOptions",
    {
        "driver": "BlockdevOptionsTag",
        "node-name": "NotRequired[str]",
        "discard": "NotRequired[BlockdevDiscardOptions]",
        "cache": "NotRequired[BlockdevCacheOptions]",
        "read-only": "NotRequired[bool]",
        "auto-read-only": "NotRequired[bool]",
        "force-share": "NotRequired[bool]",
        "detect-zeroes": "NotRequired[BlockdevDetectZeroesOptions]",
        "image": "NotRequired[BlockdevOptions | str]",
        "config": "NotRequired[str]",
        "max-transfer": "NotRequired[int]",
        "opt-write-zero": "NotRequired[int]",
        "max-write-zero": "NotRequired[int]",
        "opt-discard": "NotRequired[int]",
        "max-discard": "NotRequired[int]",
        "inject-error": "NotRequired[list[InjectError]]",
        "set-state": "NotRequired[list[SetState]]",
        "filename": "NotRequired[str]",
        "locking": "NotRequired[OnOffAuto]",
        "aio": "NotRequired[BlockdevAioOptions]",
        "x-physical-size": "NotRequired[int]",
        "x-extent-size": "NotRequired[int]",
        "x-short-write": "NotRequired[bool]",
        "server": "NotRequired[SocketAddress]",
        "export": "NotRequired[str]",
        "reconnect-delay": "NotRequired[int]",
        "open-timeout": "NotRequired[int]",
        "size": "NotRequired[int]",
        "latency-ns": "NotRequired[int]",
        "read-zeroes": "NotRequired[bool]",
        "file": "NotRequired[BlockdevOptions | str]",
        "backing": "NotRequired[BlockdevOptions | str | None]",
        "lazy-refcounts": "NotRequired[bool]",
        "pass-discard-request": "NotRequired[bool]",
        "pass-discard-snapshot": "NotRequired[bool]",
        "pass-discard-other": "NotRequired[bool]",
        "cache-size": "NotRequired[int]",
        "l2-cache-size": "NotRequired[int]",
        "l2-cache-entry-size": "NotRequired[int]",
        "refcount-cache-size": "NotRequired[int]",
        "cache-clean-interval": "NotRequired[int]",
        "x-drop-bitmaps": "NotRequired[bool]",
        "offset": "NotRequired[int]",
    },
)


BlockdevOptionsTag = Literal[
    "blkdebug",
    "file",
    "nbd",
    "null-co",
    "qcow2",
    "raw",
    "x-volatile-cache",
]


class BlockdevSnapshot(TypedDict):
    node: str
    overlay: str


BlockdevSnapshotSync = TypedDict(
    "BlockdevSnapshotSync",
    {
        "device": "NotRequired[str]",
        "node-name": "NotRequired[str]",
        "snapshot-file": "str",
        "snapshot-node-name": "NotRequired[str]",
        "format": "NotRequired[str]",
        "mode": "NotRequired[NewImageMode]",
    },
)


CacheLoss = TypedDict(
    "CacheLoss",
    {
        "node-name": "str",
        "state": "str",
        "kept": "int",
        "dropped": "int",
        "torn": "int",
        "refused": "list[RefusedRange]",
    },
)


class CommandInfo(TypedDict):
    name: str


CorruptHow = Literal[
    "flip",
    "zero",
    "random",
    "stale",
    "byte",
]


CrashKeep = Literal[
    "none",
    "all",
    "prefix",
    "random",
]


class CrashStateInfo(TypedDict):
    state: str
    kept: int
    dropped: int
    torn: int


DelayDistribution = Literal[
    "fixed",
    "uniform",
    "normal",
    "pareto",
]


DeviceErrorAction = Literal[
    "ignore",
    "report",
    "stop",
    "retry",
]


DeviceOnError = Literal[
    "report",
    "ignore",
    "enospc",
    "stop",
    "auto",
    "retry",
]


DriveBackup = TypedDict(
    "DriveBackup",
    {
        "job-id": "NotRequired[str]",
        "device": "str",
        "sync": "MirrorSyncMode",
        "speed": "NotRequired[int]",
        "bitmap": "NotRequired[str]",
        "bitmap-mode": "NotRequired[BitmapSyncMode]",
        "compress": "NotRequired[bool]",
        "on-source-error": "NotRequired[BlockdevOnError]",
        "on-target-error": "NotRequired[BlockdevOnError]",
        "auto-finalize": "NotRequired[bool]",
        "auto-dismiss": "NotRequired[bool]",
        "filter-node-name": "NotRequired[str]",
        "discard-source": "NotRequired[bool]",
        "x-perf": "NotRequired[BackupPerf]",
        "target": "str",
        "format": "NotRequired[str]",
        "mode": "NotRequired[NewImageMode]",
    },
)


DriveInfo = TypedDict(
    "DriveInfo",
    {
        "device": "str",
        "rerror": "DeviceOnError",
        "werror": "DeviceOnError",
        "retry-interval": "int",
        "retry-timeout": "int",
        "x-on-stop": "OnStop",
    },
)


FaultAction = Literal[
    "error",
    "delay",
    "hang",
    "drop",
    "torn",
    "misdirect",
    "duplicate",
    "corrupt",
    "badblock",
    "disconnect",
    "readonly",
    "set-state",
]


class FaultChanged(TypedDict):
    warnings: NotRequired[list[str]]


FaultHits = TypedDict(
    "FaultHits",
    {
        "hits": "int",
        "timed-out": "bool",
    },
)


FaultIOType = Literal[
    "read",
    "write",
    "write-zeroes",
    "discard",
    "flush",
    "block-status",
    "connect",
]


class FaultId(TypedDict):
    id: str
    warnings: NotRequired[list[str]]


class FaultIds(TypedDict):
    ids: list[str]
    warnings: NotRequired[list[str]]


FaultInfo = TypedDict(
    "FaultInfo",
    {
        "id": "str",
        "device": "NotRequired[str]",
        "node-name": "str",
        "action": "FaultInfoTag",
        "event": "BlkdebugEvent",
        "state": "int",
        "node-state": "NotRequired[int]",
        "origin": "NotRequired[FaultOrigin]",
        "connection": "NotRequired[int]",
        "iotype": "NotRequired[FaultIOType | list[FaultIOType]]",
        "fua": "NotRequired[bool]",
        "sector": "NotRequired[int]",
        "offset": "NotRequired[int]",
        "length": "NotRequired[int]",
        "count": "NotRequired[int]",
        "after": "int",
        "every": "NotRequired[int]",
        "rate": "float",
        "not-before-ms": "NotRequired[int]",
        "not-after-ms": "NotRequired[int]",
        "up-ms": "NotRequired[int]",
        "down-ms": "NotRequired[int]",
        "while-file": "NotRequired[str]",
        "new-state": "NotRequired[int]",
        "notify": "NotRequired[bool]",
        "seen": "int",
        "hits": "int",
        "hanging": "NotRequired[int]",
        "active": "bool",
        "errno": "NotRequired[int | str]",
        "errno-name": "NotRequired[str]",
        "delay-ms": "NotRequired[int]",
        "jitter-ms": "NotRequired[int]",
        "distribution": "NotRequired[DelayDistribution]",
        "hang-ms": "NotRequired[int]",
        "keep": "NotRequired[TornKeep]",
        "sectors": "NotRequired[int]",
        "by": "NotRequired[int]",
        "how": "NotRequired[CorruptHow]",
        "bits": "NotRequired[int]",
        "at": "NotRequired[int]",
        "value": "NotRequired[int]",
        "medium": "NotRequired[bool]",
        "block-size": "NotRequired[int]",
    },
)


FaultInfoTag = Literal[
    "error",
    "delay",
    "hang",
    "drop",
    "torn",
    "misdirect",
    "duplicate",
    "corrupt",
    "badblock",
    "disconnect",
    "readonly",
    "set-state",
]


FaultOptionsTag = Literal[
    "error",
    "delay",
    "hang",
    "drop",
    "torn",
    "misdirect",
    "duplicate",
    "corrupt",
    "badblock",
    "disconnect",
    "readonly",
    "set-state",
]


FaultOrigin = Literal[
    "any",
    "guest",
    "job",
]


class FaultRelease(TypedDict):
    released: int


FaultSweep = TypedDict(
    "FaultSweep",
    {
        "id": "str",
        "nth": "NotRequired[int]",
        "fired": "NotRequired[bool]",
        "seen": "NotRequired[int]",
        "taken-by": "NotRequired[str]",
        "warnings": "NotRequired[list[str]]",
    },
)


IOThreadInfo = TypedDict(
    "IOThreadInfo",
    {
        "id": "str",
        "thread-id": "int",
    },
)


ImageInfo = TypedDict(
    "ImageInfo",
    {
        "filename": "str",
        "format": "str",
        "dirty-flag": "NotRequired[bool]",
        "actual-size": "NotRequired[int]",
        "virtual-size": "int",
        "cluster-size": "NotRequired[int]",
        "backing-filename": "NotRequired[str]",
        "full-backing-filename": "NotRequired[str]",
        "backing-filename-format": "NotRequired[str]",
        "backing-image": "NotRequired[ImageInfo]",
        "format-specific": "NotRequired[ImageInfoSpecific]",
    },
)


class ImageInfoSpecific(TypedDict):
    type: ImageInfoSpecificTag
    data: NotRequired[Any]


ImageInfoSpecificFile = TypedDict(
    "ImageInfoSpecificFile",
    {
        "extent-size-hint": "NotRequired[int]",
    },
)


ImageInfoSpecificQCow2 = TypedDict(
    "ImageInfoSpecificQCow2",
    {
        "compat": "str",
        "lazy-refcounts": "NotRequired[bool]",
        "corrupt": "NotRequired[bool]",
        "extended-l2": "NotRequired[bool]",
        "refcount-bits": "int",
        "compression-type": "Qcow2CompressionType",
        "bitmaps": "NotRequired[list[Qcow2BitmapInfo]]",
    },
)


ImageInfoSpecificTag = Literal[
    "qcow2",
    "file",
]


class InjectError(TypedDict):
    event: BlkdebugEvent
    state: NotRequired[int]
    iotype: NotRequired[BlkdebugIOType]
    errno: NotRequired[int | str]
    sector: NotRequired[int]
    once: NotRequired[bool]
    immediately: NotRequired[bool]


IoOperationType = Literal[
    "read",
    "write",
]


JobInfo = TypedDict(
    "JobInfo",
    {
        "id": "str",
        "type": "JobType",
        "status": "JobStatus",
        "current-progress": "int",
        "total-progress": "int",
        "error": "NotRequired[str]",
        "x-cancelled": "NotRequired[bool]",
    },
)


JobStatus = Literal[
    "undefined",
    "created",
    "running",
    "paused",
    "ready",
    "standby",
    "waiting",
    "pending",
    "aborting",
    "concluded",
    "null",
]


class JobStatusChange(TypedDict):
    id: str
    status: JobStatus


JobType = Literal[
    "commit",
    "stream",
    "mirror",
    "backup",
    "create",
    "amend",
    "snapshot-load",
    "snapshot-save",
    "snapshot-delete",
]


MirrorCopyMode = Literal[
    "background",
    "write-blocking",
]


MirrorSyncMode = Literal[
    "top",
    "full",
    "none",
    "incremental",
    "bitmap",
]


class NameInfo(TypedDict):
    name: NotRequired[str]


NewImageMode = Literal[
    "existing",
    "absolute-paths",
]


OnOffAuto = Literal[
    "auto",
    "on",
    "off",
]


OnStop = Literal[
    "hold",
    "eshutdown",
]


PanicAction = Literal[
    "pause",
    "shutdown",
    "exit-failure",
    "none",
]


class PowerCutInfo(TypedDict):
    kept: int
    dropped: int
    torn: int
    caches: list[CacheLoss]
    unusable: list[UnusableNode]


class Qcow2BitmapInfo(TypedDict):
    name: str
    granularity: int
    flags: list[Qcow2BitmapInfoFlags]


Qcow2BitmapInfoFlags = Literal[
    "in-use",
    "auto",
]


Qcow2CompressionType = Literal[
    "zlib",
    "zstd",
]


RebootAction = Literal[
    "reset",
    "shutdown",
]


class RefusedRange(TypedDict):
    offset: int
    length: int
    reason: str


RequestInfo = TypedDict(
    "RequestInfo",
    {
        "device": "str",
        "iotype": "FaultIOType",
        "offset": "int",
        "length": "int",
        "connection": "int",
        "age-ms": "int",
        "waits-for": "NotRequired[RequestWait]",
        "fault": "NotRequired[str]",
    },
)


RequestWait = Literal[
    "run",
    "drain",
    "throttle",
    "retry",
    "fault",
]


class Reset(TypedDict):
    guest: bool
    reason: ShutdownCause


class Resume(TypedDict):
    pass


RunState = Literal[
    "prelaunch",
    "running",
    "paused",
    "io-error",
    "shutdown",
]


class SeedInfo(TypedDict):
    seed: int


class SetState(TypedDict):
    event: BlkdebugEvent
    state: NotRequired[int]
    new_state: int


class Shutdown(TypedDict):
    guest: bool
    reason: ShutdownCause


ShutdownAction = Literal[
    "poweroff",
    "pause",
]


ShutdownCause = Literal[
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
]


class SocketAddress(TypedDict):
    type: SocketAddressType
    host: NotRequired[str]
    port: NotRequired[str]
    path: NotRequired[str]


SocketAddressType = Literal[
    "inet",
    "unix",
]


class StatusInfo(TypedDict):
    running: bool
    singlestep: NotRequired[bool]
    status: RunState


class Stop(TypedDict):
    pass


TornKeep = Literal[
    "prefix",
    "suffix",
    "random",
]


class TransactionAction(TypedDict):
    type: TransactionActionTag
    data: NotRequired[Any]


TransactionActionTag = Literal[
    "abort",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-remove",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-merge",
    "blockdev-snapshot-sync",
    "blockdev-snapshot",
    "blockdev-backup",
    "drive-backup",
]


TransactionProperties = TypedDict(
    "TransactionProperties",
    {
        "completion-mode": "NotRequired[ActionCompletionMode]",
    },
)


UnusableNode = TypedDict(
    "UnusableNode",
    {
        "node-name": "str",
        "reason": "str",
    },
)


class VersionInfo(TypedDict):
    qemu: VersionTriple
    package: str


class VersionTriple(TypedDict):
    major: int
    minor: int
    micro: int


VolumeInfo = TypedDict(
    "VolumeInfo",
    {
        "node-name": "str",
        "filename": "str",
        "virtual-size": "int",
        "physical-size": "int",
        "allocated": "int",
        "wr-highest-offset": "int",
        "extent-size": "int",
        "short-write": "bool",
        "extensions": "int",
        "refusals": "int",
        "responder": "NotRequired[VolumeResponderInfo]",
    },
)


VolumeResponderInfo = TypedDict(
    "VolumeResponderInfo",
    {
        "threshold": "int",
        "chunk": "int",
        "latency-min-ms": "int",
        "latency-max-ms": "int",
        "seed": "int",
        "extensions": "int",
        "resumes": "int",
    },
)


WatchdogAction = Literal[
    "reset",
    "shutdown",
    "poweroff",
    "pause",
    "debug",
    "none",
    "inject-nmi",
]


class WriteLogInfo(TypedDict):
    writes: int


XFaultTriggered = TypedDict(
    "XFaultTriggered",
    {
        "id": "str",
        "node-name": "str",
        "action": "str",
        "iotype": "FaultIOType",
        "offset": "int",
        "length": "int",
        "connection": "NotRequired[int]",
        "hits": "int",
    },
)


XVolumeExtended = TypedDict(
    "XVolumeExtended",
    {
        "node-name": "str",
        "old-size": "int",
        "new-size": "int",
    },
)


YankInstance = TypedDict(
    "YankInstance",
    {
        "type": "YankInstanceType",
        "node-name": "NotRequired[str]",
        "id": "NotRequired[str]",
    },
)


YankInstanceType = Literal[
    "block-node",
    "chardev",
    "migration",
]


EVENT_DATA: Mapping[str, type] = {
    "BLOCK_IMAGE_CORRUPTED": BlockImageCorrupted,
    "BLOCK_IO_ERROR": BlockIoError,
    "BLOCK_JOB_CANCELLED": BlockJobCancelled,
    "BLOCK_JOB_COMPLETED": BlockJobCompleted,
    "BLOCK_JOB_ERROR": BlockJobError,
    "BLOCK_JOB_PENDING": BlockJobPending,
    "BLOCK_JOB_READY": BlockJobReady,
    "BLOCK_WRITE_THRESHOLD": BlockWriteThreshold,
    "JOB_STATUS_CHANGE": JobStatusChange,
    "RESET": Reset,
    "RESUME": Resume,
    "SHUTDOWN": Shutdown,
    "STOP": Stop,
    "X_FAULT_TRIGGERED": XFaultTriggered,
    "X_VOLUME_EXTENDED": XVolumeExtended,
}
"""The types of the data of events, by their names."""

ARGUMENTS: Mapping[str, type] = {
    "blockdev-add": BlockdevOptions,
}
"""The types of the arguments of commands whose methods take `**members`."""
