# SPDX-License-Identifier: MIT
"""QAPI's events, which every client of the control socket is sent.

Members have QAPI's names, with ``_`` for ``-``; a member that is None is not
sent.  `NAME` is the event's name on the wire.
"""

from __future__ import annotations

from typing import ClassVar

from blockcore.qapi.names import (
    BlockErrorAction,
    DeviceErrorAction,
    FaultIOType,
    IoOperationType,
    JobStatus,
    JobType,
    ShutdownCause,
    Size,
    UInt64,
)
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The machine has stopped; query-status shows the new run state by now."""

    NAME: ClassVar[str] = "STOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The machine runs again."""

    NAME: ClassVar[str] = "RESUME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """The machine is about to end."""

    NAME: ClassVar[str] = "SHUTDOWN"
    guest: bool
    reason: ShutdownCause


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The machine was reset."""

    NAME: ClassVar[str] = "RESET"
    guest: bool
    reason: ShutdownCause


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIoError:
    """A guest's request has failed (send_qmp_error_event).

    `device` is empty for an anonymous drive.  `qom_path` is the device's path
    in QEMU's object tree.  `nospace` is absent unless the drive keeps an
    io-status (blk_iostatus_is_enabled).  `reason` is strerror's text.  Of the
    actions QEMU lacks `retry`.
    """

    NAME: ClassVar[str] = "BLOCK_IO_ERROR"
    device: str
    qom_path: str
    node_name: str | None = None
    operation: IoOperationType
    action: DeviceErrorAction
    nospace: bool | None = None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWriteThreshold:
    """A write went beyond the node's threshold (bytes), which is disarmed by that."""

    NAME: ClassVar[str] = "BLOCK_WRITE_THRESHOLD"
    node_name: str
    amount_exceeded: UInt64
    write_threshold: UInt64


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockImageCorrupted:
    """An image was found to be damaged (qcow2_signal_corruption).

    `offset` and `size` (bytes) give the place, if it is known.  `fatal` says
    that the node refuses all further requests.
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
    """The volume under a `file` node has grown; physical sizes in bytes.

    QEMU has no such event.
    """

    NAME: ClassVar[str] = "X_VOLUME_EXTENDED"
    node_name: str
    old_size: Size
    new_size: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class XFaultTriggered:
    """A fault rule with `notify` has hit a request, which has not ended yet.

    `offset` and `length` in bytes; `connection` is that of the guest whose request it
    is; `hits` is how many requests the rule has hit, with this one.  QEMU has no
    such event.
    """

    NAME: ClassVar[str] = "X_FAULT_TRIGGERED"
    id: str
    node_name: str
    action: str
    iotype: FaultIOType
    offset: UInt64
    length: UInt64
    connection: int | None = None
    hits: UInt64


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatusChange:
    """A job has entered another status."""

    NAME: ClassVar[str] = "JOB_STATUS_CHANGE"
    id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobError:
    """An I/O of a job has failed; `action` is what the policy does; `device` is the job's id."""

    NAME: ClassVar[str] = "BLOCK_JOB_ERROR"
    device: str
    operation: IoOperationType
    action: BlockErrorAction


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobProgress:
    """The members that several events of block jobs share.

    `device` is the job's id; `len` and `offset` are bytes, `speed` is bytes per
    second.
    """

    type: JobType
    device: str
    len: int
    offset: int
    speed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobCompleted(BlockJobProgress):
    """A job has ended; `error` is its message if it failed."""

    NAME: ClassVar[str] = "BLOCK_JOB_COMPLETED"
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobCancelled(BlockJobProgress):
    """A job has ended because it was cancelled."""

    NAME: ClassVar[str] = "BLOCK_JOB_CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobReady(BlockJobProgress):
    """A job's source and target are in sync; job-complete is accepted."""

    NAME: ClassVar[str] = "BLOCK_JOB_READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobPending:
    """A job waits for job-finalize."""

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
    | XFaultTriggered
    | JobStatusChange
    | BlockJobError
    | BlockJobCompleted
    | BlockJobCancelled
    | BlockJobReady
    | BlockJobPending
)
"""Any event."""
