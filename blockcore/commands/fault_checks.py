# SPDX-License-Identifier: MIT
"""What can be said of a fault rule before it is made: that it can hit nothing, and why.

A rule that could never hit anything, whatever comes, is refused.  One that hits nothing
as things are gets a warning: a node may become writable, grow another user, get a
rule that sets the state which this one waits for, or lose one that comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.faults.lost import Misdirect
from blockcore.faults.options import PLACELESS, WRITES, FaultOptions
from blockcore.faults.precedence import Takers, covers
from blockcore.faults.rule import FaultRule
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlkdebugEvent, FaultIOType, QmpError

SIZE_MAX = (1 << 63) - 1
"""The largest size that a node can ever have, in bytes."""

OWN_EVENTS = frozenset(
    {
        *(BlkdebugEvent.PWRITEV, BlkdebugEvent.PWRITEV_ZERO, BlkdebugEvent.PWRITEV_DONE),
        *(BlkdebugEvent.COR_WRITE, BlkdebugEvent.NONE),
    }
)
"""The events that every node raises for itself; without an event a rule needs none."""

PARENT_EVENTS = frozenset({BlkdebugEvent.FLUSH_TO_OS, BlkdebugEvent.FLUSH_TO_DISK})
"""The events that every node raises at the child with its data."""


def check_place(machine: Machine, node: BlockNode, options: FaultOptions) -> None:
    """Raise QmpError for a range that no request can be in, now or when the node has grown."""
    size = node.size if machine.find.is_shown(node) else SIZE_MAX
    for name, end in options.ends.items():
        if end > size:
            raise QmpError(
                f"Parameter '{name}' is beyond the end of node '{node.node_name}'"
                f" ({size} bytes)"
            )


def check_connection(machine: Machine, options: FaultOptions) -> None:
    """Raise QmpError for a connection that is closed: no other one will have its number.

    And for the opening of one that is there: that has been.
    """
    number = options.connection
    if number is None or number > machine.connections_made:
        return
    if not any(number in blk.connections for blk in machine.backends):
        raise QmpError(f"Parameter 'connection' is that of a closed one: {number}")
    if options.iotypes == {FaultIOType.CONNECT}:
        raise QmpError(
            f"Parameter 'connection' is that of an open one: {number}; the next one gets"
            f" number {machine.connections_made + 1}"
        )


def takers_before(node: BlockNode, rule: FaultRule | None = None) -> Takers:
    """Return what takes requests before a rule of the node has its turn, or before a new one."""
    takers = Takers()
    for one in node.injector().standing:
        if one is rule:
            break
        if rule is None or covers(one, rule):
            takers.add(one)
    return takers


def warnings(
    machine: Machine, node: BlockNode, rule: FaultRule, takers: Takers | None = None
) -> list[str]:
    """Return why a rule hits nothing as things are; each a clause, with the member's name.

    `takers` are those before the rule, if they are known.
    """
    options = rule.options
    found = [*_of_kinds(machine, node, options), *_of_lists(machine, options)]
    found += [*_of_state(node, options), *_of_target(node, options)]
    name = node.node_name
    if options.rate == 0:
        found.append("'rate' 0 spares every request")
    if options.event not in _events(node):
        found.append(f"'event' {options.event} does not occur at node '{name}'")
    above = set(machine.find.drives_above(node))
    number = options.connection
    other = [blk for blk in machine.backends if number in blk.connections and blk not in above]
    if other:
        drive = other[0].name or other[0].device.qdev
        found.append(
            f"'connection' {number} is one to drive '{drive}', which does not lead to node '{name}'"
        )
    if first := (takers or takers_before(node, rule)).of(rule):
        found.append(_taken(first))
    return found


def _taken(first: list[str]) -> str:
    """Return a clause about the rules that come before another one.

    >>> _taken(["a", "b"])
    "rules 'a' and 'b' come first, and take all of its requests"
    """
    names = [f"'{id}'" for id in first]
    if len(names) == 1:
        return f"rule {names[0]} comes first, and takes all of its requests"
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"rules {listed} come first, and take all of its requests"


def _of_kinds(machine: Machine, node: BlockNode, options: FaultOptions) -> Iterator[str]:
    """Yield what keeps all of the rule's kinds of request away from the node."""
    lacking: dict[FaultIOType, str] = {}
    name = node.node_name
    if node.read_only:
        lacking |= dict.fromkeys(WRITES, f"node '{name}' is read-only")
    elif not node.options.discard_unmap:
        lacking[FaultIOType.DISCARD] = f"node '{name}' ignores discards ('discard' is not unmap)"
    if node.options.no_flush:
        lacking[FaultIOType.FLUSH] = f"node '{name}' is never flushed ('cache.no-flush')"
    if not any(machine.find.shown_by(blk) is node for blk in machine.backends):
        lacking[FaultIOType.CONNECT] = f"no drive has node '{name}' at its top"
    if options.iotypes <= lacking.keys():
        kinds = sorted(options.iotypes)
        for reason in dict.fromkeys(lacking[kind] for kind in kinds):
            of = ", ".join(kind for kind in kinds if lacking[kind] == reason)
            yield f"'iotype' {of}: {reason}"


def _of_lists(machine: Machine, options: FaultOptions) -> Iterator[str]:
    """Yield clauses about kinds in a list that other members keep from being hit."""
    if not isinstance(options.iotype, list):
        return
    if options.ends and (placeless := sorted(options.iotypes & PLACELESS)):
        yield f"'iotype' {', '.join(placeless)}: not with '{min(options.ends)}', without a place"
    number = options.connection
    if FaultIOType.CONNECT in options.iotypes and number is not None:
        if number <= machine.connections_made:
            yield f"'iotype' connect: 'connection' {number} was opened before"


def _of_target(node: BlockNode, options: FaultOptions) -> Iterator[str]:
    """Yield a clause if all requests that can be hit would be misdirected past the node's ends."""
    if not isinstance(options, Misdirect):
        return
    start, end = options.byte_range
    low, high = (0, node.size) if start is None else (start, min(end, node.size))
    if options.by > 0 and low + options.by >= node.size:
        where = "beyond the end"
    elif options.by < 0 and high + options.by <= 0:
        where = "before the beginning"
    else:
        return
    yield (
        f"'by' {options.by} leads all requests {where} of node '{node.node_name}'"
        f" ({node.size} bytes): they fail with EIO"
    )


def _of_state(node: BlockNode, options: FaultOptions) -> Iterator[str]:
    """Yield a clause if nothing brings about the state in which the rule hits."""
    faults = node.injector()
    if options.state and options.state not in faults.states:
        yield (
            f"'state' {options.state} is set by no rule of node '{node.node_name}',"
            f" which is in state {faults.state}"
        )


def _events(node: BlockNode) -> frozenset[BlkdebugEvent]:
    """Return the events that occur at a node, by itself and by those above it."""
    parents = [parent for parent in node.node_parents if parent.file is node]
    of_parents = (PARENT_EVENTS | parent.raises for parent in parents)
    return OWN_EVENTS.union(*of_parents)
