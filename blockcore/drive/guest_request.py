# SPDX-License-Identifier: MIT
"""The life of a guest request: held, tried, and what the policy makes of a failure.

Here a request meets the error policy (`block/block-backend.c`,
`hw/block/virtio-blk.c`).  One that fails is reported, ignored, or held: then it
asks for the machine to stop, and stays where it is until `cont` lets it try
again from the beginning.  Requests that arrive while the machine does not run
wait the same way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import Tried
from blockcore.qapi.errnos import failure
from blockcore.qapi.events import BlockIoError
from blockcore.qapi.names import (
    BlkdebugIOType,
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    RunState,
)
from blockcore.rules.accounting import AcctType, BlockAcctStats
from blockcore.rules.host import DriveHost
from blockcore.rules.policy import error_action, iostatus_after
from blockcore.rules.runstate import Vm
from blockcore.rules.throttle_group import ThrottleMember


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device model a guest would see on the drive.

    `path` is where QEMU's object tree has it, `id` the user's name for it.
    `logical_block_size` (bytes) is what requests must be aligned to; None
    leaves any alignment to the client, which has no sectors to think in.
    """

    path: str
    id: str | None = None
    logical_block_size: int | None = None
    physical_block_size: int | None = None

    @property
    def qdev(self) -> str:
        """What query-block shows: the path, or the id of a device that has the drive itself.

        The part of a virtio device that has the drive has no id (blk_get_attached_dev_id).
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
        """In bytes."""

    @property
    def iostatus_enabled(self) -> bool:
        """Whether a policy can stop the machine."""

    def may_run(self) -> bool:
        """Whether requests may go to the node."""

    def renew_shortcut(self) -> None:
        """Find out whether those that come later may go past all this."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of request is called, and how it fails and counts."""

    iotype: BlkdebugIOType
    operation: IoOperationType
    acct: AcctType | None
    throttled: bool


READ = Kind(BlkdebugIOType.READ, IoOperationType.READ, AcctType.READ, throttled=True)
WRITE = Kind(BlkdebugIOType.WRITE, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
ZERO = Kind(BlkdebugIOType.WRITE_ZEROES, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
FLUSH = Kind(BlkdebugIOType.FLUSH, IoOperationType.WRITE, AcctType.FLUSH, throttled=False)
DISCARD = Kind(BlkdebugIOType.DISCARD, IoOperationType.WRITE, None, throttled=False)
"""virtio-blk does not account discards (recorded: guest-discard-zeroes-eio-stop)."""


class Wait(Enum):
    """What keeps a request from its node."""

    HOLD = auto()
    """Its machine is stopped, or about to, or a drained section keeps requests out."""
    THROTTLE = auto()
    """The drive's limits."""


@dataclass(slots=True)
class Request:
    """One that has come and is not answered; `offset` and `length` in bytes."""

    kind: Kind
    offset: int
    length: int
    arrived_ns: int
    waits_for: Wait | None = None


class RequestDropped(OSError):
    """The machine was reset under a held request, or its drive is gone."""

    def __init__(self) -> None:
        super().__init__(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))


class _Hold:
    """What the held requests of a drive wait for; a reset ends it and they are dropped."""

    __slots__ = ("drive", "dropped", "vm")

    def __init__(self, drive: Drive, vm: Vm) -> None:
        self.drive = drive
        self.vm = vm
        self.dropped = False

    def over(self) -> bool:
        return self.dropped or self.drive.may_run()

    def stop_decided(self) -> bool:
        """Whether the stop that a failed request asked for has come, or `cont` before it."""
        return self.dropped or self.vm.stop_requested is None

    def check(self) -> None:
        if self.dropped:
            raise RequestDropped


class GuestRequests:
    """The requests of one drive's guest, but for those on the shortcut.

    `in_flight` of them are at a node; `stats` counts those that are over;
    `arrivals` is how many have come, `open` those that are not answered, in
    that order.
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
        """End every held request: the device was reset (virtio_blk_reset)."""
        self._hold.dropped = True
        self._hold = _Hold(self._drive, self._host.vm)

    async def carry_out(
        self,
        kind: Kind,
        offset: int,
        nbytes: int,
        attempt: Callable[[], Awaitable[None]],
        tried: Tried = False,
        fast: bool = False,
    ) -> bool:
        """Carry a request to its end; False if its error was ignored.

        Each round holds the request until the machine runs, tries it from
        scratch, and lets the policy decide about a failure; `tried` is the
        outcome of the first attempt if the shortcut has made one.  Held requests go
        on in the order in which they arrived.
        """
        self._drive.renew_shortcut()
        error = tried if isinstance(tried, OSError) else None
        self.arrivals += 1
        rank = self.arrivals
        started_ns = self._host.clock.monotonic_ns()
        request = self.open[rank] = Request(kind, offset, nbytes, started_ns)
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
                if fast and error.errno == errno.ENOTSUP:
                    raise error
                action = self._error_action(kind.operation, error)
                if action is BlockErrorAction.REPORT:
                    self._count_failed(request, started_ns)
                    raise error
                if action is BlockErrorAction.IGNORE:
                    self._count(request, started_ns)
                    return False
                error, hold = None, self._hold
                request.waits_for = Wait.HOLD
                await Until(hold.stop_decided, rank=rank)
                request.waits_for = None
                hold.check()
                started_ns = self._host.clock.monotonic_ns()
        finally:
            del self.open[rank]
            error, tried = None, False  # the error leads to this frame

    async def _attempt(
        self, request: Request, attempt: Callable[[], Awaitable[None]]
    ) -> OSError | None:
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
        """Refuse what no device model would pass on: no policy, no event, counted as invalid."""
        drive = self._drive
        block = drive.device.logical_block_size or 1
        offset, length = request.offset, request.length
        if offset + length <= drive.size and not (offset | length) % block:
            return
        if (acct := request.kind.acct) is not None:
            self.stats.invalid(acct, self._host.clock.monotonic_ns())
        raise failure(errno.EINVAL)

    def _error_action(self, operation: IoOperationType, error: OSError) -> BlockErrorAction:
        """Decide, set the io-status, say so, ask for the stop: in this order (blk_error_action)."""
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
