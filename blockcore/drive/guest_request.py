# SPDX-License-Identifier: MIT
"""The life of a guest request: held, tried, and what the policy makes of a failure.

Here a request meets the error policy (`block/block-backend.c`,
`hw/block/virtio-blk.c`).  A request that fails is reported, ignored, or held: then
it asks for the machine to stop, and waits until `cont` lets it try again from
the beginning.  Requests that arrive while the machine does not run wait likewise.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import Tried
from blockcore.qapi.errnos import HungUp, failure
from blockcore.qapi.events import BlockIoError
from blockcore.qapi.names import (
    BlkdebugIOType,
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    RunState,
)
from blockcore.qapi.record import dataclass
from blockcore.rules.accounting import AcctType, BlockAcctStats
from blockcore.rules.host import DriveHost
from blockcore.rules.policy import error_action, iostatus_after
from blockcore.rules.runstate import Vm
from blockcore.rules.throttle_group import ThrottleMember


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device model that a guest would see on the drive.

    `path` is the device's place in QEMU's object tree, `id` the user's name for it.
    Block sizes are in bytes.  Requests must be aligned to `logical_block_size`;
    None allows any alignment, because an NBD client has no sectors.
    """

    path: str
    id: str | None = None
    logical_block_size: int | None = None
    physical_block_size: int | None = None

    @property
    def qdev(self) -> str:
        """The device as query-block shows it: its path, or its id (blk_get_attached_dev_id).

        The id is shown only for a device that has the drive itself.  In a virtio device
        an inner part has the drive, and that part has no id.
        """
        return self.id if self.id is not None and self.path.endswith(f"/{self.id}") else self.path


class Drive(Protocol):
    """What a request needs of its drive."""

    name: str
    root: BlockNode
    device: Device
    rerror: BlockdevOnError
    werror: BlockdevOnError
    iostatus: BlockDeviceIoStatus
    throttle: ThrottleMember | None

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def iostatus_enabled(self) -> bool:
        """Whether a policy can stop the machine."""

    def may_run(self) -> bool:
        """Return whether requests may go to the node."""

    def renew_shortcut(self) -> None:
        """Decide whether later requests may take the shortcut."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: how it is called, and how it fails and counts.

    `acct` None: it is not accounted.  `throttled`: limits apply to it.
    """

    iotype: BlkdebugIOType
    operation: IoOperationType
    acct: AcctType | None
    throttled: bool


READ = Kind(BlkdebugIOType.READ, IoOperationType.READ, AcctType.READ, throttled=True)
WRITE = Kind(BlkdebugIOType.WRITE, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
ZERO = Kind(BlkdebugIOType.WRITE_ZEROES, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
FLUSH = Kind(BlkdebugIOType.FLUSH, IoOperationType.WRITE, AcctType.FLUSH, throttled=False)
DISCARD = Kind(BlkdebugIOType.DISCARD, IoOperationType.WRITE, None, throttled=False)
"""A discard, which virtio-blk does not account (recorded: guest-discard-zeroes-eio-stop)."""


class Wait(Enum):
    """The reasons why a request is not at its node yet."""

    HOLD = auto()
    """The machine is stopped, or about to stop, or a drained section keeps requests out."""
    THROTTLE = auto()
    """The limits of the drive."""


@dataclass(slots=True)
class Request:
    """A request that has come and is not answered; `offset` and `length` in bytes.

    `connection` is the number of the guest's connection.
    """

    kind: Kind
    offset: int
    length: int
    arrived_ns: int
    connection: int
    waits_for: Wait | None = None


class RequestDropped(OSError):
    """The outcome of a held request whose machine was reset, or whose drive is gone: ESHUTDOWN."""

    def __init__(self) -> None:
        super().__init__(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))


class _Hold:
    """The condition that the held requests of a drive wait for.

    A reset sets `dropped`, which ends the wait of these requests only: later ones
    get another object.
    """

    __slots__ = ("drive", "dropped", "vm")

    def __init__(self, drive: Drive, vm: Vm) -> None:
        self.drive = drive
        self.vm = vm
        self.dropped = False

    def over(self) -> bool:
        return self.dropped or self.drive.may_run()

    def stop_decided(self) -> bool:
        """Return whether the stop that a failed request asked for has come, or `cont` before it."""
        return self.dropped or self.vm.stop_requested is None

    def check(self) -> None:
        if self.dropped:
            raise RequestDropped


class GuestRequests:
    """The requests of one drive's guest, except those on the shortcut.

    `in_flight` requests are at a node; `stats` counts the requests that are over;
    `arrivals` is how many have come.  `open` has those that are not answered, by
    their number, in the order in which they have come.
    """

    def __init__(self, drive: Drive, host: DriveHost, stats: BlockAcctStats) -> None:
        self.in_flight = 0
        self.stats = stats
        self._drive = drive
        self._host = host
        self.arrivals = 0
        self.open: dict[int, Request] = {}
        self._hold = _Hold(drive, host.vm)

    def drop_held(self) -> None:
        """End every held request, because the device was reset (virtio_blk_reset)."""
        self._hold.dropped = True
        self._hold = _Hold(self._drive, self._host.vm)

    def _request(self, kind: Kind, offset: int, nbytes: int) -> Request:
        now_ns, connection = self._host.clock.monotonic_ns(), self._host.connection()
        return Request(kind, offset, nbytes, now_ns, connection)

    async def carry_out(
        self,
        kind: Kind,
        offset: int,
        nbytes: int,
        attempt: Callable[[], Awaitable[None]],
        tried: Tried = False,
        fast: bool = False,
    ) -> bool:
        """Carry a request to its end; return False if its error was ignored.

        Each round holds the request until the machine runs, tries it from scratch, and
        lets the policy decide about a failure.  `tried` is the outcome of the first
        attempt if the shortcut has made one.  Held requests go on in the order in
        which they arrived.  The time that a request is held is not accounted, as in
        QEMU, which starts its account anew when it tries again (block_acct_start).

        Raise OSError if the policy reports the error, or if the request is dropped,
        invalid, or hung up on.  With `fast`, ENOTSUP is an answer, not an error that
        concerns the policy.
        """
        self._drive.renew_shortcut()
        error = tried if isinstance(tried, OSError) else None
        self.arrivals += 1
        rank = self.arrivals
        request = self.open[rank] = self._request(kind, offset, nbytes)
        started_ns = request.arrived_ns
        try:
            while True:
                if error is None:
                    hold = self._hold
                    if not hold.over():
                        request.waits_for = Wait.HOLD
                        await Until(hold.over, rank=rank)
                        request.waits_for = None
                        started_ns = self._host.clock.monotonic_ns()
                    hold.check()
                    self._check(request)
                    error = await self._attempt(request, attempt)
                if error is None:
                    self._count(request, started_ns)
                    return True
                if isinstance(error, HungUp) or (fast and error.errno == errno.ENOTSUP):
                    raise error
                action = self._error_action(kind.operation, error)
                if action is BlockErrorAction.REPORT:
                    self._count_failed(request, started_ns)
                    raise error
                if action is BlockErrorAction.IGNORE:
                    self._count(request, started_ns)
                    return False
                # The machine still runs for a moment (STOP_LATENCY_NS): without this wait the
                # request would be tried again before the stop that it has asked for.
                error, hold = None, self._hold
                request.waits_for = Wait.HOLD
                await Until(hold.stop_decided, rank=rank)
                request.waits_for = None
                hold.check()
                started_ns = self._host.clock.monotonic_ns()
        finally:
            del self.open[rank]
            error, tried = None, False  # the traceback of an error refers to this frame

    async def _attempt(
        self, request: Request, attempt: Callable[[], Awaitable[None]]
    ) -> OSError | None:
        # Throttled requests are in flight: a drain waits for them, after it has let them through.
        throttle = self._drive.throttle
        self.in_flight += 1
        try:
            if throttle is not None and request.kind.throttled:
                is_write = request.kind.operation is IoOperationType.WRITE
                request.waits_for = Wait.THROTTLE
                await throttle.admit(is_write, request.length, self._host.clock.monotonic_ns)
                request.waits_for = None
            await attempt()
        except OSError as exc:
            return exc
        finally:
            self.in_flight -= 1
        return None

    def _count_failed(self, request: Request, started_ns: int) -> None:
        if (acct := request.kind.acct) is not None:
            self.stats.failed(acct, started_ns, self._host.clock.monotonic_ns())

    def _count(self, request: Request, started_ns: int) -> None:
        if (acct := request.kind.acct) is not None:
            now_ns = self._host.clock.monotonic_ns()
            self.stats.done(acct, request.length, started_ns, now_ns)

    def _check(self, request: Request) -> None:
        """Raise EINVAL for a request that no device model would pass on, and count it as invalid.

        No policy applies, and there is no event (virtio_blk_sect_range_ok).
        """
        drive = self._drive
        block = drive.device.logical_block_size or 1
        offset, length = request.offset, request.length
        if offset + length <= drive.size and not (offset | length) % block:
            return
        if (acct := request.kind.acct) is not None:
            self.stats.invalid(acct, self._host.clock.monotonic_ns())
        raise failure(errno.EINVAL)

    def _error_action(self, operation: IoOperationType, error: OSError) -> BlockErrorAction:
        """Decide, set the io-status, send the event, ask for the stop, in this order.

        (blk_error_action.)  Return the action.
        """
        drive = self._drive
        number = error.errno or errno.EIO
        is_read = operation is IoOperationType.READ
        action = error_action(drive.rerror if is_read else drive.werror, number)
        if action is BlockErrorAction.STOP:
            drive.iostatus = iostatus_after(drive.iostatus, number)
        self._host.emit(
            BlockIoError(
                qom_path=drive.device.path,
                device=drive.name,
                node_name=drive.root.node_name,
                operation=operation,
                action=action,
                nospace=number == errno.ENOSPC if drive.iostatus_enabled else None,
                reason=os.strerror(number),
            )
        )
        if action is BlockErrorAction.STOP:
            self._host.vm.request_stop(RunState.IO_ERROR)
        return action
