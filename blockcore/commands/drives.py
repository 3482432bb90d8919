# SPDX-License-Identifier: MIT
"""What happens when requests of a drive fail: looking at it, and changing it."""

from __future__ import annotations

from blockcore.machine.machine import Machine
from blockcore.qapi.names import DeviceOnError, OnStop, QmpError, UInt32
from blockcore.qapi.nearest import either
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.policy import Retry, parse_rerror, parse_werror

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveInfo:
    """A drive's policy; `device` is its id, or the path of its device if it has none.

    `retry_interval` and `retry_timeout` (milliseconds; a timeout of 0 is none) are
    for `retry`.  `x_on_stop` is what becomes of requests while the machine is stopped.
    """

    device: str
    rerror: DeviceOnError
    werror: DeviceOnError
    retry_interval: UInt32
    retry_timeout: UInt32
    x_on_stop: OnStop


POLICY = ("'rerror'", "'werror'", "'retry-interval'", "'retry-timeout'", "'x-on-stop'")
"""The members of x-drive-set-policy of which it needs one."""


@table.command("x-query-drives")
def x_query_drives(machine: Machine) -> list[DriveInfo]:
    """Return what happens when requests fail, of all drives in the order of query-block."""
    return [
        DriveInfo(
            device=blk.name or blk.device.qdev,
            rerror=blk.rerror,
            werror=blk.werror,
            retry_interval=blk.retry.interval_ms,
            retry_timeout=blk.retry.timeout_ms,
            x_on_stop=blk.on_stop,
        )
        for blk in machine.backends
    ]


@table.command("x-drive-set-policy")
def x_drive_set_policy(
    machine: Machine,
    *,
    device: str,
    rerror: str | None = None,
    werror: str | None = None,
    retry_interval: UInt32 | None = None,
    retry_timeout: UInt32 | None = None,
    x_on_stop: OnStop | None = None,
) -> None:
    """Change what happens when requests of a drive fail, from the next failure on.

    `device` is a drive's id or a node-name.  Held requests stay held, and those that
    wait for their next try are tried then.  `retry-interval` and `retry-timeout` are
    milliseconds for rerror and werror=retry; without a timeout (0) a request is tried
    until it succeeds.  With `x-on-stop` eshutdown the requests that are held fail now.
    """
    blk = machine.find.drive_on(device)
    if all(one is None for one in (rerror, werror, retry_interval, retry_timeout, x_on_stop)):
        raise QmpError(f"Must specify {either(POLICY)}")
    new_rerror = blk.rerror if rerror is None else parse_rerror(rerror)
    new_werror = blk.werror if werror is None else parse_werror(werror)
    retry = Retry(
        interval_ms=blk.retry.interval_ms if retry_interval is None else retry_interval,
        timeout_ms=blk.retry.timeout_ms if retry_timeout is None else retry_timeout,
    )
    retry.check()
    # All values are valid here: nothing is half applied.
    blk.rerror, blk.werror, blk.retry = new_rerror, new_werror, retry
    blk.on_stop = x_on_stop or blk.on_stop
