# SPDX-License-Identifier: MIT
"""The QAPI vocabulary of the block layer: enums and errors; `events` has the events.

Values of the enums are the wire strings.  See `qapi/block-core.json`, `qapi/run-state.json`
and `qapi/job.json` in QEMU for the originals.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

Size = NewType("Size", int)
"""QAPI `size`: a byte count, unsigned, 64 bits."""
UInt32 = NewType("UInt32", int)
UInt64 = NewType("UInt64", int)


class QapiErrorClass(StrEnum):
    """`class` of an error reply; everything without a reason is GenericError."""

    GENERIC_ERROR = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"


class QmpError(Exception):
    """A client (or the command line) asked for something impossible.

    `desc` is one line in QEMU's words where QEMU has them.
    """

    def __init__(
        self, desc: str, error_class: QapiErrorClass = QapiErrorClass.GENERIC_ERROR
    ) -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class


class BlockdevOnError(StrEnum):
    """What to do when a request of a drive, or of a job, fails."""

    REPORT = "report"
    IGNORE = "ignore"
    ENOSPC = "enospc"
    STOP = "stop"
    AUTO = "auto"


class BlockErrorAction(StrEnum):
    """What a policy made of one error."""

    IGNORE = "ignore"
    REPORT = "report"
    STOP = "stop"


class BlockDeviceIoStatus(StrEnum):
    OK = "ok"
    FAILED = "failed"
    NOSPACE = "nospace"


class IoOperationType(StrEnum):
    """Direction of a failed request; flush, discard and zeroes are writes."""

    READ = "read"
    WRITE = "write"


class JobType(StrEnum):
    """Kinds of job, of which the first four are here."""

    COMMIT = "commit"
    STREAM = "stream"
    MIRROR = "mirror"
    BACKUP = "backup"
    CREATE = "create"
    AMEND = "amend"
    SNAPSHOT_LOAD = "snapshot-load"
    SNAPSHOT_SAVE = "snapshot-save"
    SNAPSHOT_DELETE = "snapshot-delete"


class JobStatus(StrEnum):
    """Where a job is in its life; `job_status` has the table of what follows what."""

    UNDEFINED = "undefined"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    READY = "ready"
    STANDBY = "standby"
    WAITING = "waiting"
    PENDING = "pending"
    ABORTING = "aborting"
    CONCLUDED = "concluded"
    NULL = "null"


class JobVerb(StrEnum):
    """What a user can want of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SET_SPEED = "set-speed"
    COMPLETE = "complete"
    DISMISS = "dismiss"
    FINALIZE = "finalize"
    CHANGE = "change"


class MirrorSyncMode(StrEnum):
    """What a job copies: everything, what the top image has, or only what is written from now."""

    TOP = "top"
    FULL = "full"
    NONE = "none"
    INCREMENTAL = "incremental"
    BITMAP = "bitmap"


class MirrorCopyMode(StrEnum):
    """When guests' writes reach the target: some time later, or before they are answered."""

    BACKGROUND = "background"
    WRITE_BLOCKING = "write-blocking"


class RunState(StrEnum):
    """The states of QEMU's machine that exist without a guest CPU."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    IO_ERROR = "io-error"
    SHUTDOWN = "shutdown"


class ShutdownCause(StrEnum):
    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_QMP_SYSTEM_RESET = "host-qmp-system-reset"
    HOST_SIGNAL = "host-signal"


class BlockdevDiscardOptions(StrEnum):
    """Whether a node passes discards on (`unmap`) or drops them (`ignore`)."""

    IGNORE = "ignore"
    UNMAP = "unmap"


class BlockdevDetectZeroesOptions(StrEnum):
    OFF = "off"
    ON = "on"
    UNMAP = "unmap"


class BlkdebugIOType(StrEnum):
    """Kinds of request a fault rule can name."""

    READ = "read"
    WRITE = "write"
    WRITE_ZEROES = "write-zeroes"
    DISCARD = "discard"
    FLUSH = "flush"
    BLOCK_STATUS = "block-status"


class BlkdebugEvent(StrEnum):
    """Moments in the block layer that a rule can wait for."""

    L1_UPDATE = "l1_update"
    L1_GROW_ALLOC_TABLE = "l1_grow_alloc_table"
    L1_GROW_WRITE_TABLE = "l1_grow_write_table"
    L1_GROW_ACTIVATE_TABLE = "l1_grow_activate_table"
    L2_LOAD = "l2_load"
    L2_UPDATE = "l2_update"
    L2_UPDATE_COMPRESSED = "l2_update_compressed"
    L2_ALLOC_COW_READ = "l2_alloc_cow_read"
    L2_ALLOC_WRITE = "l2_alloc_write"
    READ_AIO = "read_aio"
    READ_BACKING_AIO = "read_backing_aio"
    READ_COMPRESSED = "read_compressed"
    WRITE_AIO = "write_aio"
    WRITE_COMPRESSED = "write_compressed"
    VMSTATE_LOAD = "vmstate_load"
    VMSTATE_SAVE = "vmstate_save"
    COW_READ = "cow_read"
    COW_WRITE = "cow_write"
    REFTABLE_LOAD = "reftable_load"
    REFTABLE_GROW = "reftable_grow"
    REFTABLE_UPDATE = "reftable_update"
    REFBLOCK_LOAD = "refblock_load"
    REFBLOCK_UPDATE = "refblock_update"
    REFBLOCK_UPDATE_PART = "refblock_update_part"
    REFBLOCK_ALLOC = "refblock_alloc"
    REFBLOCK_ALLOC_HOOKUP = "refblock_alloc_hookup"
    REFBLOCK_ALLOC_WRITE = "refblock_alloc_write"
    REFBLOCK_ALLOC_WRITE_BLOCKS = "refblock_alloc_write_blocks"
    REFBLOCK_ALLOC_WRITE_TABLE = "refblock_alloc_write_table"
    REFBLOCK_ALLOC_SWITCH_TABLE = "refblock_alloc_switch_table"
    CLUSTER_ALLOC = "cluster_alloc"
    CLUSTER_ALLOC_BYTES = "cluster_alloc_bytes"
    CLUSTER_FREE = "cluster_free"
    FLUSH_TO_OS = "flush_to_os"
    FLUSH_TO_DISK = "flush_to_disk"
    PWRITEV_RMW_HEAD = "pwritev_rmw_head"
    PWRITEV_RMW_AFTER_HEAD = "pwritev_rmw_after_head"
    PWRITEV_RMW_TAIL = "pwritev_rmw_tail"
    PWRITEV_RMW_AFTER_TAIL = "pwritev_rmw_after_tail"
    PWRITEV = "pwritev"
    PWRITEV_ZERO = "pwritev_zero"
    PWRITEV_DONE = "pwritev_done"
    EMPTY_IMAGE_PREPARE = "empty_image_prepare"
    L1_SHRINK_WRITE_TABLE = "l1_shrink_write_table"
    L1_SHRINK_FREE_L2_CLUSTERS = "l1_shrink_free_l2_clusters"
    COR_WRITE = "cor_write"
    CLUSTER_ALLOC_SPACE = "cluster_alloc_space"
    NONE = "none"
