# SPDX-License-Identifier: MIT
"""The sweep: one request fails in each round of a workload, the Nth in the Nth round."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated

from blockcore.commands.fault_checks import check_connection, check_place, warnings
from blockcore.commands.faults import new_fault_id
from blockcore.faults.changes import SWEEP, RuleToSweep, changed, given
from blockcore.faults.kinds import KINDS
from blockcore.faults.options import FaultOptions
from blockcore.faults.rule import FaultRule
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSweep:
    """What x-fault-sweep has armed, and what the round before came to.

    `nth` is the request that the rule `id` hits in the round that begins; without it
    the sweep is over, and the rule gone.  `fired` is whether the rule has hit its
    request in the round before, and `seen` how many requests it saw until then.
    Both are absent before the first round.  `taken_by` is an earlier rule that hit
    requests in that round which this one would have counted.  `warnings` says why
    the rule hits nothing as things are.
    """

    id: str
    nth: UInt64 | None = None
    fired: bool | None = None
    seen: UInt64 | None = None
    taken_by: str | None = None
    warnings: list[str] | None = None


@table.command("x-fault-sweep", boxed=True)
def x_fault_sweep(machine: Machine, *, options: Annotated[RuleToSweep, SWEEP]) -> FaultSweep:
    """Let exactly the Nth matching request be hit; tell whether the one before was.

    Without a rule of that `id`, one is made: `nth` is 1 if not given, the other
    members are those of x-fault-add.  Sent again with the `id`, it ends a round and
    begins the next: the rule is as new, what it kept hanging goes on, and members
    that are given replace its own.  Without `nth`, the next request is armed if the
    rule has fired; else all have been hit, and the rule is removed.  Members that do not
    fit are refused in any case, and the round goes on.
    """
    found = (one for one in machine.find.fault_rules() if one[1].options.id == options.id)
    node, rule = next(found, (None, None)) if options.id is not None else (None, None)
    if options.nth == 0:
        raise QmpError("Parameter 'nth' expects a value greater than zero")
    if node is None or rule is None:
        return _begun(machine, options)
    return _advanced(machine, node, rule, options)


def _begun(machine: Machine, asked: RuleToSweep) -> FaultSweep:
    if asked.node_name is None:
        if asked.id is not None:
            raise QmpError(f"Fault '{asked.id}' not found")
        raise QmpError("Parameter 'node-name' is missing")
    nth = asked.nth or UInt64(1)
    node = machine.find.data_node(asked.node_name)
    members = given(asked, but=OF_SWEEP)
    blank = KINDS[members.get("action", "error")](node_name=node.node_name)
    options = _armed(machine, node, changed(blank, members), nth)
    new_id = new_fault_id(machine, asked.id)
    rule = node.injector().add(replace(options, id=new_id), of_sweep=True)
    return FaultSweep(id=new_id, nth=nth, warnings=warnings(machine, node, rule) or None)


def _advanced(
    machine: Machine, node: BlockNode, rule: FaultRule, asked: RuleToSweep
) -> FaultSweep:
    old = rule.options
    assert old.id is not None
    if (old.hits_max, old.every, old.rate) != (1, 1, 1.0):
        raise QmpError(f"Fault '{old.id}' is not made to hit one certain request")
    if asked.node_name is not None and machine.find.data_node(asked.node_name) is not node:
        raise QmpError(f"Fault '{old.id}' is on node '{node.node_name}'")
    fired = rule.hits > 0
    nth = asked.nth
    if nth is None and fired:
        nth = UInt64(old.after + 2)
    options, members = old, given(asked, but=OF_SWEEP)
    if nth is not None or members:
        options = _armed(machine, node, changed(old, members), nth or 1)
    round = FaultSweep(
        id=old.id, nth=nth, fired=fired, seen=UInt64(rule.seen), taken_by=rule.taken_by
    )
    if nth is None:
        node.injector().remove(rule)
        return round
    rule = node.injector().renew(rule, options)
    return replace(round, warnings=warnings(machine, node, rule) or None)


OF_SWEEP = frozenset(field.name for field in fields(RuleToSweep))
"""Members that are the sweep's, and not passed on to the rule."""


def _armed(machine: Machine, node: BlockNode, options: FaultOptions, nth: int) -> FaultOptions:
    """Return options with which exactly the Nth request is hit; raises QmpError."""
    options = replace(options, after=UInt64(nth - 1), count=UInt64(1), once=False)
    options.check()
    if options.lets_go:
        raise QmpError("Parameter 'errno' value 0 lets requests pass: there is nothing to sweep")
    check_place(machine, node, options)
    check_connection(machine, options)
    return options
