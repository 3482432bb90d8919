# SPDX-License-Identifier: MIT
"""What happens when requests of a drive fail: looking at it, and changing it."""

from __future__ import annotations

from blockcore.machine.machine import Machine
from blockcore.qapi.names import BlockdevOnError, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.policy import parse_rerror, parse_werror

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveInfo:
    """A drive's policy; `device` is its id, or the path of its device if it has none."""

    device: str
    rerror: BlockdevOnError
    werror: BlockdevOnError


@table.command("x-query-drives")
def x_query_drives(machine: Machine) -> list[DriveInfo]:
    """Return what happens when requests fail, of all drives in the order of query-block."""
    return [
        DriveInfo(device=blk.name or blk.device.qdev, rerror=blk.rerror, werror=blk.werror)
        for blk in machine.backends
    ]


@table.command("x-drive-set-policy")
def x_drive_set_policy(
    machine: Machine, *, device: str, rerror: str | None = None, werror: str | None = None
) -> None:
    """Change what happens when requests of a drive fail, from the next failure on.

    `device` is a drive's id or a node-name.  Held requests stay held.
    """
    blk = machine.find.drive_on(device)
    if rerror is None and werror is None:
        raise QmpError("Must specify 'rerror' or 'werror'")
    new_rerror = blk.rerror if rerror is None else parse_rerror(rerror)
    new_werror = blk.werror if werror is None else parse_werror(werror)
    # Both values are valid here: nothing is half applied.
    blk.rerror, blk.werror = new_rerror, new_werror
