# SPDX-License-Identifier: MIT
"""The commands for fault rules at run time, which QEMU's blkdebug does not have."""

from __future__ import annotations

import errno
from collections.abc import Set
from dataclasses import fields, make_dataclass, replace
from itertools import count
from typing import Annotated, Any, get_type_hints

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import Until
from blockcore.commands.fault_checks import check_connection, check_place, warnings
from blockcore.faults.changes import CHANGES, COUNTING, RuleToChange, changed, given
from blockcore.faults.kinds import FAULT_OPTIONS, KINDS
from blockcore.faults.options import ONE_OR_MORE, FaultOptions, FaultOrigin
from blockcore.faults.rule import FaultRule
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.events import XFaultTriggered
from blockcore.qapi.keyval import well_formed_id
from blockcore.qapi.names import BlkdebugEvent, FaultIOType, QmpError, UInt32, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable, FlatUnion

table = CommandTable()
table.event(XFaultTriggered)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultId:
    """A rule that is made; `warnings` says why it hits nothing as things are."""

    id: str
    warnings: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultChanged:
    """A rule that is changed; `warnings` says why it hits nothing as things are."""

    warnings: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class FaultInfo:
    """A rule and what it has done.

    `device` is the drive that shows the node, if there is one.  `seen` counts the
    requests that matched the rule, `hits` those that it hit.  `active` tells whether
    the rule can still hit a request: a rule with a `count` is used up after that
    many hits, and stays listed until it is removed.  `hanging` is how many requests
    wait for its release.  `node-state` is blkdebug's state of the node now, for rules
    with a `state` or `new-state`.
    """

    id: str
    device: str | None = None
    node_name: str
    action: str
    event: BlkdebugEvent
    state: int
    node_state: int | None = None
    origin: FaultOrigin | None = None
    connection: int | None = None
    iotype: Annotated[FaultIOType | list[FaultIOType] | None, ONE_OR_MORE] = None
    fua: bool | None = None
    sector: int | None = None
    offset: int | None = None
    length: int | None = None
    count: int | None = None
    after: int
    every: int | None = None
    rate: float
    not_before_ms: int | None = None
    not_after_ms: int | None = None
    up_ms: int | None = None
    down_ms: int | None = None
    while_file: str | None = None
    new_state: int | None = None
    notify: bool | None = None
    seen: int
    hits: int
    hanging: int | None = None
    active: bool


def _info_class(kind: type[FaultOptions]) -> type[FaultInfo]:
    """Return the class of what is shown of rules of one kind: with the kind's own members.

    A kind with the member `errno` is shown with its name as well.
    """
    common = {field.name for field in fields(FaultOptions)}
    hints = get_type_hints(kind, include_extras=True)
    own: list[Any] = [
        (field.name, hints[field.name]) for field in fields(kind) if field.name not in common
    ]
    if "errno" in hints:
        own.append(("errno_name", str | None, None))
    name = f"FaultInfo{kind.__name__}"
    return make_dataclass(name, own, bases=(FaultInfo,), kw_only=True, eq=False, repr=False)


INFO_CLASSES = {action: _info_class(kind) for action, kind in KINDS.items()}
"""The class of what is shown of a rule, by its `action`."""

FAULT_INFO = FlatUnion("FaultInfo", tag="action", base=FaultInfo, variants=INFO_CLASSES)


def new_fault_id(machine: Machine, wanted: str | None) -> str:
    """Return `wanted`, or an id that is free if it is None.

    Raise QmpError if `wanted` is taken or not well formed.
    """
    taken = {rule.options.id for _, rule in machine.find.fault_rules()}
    if wanted is None:
        numbers = (f"fault{n}" for n in count())
        return next(name for name in numbers if name not in taken)
    check_id(wanted, taken)
    return wanted


def check_id(wanted: str | None, taken: Set[str | None]) -> None:
    """Raise QmpError if the id of a new rule, if it has one, is taken or not well formed."""
    if wanted is not None and not well_formed_id(wanted):
        raise QmpError("Parameter 'id' expects an identifier")
    if wanted is not None and wanted in taken:
        raise QmpError(f"Duplicate ID '{wanted}' for fault")


@table.command("x-fault-add", boxed=True)
def x_fault_add(
    machine: Machine, *, options: Annotated[FaultOptions, FAULT_OPTIONS]
) -> FaultId:
    """Make requests to a node fail, from now on; return the rule's id, made up if not given.

    `node-name` also takes a drive's id.  The members are those of blkdebug's
    inject-error, and more: `errno` also by name; `offset` and `length` (bytes)
    for a range, which has to be within the node if a drive is as long as the
    node; `after`, the number of matching requests that pass first; `count`, the
    number of requests to hit (`once` is 1); `rate`, the probability of each hit,
    drawn from the machine's seed.  Without an `event` the rule is in force at once.
    A rule that can never hit anything is refused; one that hits nothing as things
    are, for example because the node is read-only, is made, with `warnings`.
    """
    node = machine.find.data_node(options.node_name)
    options.check()
    check_place(machine, node, options)
    check_connection(machine, options)
    new_id = new_fault_id(machine, options.id)
    rule = node.injector().add(replace(options, id=new_id, node_name=node.node_name))
    return FaultId(id=new_id, warnings=warnings(machine, node, rule) or None)


@table.command("x-fault-modify", boxed=True)
def x_fault_modify(
    machine: Machine, *, changes: Annotated[RuleToChange, CHANGES]
) -> FaultChanged:
    """Change members of a rule; those that are not given stay, and so do `seen` and `hits`.

    The members are those of x-fault-add, but for `node-name`.  One that excludes
    another takes its place: `count` that of `once`, `offset` that of `sector`.  With
    another `action`, what has the default of the old one gets that of the new one.  A
    rule that is used up hits again if its new `count` is more than its hits.  A
    rule of a blkdebug node is from then on as one that x-fault-add has made.  Requests that
    are waiting keep what was decided when they were hit.  Which request a sweep hits is
    changed by x-fault-sweep only.
    """
    node, rule = _rule(machine, changes.id)
    new = given(changes)
    if rule.of_sweep and (of_sweep := sorted(COUNTING & new.keys())):
        raise QmpError(
            f"Parameter '{of_sweep[0]}' is set by the sweep of fault '{changes.id}':"
            " 'nth' of x-fault-sweep arms another request"
        )
    options = changed(rule.options, new)
    options.check()
    if not new.keys().isdisjoint(("sector", "offset", "length")):
        check_place(machine, node, options)
    if not new.keys().isdisjoint(("connection", "iotype")):
        check_connection(machine, options)
    node.injector().modify(rule, options)
    found = warnings(machine, node, rule)
    if rule.exhausted:
        found.append(f"'count' {options.hits_max} is used up: {rule.hits} hits")
    if options.is_over((machine.clock.monotonic_ns() - rule.added_ns) // NS_OF_MS):
        found.append(f"'not-after-ms' {options.not_after_ms} is over")
    return FaultChanged(warnings=found or None)


@table.command("x-fault-remove")
def x_fault_remove(machine: Machine, *, id: str) -> None:
    """Remove one rule that x-fault-add has made, or a rule of a blkdebug node.

    A node without any rule, or change of state of its own, is in blkdebug's first state
    again.
    """
    node, rule = _rule(machine, id)
    node.injector().remove(rule)


def _rule(machine: Machine, id: str) -> tuple[BlockNode, FaultRule]:
    for node, rule in machine.find.fault_rules():
        if rule.options.id == id:
            return node, rule
    raise QmpError(f"Fault '{id}' not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRelease:
    """What x-fault-release has done: how many requests it lets go on."""

    released: int


@table.command("x-fault-release")
def x_fault_release(machine: Machine, *, id: str) -> FaultRelease:
    """Let the requests go on that a rule keeps hanging; those that come later hang again."""
    _, rule = _rule(machine, id)
    return FaultRelease(released=rule.state.release())


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultHits:
    """The answer of x-fault-wait: how many requests a rule has hit."""

    hits: int
    timed_out: bool


@table.command("x-fault-wait")
async def x_fault_wait(
    machine: Machine,
    *,
    id: str,
    hits: UInt64 = UInt64(1),
    timeout_ms: UInt32 | None = None,
) -> FaultHits:
    """Answer when a rule has hit `hits` requests since it was made, or after `timeout-ms`.

    A rule that is removed, or can hit no more, is no longer waited for.  The
    commands of this client come after the answer; those of others do not wait.
    """
    _, rule = _rule(machine, id)

    def is_over() -> bool:
        return rule.hits >= hits or rule.exhausted or rule.removed

    deadline_ns = None
    if timeout_ms is not None:
        deadline_ns = machine.clock.monotonic_ns() + timeout_ms * NS_OF_MS
    in_time = await Until(is_over, deadline_ns)
    return FaultHits(hits=rule.hits, timed_out=not in_time)


@table.command("x-fault-clear")
def x_fault_clear(machine: Machine, *, node_name: str | None = None) -> None:
    """Remove all rules, or the rules of one node (or drive's id).

    Those of blkdebug nodes go, too, with their changes of state.  Each node is in
    blkdebug's first state again.
    """
    only = None if node_name is None else machine.find.data_node(node_name)
    for node in machine.find.nodes_with_faults():
        if only in (None, node):
            node.injector().clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedInfo:
    seed: int


@table.command("x-query-seed")
def x_query_seed(machine: Machine) -> SeedInfo:
    """Return the seed of the machine's random numbers, with which they can be had again."""
    return SeedInfo(seed=machine.seed)


@table.command("x-query-faults")
def x_query_faults(machine: Machine) -> list[Annotated[FaultInfo, FAULT_INFO]]:
    """Return all rules with what they have seen and hit, in the order in which they were made."""
    drives = {machine.find.data_node(blk.name): blk.name for blk in machine.backends if blk.name}
    return [_info(node, drives.get(node), rule) for node, rule in machine.find.fault_rules()]


def _info(node: BlockNode, device: str | None, rule: FaultRule) -> FaultInfo:
    options = rule.options
    cls = INFO_CLASSES[options.action]
    shown = {field.name for field in fields(cls)}
    given = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name in shown
    }
    if "errno" in given:
        given["errno_name"] = errno.errorcode.get(given["errno"])
    of_rule: dict[str, Any] = {
        "device": device,
        "node_name": node.node_name,
        "sector": None if options.sector == -1 else options.sector,
        "count": options.hits_max,
        "every": None if options.every == 1 else options.every,
        "origin": None if options.origin is FaultOrigin.ANY else options.origin,
        "new_state": options.new_state or None,
        "notify": options.notify or None,
        "hanging": rule.state.hanging or None,
        "node_state": node.injector().state if options.state or options.new_state else None,
    }
    counts = {"seen": rule.seen, "hits": rule.hits, "active": not rule.exhausted}
    return cls(**{**given, **of_rule, **counts})
