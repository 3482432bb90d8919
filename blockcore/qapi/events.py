# SPDX-License-Identifier: MIT
"""QAPI's events: what every client of the control socket is told.

Members carry QAPI's names with ``_`` for ``-``; one that is None is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockcore.qapi.names import (
    BlockErrorAction,
    IoOperationType,
    JobStatus,
    JobType,
    ShutdownCause,
    Size,
    UInt64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The machine stopped; `query-status` already says why."""

    NAME: ClassVar[str] = "STOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    NAME: ClassVar[str] = "RESUME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    NAME: ClassVar[str] = "SHUTDOWN"
    guest: bool
    reason: ShutdownCause


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    NAME: ClassVar[str] = "RESET"
    guest: bool
    reason: ShutdownCause


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIoError:
    """One failed guest request.

    `device` is empty for an anonymous drive; `qom_path` is where QEMU's object
    tree has the device; `nospace` is absent unless the
    io-status of the drive is enabled (`blk_iostatus_is_enabled`); `reason` is
    strerror's text.
    """

    NAME: ClassVar[str] = "BLOCK_IO_ERROR"
    device: str
    qom_path: str
    node_name: str | None = None
    operation: IoOperationType
    action: BlockErrorAction
    nospace: bool | None = None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWriteThreshold:
    """A write went past the node's threshold, which is thereby disarmed."""

    NAME: ClassVar[str] = "BLOCK_WRITE_THRESHOLD"
    node_name: str
    amount_exceeded: UInt64
    write_threshold: UInt64


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockImageCorrupted:
    """An image is damaged: `offset` and `size` (bytes) say where, if that is known.

    `fatal`: the node is not used any more.
    """

    NAME: ClassVar[str] = "BLOCK_IMAGE_CORRUPTED"
    device: str
    node_name: str | None = None
    msg: str
    offset: int | None = None
    size: int | None = None
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class XVolumeExtended:
    """The volume under a `file` node has grown; physical sizes in bytes."""

    NAME: ClassVar[str] = "X_VOLUME_EXTENDED"
    node_name: str
    old_size: Size
    new_size: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatusChange:
    NAME: ClassVar[str] = "JOB_STATUS_CHANGE"
    id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobError:
    """One failed I/O of a job, whatever its policy makes of it; `device` is the job's id."""

    NAME: ClassVar[str] = "BLOCK_JOB_ERROR"
    device: str
    operation: IoOperationType
    action: BlockErrorAction


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobProgress:
    """What events of a job's progress have: `len` and `offset` in bytes, `speed` in bytes per
    second; `device` is the job's id.
    """

    type: JobType
    device: str
    len: int
    offset: int
    speed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobCompleted(BlockJobProgress):
    """A job has come to its end, with `error` if it failed."""

    NAME: ClassVar[str] = "BLOCK_JOB_COMPLETED"
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobCancelled(BlockJobProgress):
    NAME: ClassVar[str] = "BLOCK_JOB_CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobReady(BlockJobProgress):
    """Source and target are in sync."""

    NAME: ClassVar[str] = "BLOCK_JOB_READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobPending:
    """The job waits for `job-finalize`."""

    NAME: ClassVar[str] = "BLOCK_JOB_PENDING"
    type: JobType
    id: str


Event = (
    Stop
    | Resume
    | Shutdown
    | Reset
    | BlockIoError
    | BlockWriteThreshold
    | BlockImageCorrupted
    | XVolumeExtended
    | JobStatusChange
    | BlockJobError
    | BlockJobCompleted
    | BlockJobCancelled
    | BlockJobReady
    | BlockJobPending
)
