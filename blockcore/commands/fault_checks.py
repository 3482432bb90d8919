# SPDX-License-Identifier: MIT
"""What can be said of a fault rule before it is made: that it can hit nothing, and why.

A rule that could never hit anything, whatever comes, is refused.  One that hits nothing
as things are gets a warning: a node may become writable, grow another user, or get a
rule that sets the state which this one waits for.
"""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.faults.options import WRITES, FaultOptions
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
    """Raise QmpError for a connection that is closed: no other one will have its number."""
    number = options.connection
    if number is None or number > machine.connections_made:
        return
    if not any(number in blk.connections for blk in machine.backends):
        raise QmpError(f"Parameter 'connection' is that of a closed one: {number}")


def warnings(machine: Machine, node: BlockNode, options: FaultOptions) -> list[str]:
    """Return why a rule hits nothing as things are; each a clause, with the member's name."""
    found = [*_of_kinds(machine, node, options), *_of_state(node, options)]
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
    return found


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


def _of_state(node: BlockNode, options: FaultOptions) -> Iterator[str]:
    """Yield a clause if nothing brings about the state in which the rule hits."""
    faults = node.injector()
    if options.state not in faults.states:
        yield (
            f"'state' {options.state} is set by no rule of node '{node.node_name}',"
            f" which is in state {faults.state}"
        )


def _events(node: BlockNode) -> frozenset[BlkdebugEvent]:
    """Return the events that occur at a node, by itself and by those above it."""
    parents = [parent for parent in node.node_parents if parent.file is node]
    of_parents = (PARENT_EVENTS | parent.raises for parent in parents)
    return OWN_EVENTS.union(*of_parents)
