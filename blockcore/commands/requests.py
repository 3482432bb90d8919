# SPDX-License-Identifier: MIT
"""The requests of guests that are not answered: x-query-requests, and x-barrier at their end."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Request, Wait
from blockcore.machine.machine import Machine
from blockcore.qapi.names import FaultIOType, UInt32, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()


class RequestWait(StrEnum):
    """What a request waits for."""

    RUN = "run"
    DRAIN = "drain"
    THROTTLE = "throttle"
    RETRY = "retry"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """A request of a guest; `offset` and `length` in bytes, 0 for a connection that is opened.

    `device` is the drive's id, or the path of its device if it has none.
    `fault` is the id of the rule that it waits for.  Without `waits_for` the request is at
    a node.
    """

    device: str
    iotype: FaultIOType
    offset: UInt64
    length: UInt64
    connection: int
    age_ms: int
    waits_for: RequestWait | None = None
    fault: str | None = None


@table.command("x-query-requests")
def x_query_requests(machine: Machine) -> list[RequestInfo]:
    """Return the requests that have come and are not answered, of each drive in their order.

    A request `waits-for` the machine to `run` when the machine is stopped or
    about to stop, for the end of a `drain`, for the `throttle` of its drive, for
    the next `retry` of what has failed, or for a `fault` rule that delays it or lets it
    hang.
    Requests on the shortcut are left out, since they wait for nothing.
    """
    return [
        _info(machine, blk, request)
        for blk in machine.backends
        for request in blk.open_requests()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierEnd:
    """How x-barrier has ended."""

    timed_out: bool


@table.command("x-barrier")
async def x_barrier(
    machine: Machine, *, device: str | None = None, timeout_ms: UInt32 | None = None
) -> BarrierEnd:
    """Answer when no request is in flight on a drive, or on any, or after `timeout-ms`.

    A request is in flight from when it comes until it is answered, also while it is
    held, delayed or hangs: x-query-requests tells which.  Guests may send others at any
    time, so the one who asks knows that they do not.  The commands of this client come
    after the answer; those of others do not wait.
    """
    drives = [machine.find.drive_on(device)] if device is not None else list(machine.backends)

    def are_idle() -> bool:
        return all(blk.is_idle() for blk in drives)

    deadline_ns = None
    if timeout_ms is not None:
        deadline_ns = machine.clock.monotonic_ns() + timeout_ms * NS_OF_MS
    with ExitStack() as watched:
        for blk in drives:
            watched.enter_context(blk.watched())
        in_time = await Until(are_idle, deadline_ns)
    return BarrierEnd(timed_out=not in_time)


def _info(machine: Machine, blk: BlockBackend, request: Request) -> RequestInfo:
    waits_for = None
    if request.waits_for is Wait.THROTTLE:
        waits_for = RequestWait.THROTTLE
    elif request.waits_for is Wait.RETRY:
        waits_for = RequestWait.RETRY
    elif request.waits_for is Wait.DRAIN:
        waits_for = RequestWait.DRAIN
    elif request.waits_for is Wait.HOLD:
        # A request is held by a stop or by a drained section; only the run state tells which.
        runs = machine.vm.running and machine.vm.stop_requested is None
        waits_for = RequestWait.DRAIN if runs else RequestWait.RUN
    elif request.asker.fault is not None:
        waits_for = RequestWait.FAULT
    return RequestInfo(
        device=blk.name or blk.device.qdev,
        iotype=request.kind.iotype,
        offset=UInt64(request.offset),
        length=UInt64(request.length),
        connection=request.asker.connection,
        age_ms=(machine.clock.monotonic_ns() - request.arrived_ns) // NS_OF_MS,
        waits_for=waits_for,
        fault=request.asker.fault,
    )
