# SPDX-License-Identifier: MIT
"""The life of a guest request: held, tried, and what the policy makes of a failure.

Here a request meets the error policy (`block/block-backend.c`,
`hw/block/virtio-blk.c`).  A request that fails is reported, ignored, or held: then
it asks for the machine to stop, and waits until `cont` lets it try again from
the beginning.  Requests that arrive while the machine does not run wait likewise,
unless the drive has on-stop=eshutdown.  Under the policy `retry` a request that
fails waits for its next try; a stop ends that wait, and `cont` is the next try.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from itertools import count
from typing import Protocol

from blockcore.bql.asker import Asker
from blockcore.bql.effects import Until
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import Tried
from blockcore.qapi.errnos import HungUp, failure
from blockcore.qapi.events import BlockIoError
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    DeviceErrorAction,
    DeviceOnError,
    FaultIOType,
    IoOperationType,
    OnStop,
    RunState,
)
from blockcore.qapi.record import dataclass
from blockcore.rules.accounting import AcctType, BlockAcctStats
from blockcore.rules.host import DriveHost
from blockcore.rules.policy import Retry, device_action, iostatus_after
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
    rerror: DeviceOnError
    werror: DeviceOnError
    retry: Retry
    on_stop: OnStop
    cut_off: set[int]
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

    iotype: FaultIOType
    operation: IoOperationType
    acct: AcctType | None
    throttled: bool


READ = Kind(FaultIOType.READ, IoOperationType.READ, AcctType.READ, throttled=True)
WRITE = Kind(FaultIOType.WRITE, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
ZERO = Kind(FaultIOType.WRITE_ZEROES, IoOperationType.WRITE, AcctType.WRITE, throttled=True)
FLUSH = Kind(FaultIOType.FLUSH, IoOperationType.WRITE, AcctType.FLUSH, throttled=False)
DISCARD = Kind(FaultIOType.DISCARD, IoOperationType.WRITE, None, throttled=False)
"""A discard, which virtio-blk does not account (recorded: guest-discard-zeroes-eio-stop)."""
BLOCK_STATUS = Kind(FaultIOType.BLOCK_STATUS, IoOperationType.READ, None, throttled=False)
CONNECT = Kind(FaultIOType.CONNECT, IoOperationType.READ, None, throttled=False)
"""What a server is asked, and no device: no policy applies, and a stop does not hold it."""


class Wait(Enum):
    """The reasons why a request is not at its node yet."""

    HOLD = auto()
    """The machine is stopped, or about to stop, or a drained section keeps requests out."""
    DRAIN = auto()
    """A drained section, which is all that keeps this one out."""
    THROTTLE = auto()
    """The limits of the drive."""
    RETRY = auto()
    """The request has failed, and is tried again at some time."""


@dataclass(slots=True)
class Request:
    """A request that has come and is not answered; `offset` and `length` in bytes.

    `asker` has the number of the guest's connection.  `rank` is the place
    among the drive's requests.  `started_ns` is when the present try began to
    count; `failing_since_ns` is the first failure that was tried again, None if
    there was none.
    """

    kind: Kind
    offset: int
    length: int
    arrived_ns: int
    asker: Asker
    rank: int
    started_ns: int
    waits_for: Wait | None = None
    failing_since_ns: int | None = None


class RequestDropped(OSError):
    """The outcome of a request that is not carried out: ESHUTDOWN.

    Its machine was reset, or is stopped and the drive has on-stop=eshutdown.
    """

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
        return self.dropped or self.drive.may_run() or self.refuses()

    def refuses(self) -> bool:
        """Return whether the machine is stopped, and requests of the drive fail then."""
        return self.drive.on_stop is OnStop.ESHUTDOWN and not self.vm.running

    def ends_retry(self) -> bool:
        """Return whether the wait for the next try is over before its time."""
        return self.dropped or not self.vm.running

    def stop_decided(self) -> bool:
        """Return whether the stop that a failed request asked for has come, or `cont` before it."""
        return self.dropped or self.vm.stop_requested is None

    def check(self) -> None:
        if self.dropped or self.refuses():
            raise RequestDropped


class GuestRequests:
    """The requests of one drive's guest, except those on the shortcut.

    `in_flight` requests are at a node; `stats` counts the requests that are over;
    `arrivals` is how many have come that a device is asked.  `open` has those that are
    not answered, by their rank, in the order in which they have come.
    """

    def __init__(self, drive: Drive, host: DriveHost, stats: BlockAcctStats) -> None:
        self.in_flight = 0
        self.stats = stats
        self._drive = drive
        self._host = host
        self.arrivals = 0
        self.open: dict[int, Request] = {}
        self._ranks = count(1)
        self._hold = _Hold(drive, host.vm)

    def drop_held(self) -> None:
        """End every held request, because the device was reset (virtio_blk_reset)."""
        self._hold.dropped = True
        self._hold = _Hold(self._drive, self._host.vm)

    def _request(self, kind: Kind, offset: int, nbytes: int) -> Request:
        now_ns, rank = self._host.clock.monotonic_ns(), next(self._ranks)
        return Request(kind, offset, nbytes, now_ns, self._host.asker(), rank, now_ns)

    @contextmanager
    def listed(self, kind: Kind, offset: int, nbytes: int) -> Iterator[Request]:
        """List what no device is asked among the open requests, until the context ends."""
        request = self._request(kind, offset, nbytes)
        self.open[request.rank] = request
        try:
            yield request
        finally:
            del self.open[request.rank]

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
        request = self._request(kind, offset, nbytes)
        self.open[request.rank] = request
        try:
            while True:
                if error is None:
                    if not self._drive.may_run():
                        hold = self._hold
                        if not hold.over():
                            await self._wait(request, Wait.HOLD, hold.over)
                        hold.check()
                    self._check(request)
                    error = await self._attempt(request, attempt)
                if error is None:
                    self._count(request)
                    return True
                if isinstance(error, HungUp) or (fast and error.errno == errno.ENOTSUP):
                    raise error
                next_ns = self._next_try_ns(request)
                action = self._error_action(kind.operation, error, next_ns is not None)
                if action is DeviceErrorAction.REPORT:
                    self._count_failed(request)
                    raise error
                if action is DeviceErrorAction.IGNORE:
                    self._count(request)
                    return False
                error, hold = None, self._hold
                if action is DeviceErrorAction.RETRY:
                    await self._wait(request, Wait.RETRY, hold.ends_retry, next_ns)
                else:
                    # The machine still runs for a moment (STOP_LATENCY_NS): without this wait the
                    # request would be tried again before the stop that it has asked for.
                    await self._wait(request, Wait.HOLD, hold.stop_decided)
                hold.check()
        finally:
            del self.open[request.rank]
            error, tried = None, False  # the traceback of an error refers to this frame

    async def _wait(
        self,
        request: Request,
        reason: Wait,
        over: Callable[[], bool],
        deadline_ns: int | None = None,
    ) -> None:
        """Wait for a condition or a time; what is counted of the request begins anew after it."""
        clock = self._host.clock
        before_ns = clock.monotonic_ns()
        request.waits_for = reason
        await Until(over, deadline_ns, rank=request.rank)
        request.waits_for = None
        request.started_ns = clock.monotonic_ns()
        if reason is Wait.HOLD and request.failing_since_ns is not None:
            # For a guest no time passes while its machine is stopped.
            request.failing_since_ns += request.started_ns - before_ns

    def _next_try_ns(self, request: Request) -> int | None:
        """Return when a request that has failed would be tried again, or None if too late."""
        now_ns = self._host.clock.monotonic_ns()
        if request.failing_since_ns is None:
            request.failing_since_ns = now_ns
        return self._drive.retry.next_try_ns(request.failing_since_ns, now_ns)

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

    def _count_failed(self, request: Request) -> None:
        if (acct := request.kind.acct) is not None:
            self.stats.failed(acct, request.started_ns, self._host.clock.monotonic_ns())

    def _count(self, request: Request) -> None:
        if (acct := request.kind.acct) is not None:
            now_ns = self._host.clock.monotonic_ns()
            self.stats.done(acct, request.length, request.started_ns, now_ns)

    def _check(self, request: Request) -> None:
        """Raise EINVAL for a request that no device model would pass on, and count it as invalid.

        No policy applies, and there is no event (virtio_blk_sect_range_ok).  Raise
        HungUp for one that was sent before a power cut.
        """
        drive = self._drive
        if request.asker.connection in drive.cut_off:
            raise HungUp
        block = drive.device.logical_block_size or 1
        offset, length = request.offset, request.length
        if offset + length <= drive.size and not (offset | length) % block:
            return
        if (acct := request.kind.acct) is not None:
            self.stats.invalid(acct, self._host.clock.monotonic_ns())
        raise failure(errno.EINVAL)

    def _error_action(
        self, operation: IoOperationType, error: OSError, may_retry: bool
    ) -> DeviceErrorAction:
        """Decide, set the io-status, send the event, ask for the stop, in this order.

        (blk_error_action.)  Return the action.
        """
        drive = self._drive
        number = error.errno or errno.EIO
        is_read = operation is IoOperationType.READ
        action = device_action(drive.rerror if is_read else drive.werror, number, may_retry)
        if action is DeviceErrorAction.STOP:
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
        if action is DeviceErrorAction.STOP:
            self._host.vm.request_stop(RunState.IO_ERROR)
        return action
