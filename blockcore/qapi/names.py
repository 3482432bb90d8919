# SPDX-License-Identifier: MIT
"""QAPI's enums; `events` has QAPI's events, `errors` the error of a command, which is here, too.

Values of the enums are the wire strings.  The originals are in QEMU's
`qapi/block-core.json`, `qapi/run-state.json` and `qapi/job.json`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

from blockcore.qapi.errors import QapiErrorClass as QapiErrorClass
from blockcore.qapi.errors import QmpError as QmpError

Size = NewType("Size", int)
"""QAPI's `size`: bytes, unsigned, 64 bits."""
UInt32 = NewType("UInt32", int)
"""QAPI's `uint32`."""
UInt64 = NewType("UInt64", int)
"""QAPI's `uint64`."""


class BlockdevOnError(StrEnum):
    """A policy: what to do when a request of a drive or of a job fails."""

    REPORT = "report"
    IGNORE = "ignore"
    ENOSPC = "enospc"
    STOP = "stop"
    AUTO = "auto"


class DeviceOnError(StrEnum):
    """A policy of a drive: one of QEMU's (`BlockdevOnError`), or `retry`, which openEuler's has."""

    REPORT = "report"
    IGNORE = "ignore"
    ENOSPC = "enospc"
    STOP = "stop"
    AUTO = "auto"
    RETRY = "retry"


class OnStop(StrEnum):
    """What becomes of a drive's requests while the machine is stopped."""

    HOLD = "hold"
    ESHUTDOWN = "eshutdown"


class BlockErrorAction(StrEnum):
    """The decision of a policy about one error."""

    IGNORE = "ignore"
    REPORT = "report"
    STOP = "stop"


class DeviceErrorAction(StrEnum):
    """The decision of a drive's policy about one error: QEMU's, or that it is tried again."""

    IGNORE = "ignore"
    REPORT = "report"
    STOP = "stop"
    RETRY = "retry"


class BlockDeviceIoStatus(StrEnum):
    """The io-status of a drive or a job: whether an error has stopped it, and which."""

    OK = "ok"
    FAILED = "failed"
    NOSPACE = "nospace"


class IoOperationType(StrEnum):
    """The direction of a failed request; flushes, discards and write-zeroes are writes."""

    READ = "read"
    WRITE = "write"


class JobType(StrEnum):
    """The kinds of job; this machine has the first four."""

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
    """The status of a job; `rules.job_status` has the table of changes."""

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
    """The requests that a user can make of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SET_SPEED = "set-speed"
    COMPLETE = "complete"
    DISMISS = "dismiss"
    FINALIZE = "finalize"
    CHANGE = "change"


class MirrorSyncMode(StrEnum):
    """The part of a node's data that a job copies.

    `full`: everything; `top`: what the top image has; `none`: only what is
    written from now on; `incremental` and `bitmap`: what a bitmap has.
    """

    TOP = "top"
    FULL = "full"
    NONE = "none"
    INCREMENTAL = "incremental"
    BITMAP = "bitmap"


class MirrorCopyMode(StrEnum):
    """When a guest's write reaches the target: later, or before the write is answered."""

    BACKGROUND = "background"
    WRITE_BLOCKING = "write-blocking"


class RunState(StrEnum):
    """The run states of QEMU that can occur here, where there is no guest CPU."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    IO_ERROR = "io-error"
    SHUTDOWN = "shutdown"


class ShutdownCause(StrEnum):
    """Why the machine shuts down or is reset."""

    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_QMP_SYSTEM_RESET = "host-qmp-system-reset"
    HOST_SIGNAL = "host-signal"


class BlockdevDiscardOptions(StrEnum):
    """Whether a node passes discards on (`unmap`) or drops them (`ignore`)."""

    IGNORE = "ignore"
    UNMAP = "unmap"


class BlockdevDetectZeroesOptions(StrEnum):
    """Whether a write of zeroes becomes a write-zeroes, which may deallocate (`unmap`)."""

    OFF = "off"
    ON = "on"
    UNMAP = "unmap"


class BlkdebugIOType(StrEnum):
    """The kinds of request that a rule of blkdebug can name."""

    READ = "read"
    WRITE = "write"
    WRITE_ZEROES = "write-zeroes"
    DISCARD = "discard"
    FLUSH = "flush"
    BLOCK_STATUS = "block-status"


class FaultIOType(StrEnum):
    """The kinds of request that a fault rule can name: blkdebug's, and the opening of connections.

    Those of blkdebug equal their namesakes in BlkdebugIOType.
    """

    READ = "read"
    WRITE = "write"
    WRITE_ZEROES = "write-zeroes"
    DISCARD = "discard"
    FLUSH = "flush"
    BLOCK_STATUS = "block-status"
    CONNECT = "connect"


class BlkdebugEvent(StrEnum):
    """The moments in the block layer at which rules can come into force or states can change."""

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
