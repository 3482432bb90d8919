# SPDX-License-Identifier: MIT
"""Fault rules at run time: what QEMU's blkdebug cannot do."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Annotated, Any

from blockcore.faults.injector import SECTOR_SIZE, FaultOptions, FaultRule
from blockcore.machine.graph_changes import is_shown, named_node
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import Errno, errno_named
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType, QmpError, UInt64
from blockcore.qapi.schema import CommandTable
from blockcore.qapi.visitor import Name

table = CommandTable()

SIZE_MAX = (1 << 63) - 1
"""Bytes of the longest node that can be."""


class KnownErrno(Errno):
    """An errno that exists, or 0, so that a slip is not a rule that nobody understands."""

    def visit(self, value: Any, name: Name) -> int:
        if isinstance(value, str) and errno_named(value) is None:
            raise QmpError(f"Parameter '{name.full}' does not accept value '{value}'")
        number = super().visit(value, name)
        if number and number not in errno.errorcode:
            raise name.expects("the number or name of an errno")
        return number


KNOWN_ERRNO = KnownErrno("FaultErrno", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultId:
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultInfo:
    """A rule and what it has done.

    `device` is the drive that shows the node, if there is one, and `errno-name`
    what `errno` is called.  `seen` requests matched it, `hits` of them failed by
    it.  `active` tells whether it can still hit one: a rule with a `count` is
    used up after that many hits, and stays listed until it is removed.
    """

    id: str
    device: str | None = None
    node_name: str
    event: BlkdebugEvent
    state: int
    iotype: BlkdebugIOType | None = None
    errno: int
    errno_name: str | None = None
    sector: int | None = None
    offset: int | None = None
    length: int | None = None
    count: int | None = None
    after: int
    rate: float
    seen: int
    hits: int
    active: bool


@table.command("x-fault-add")
def x_fault_add(
    machine: Machine,
    *,
    node_name: str,
    id: str | None = None,
    event: BlkdebugEvent = BlkdebugEvent.NONE,
    state: int = 0,
    iotype: BlkdebugIOType | None = None,
    errno: Annotated[int, KNOWN_ERRNO] = errno.EIO,
    sector: int = -1,
    once: bool = False,
    immediately: bool = False,
    offset: UInt64 | None = None,
    length: UInt64 | None = None,
    count: UInt64 | None = None,
    after: UInt64 = UInt64(0),
    rate: float = 1.0,
) -> FaultId:
    """Make requests on a node fail, from now on.

    `node-name` also takes a drive's id.  Members as in blkdebug's
    inject-error, plus: `errno` also by name; `offset` and `length` (bytes)
    for a range, which has to be within the node as long as that is as long
    as a drive; `after` to let that many matching requests pass first;
    `count` of requests to hit (`once` is 1); `rate`, the probability of each,
    drawn from the machine's seed.  Without an `event` the rule is in force at
    once.  Returns the rule's id, made up if not given.
    """
    node = named_node(machine, node_name)
    if sector != -1 and (offset is not None or length is not None):
        raise QmpError("'sector' and 'offset' cannot be specified at the same time")
    if state and event is BlkdebugEvent.NONE:
        raise QmpError("'state' needs an 'event'")
    if once and count is not None:
        raise QmpError("'once' and 'count' cannot be specified at the same time")
    if sector < -1:
        raise QmpError("Parameter 'sector' expects a sector number, or -1 for any")
    if not 0.0 <= rate <= 1.0:
        raise QmpError("Parameter 'rate' expects a number between 0 and 1")
    for name, value in (("count", count), ("length", length)):
        if value == 0:
            raise QmpError(f"Parameter '{name}' expects a value greater than zero")
    _check_place(node, sector, offset, length)
    options = FaultOptions(
        id=machine.new_fault_id(id),
        event=event,
        state=state,
        iotype=iotype,
        errno=errno,
        sector=None if sector == -1 else sector,
        offset=offset,
        length=length,
        count=1 if once else count,
        after=after,
        rate=rate,
    )
    node.injector().add(options)
    machine.concerns_changed()
    return FaultId(id=options.id)


def _check_place(node: BlockNode, sector: int, offset: int | None, length: int | None) -> None:
    """QmpError for a range that no request can be in, now or when the node has grown."""
    size = node.size if is_shown(node) else SIZE_MAX
    places = {
        "sector": None if sector == -1 else sector * SECTOR_SIZE + 1,
        "offset": None if offset is None else offset + 1,
        "length": None if length is None else (offset or 0) + length,
    }
    for name, end in places.items():
        if end is not None and end > size:
            raise QmpError(
                f"Parameter '{name}' is beyond the end of node '{node.node_name}'"
                f" ({size} bytes)"
            )


@table.command("x-fault-remove")
def x_fault_remove(machine: Machine, *, id: str) -> None:
    """Remove one rule that x-fault-add has made, or a rule of a blkdebug node."""
    for node, rule in machine.fault_rules():
        if rule.options.id == id:
            node.injector().remove(rule)
            machine.concerns_changed()
            return
    raise QmpError(f"Fault '{id}' not found")


@table.command("x-fault-clear")
def x_fault_clear(machine: Machine, *, node_name: str | None = None) -> None:
    """Remove all rules, or those of one node (or drive's id)."""
    only = None if node_name is None else named_node(machine, node_name)
    for node, rule in list(machine.fault_rules()):
        if only in (None, node):
            node.injector().remove(rule)
    machine.concerns_changed()


@table.command("x-query-faults")
def x_query_faults(machine: Machine) -> list[FaultInfo]:
    """All rules with what they have seen and hit, in the order in which they were made."""
    drives = {named_node(machine, blk.name): blk.name for blk in machine.backends if blk.name}
    return [_info(node, drives.get(node), rule) for node, rule in machine.fault_rules()]


def _info(node: BlockNode, device: str | None, rule: FaultRule) -> FaultInfo:
    options = rule.options
    return FaultInfo(
        id=options.id,
        device=device,
        node_name=node.node_name,
        event=options.event,
        state=options.state,
        iotype=options.iotype,
        errno=options.errno,
        errno_name=errno.errorcode.get(options.errno),
        sector=options.sector,
        offset=options.offset,
        length=options.length,
        count=options.count,
        after=options.after,
        rate=options.rate,
        seen=rule.seen,
        hits=rule.hits,
        active=not rule.exhausted,
    )
