# SPDX-License-Identifier: MIT
"""Fault rules: which of them hits a request, if any.

QEMU's blkdebug engine (`block/blkdebug.c`; its rules as verified with qemu-io
are in `tests/golden/7.2/blkdebug-cli.json`) plus what it lacks: rules that can be
added to any node at run time, byte ranges, counts, and hit counters.

Two ways for a rule to be in force.  A rule with an `event` belongs to
blkdebug's state machine: when the event occurs, the rules of that event whose
`state` fits *replace* the active list, and every later request, of whatever
kind, is held against that list until another event replaces it.  A rule
without an event, added at run time, is in force until it is removed or used up.

What becomes of a request that is hit is the affair of the rule's kind
(`FaultOptions.carry_out`), and of the node, which asks for it
(`BlockNode.perform`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from blockcore.faults.gate import Gate
from blockcore.faults.options import FaultOptions
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType

DEFAULT_IOTYPES = frozenset(BlkdebugIOType) - {BlkdebugIOType.BLOCK_STATUS}
"""What a rule that names no iotype matches: everything but block status."""


class FaultRule:
    """A rule in force somewhere: its options, and what it has seen."""

    __slots__ = ("end", "hits", "options", "seen", "start")

    def __init__(self, options: FaultOptions) -> None:
        self.options = options
        self.seen = 0
        self.hits = 0
        self.start, self.end = options.byte_range

    @property
    def exhausted(self) -> bool:
        """Whether the rule has hit as many requests as it may."""
        return self.options.hits_max is not None and self.hits >= self.options.hits_max

    def concerns(self, iotype: BlkdebugIOType, offset: int, nbytes: int) -> bool:
        """Whether a request is of the kind and in the place the rule names."""
        wanted = self.options.iotype
        if iotype not in DEFAULT_IOTYPES if wanted is None else iotype is not wanted:
            return False
        if self.start is None:
            return True
        return nbytes > 0 and self.start < offset + nbytes and self.end > offset


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """QAPI's BlkdebugSetStateOptions: on `event` in `state` (0: any), go to `new_state`."""

    event: BlkdebugEvent
    state: int = 0
    new_state: int


class FaultInjector:
    """The rules of one node and blkdebug's state variable.

    `random` gives numbers in [0, 1) for rules with a rate; the machine's seed
    stands behind it.  `changed` is called whenever requests that could go past
    the rules until now may have to meet one: no caller has to remember.
    """

    def __init__(self, random: Callable[[], float], changed: Callable[[], None]) -> None:
        self.state = 1
        self.rules: list[FaultRule] = []
        self._random = random
        self._changed = changed
        self._standing: list[FaultRule] = []
        self._of_event: dict[BlkdebugEvent, list[FaultRule]] = {}
        self._changes: list[StateChange] = []
        self._active: list[FaultRule] = []
        self._last: deque[tuple[BlkdebugEvent, ...]] = deque(maxlen=1)
        self._fitting: dict[BlkdebugEvent, list[FaultRule]] = {}
        self._gates: dict[BlkdebugIOType, Gate | None] = {}

    def load(self, rules: Iterable[FaultOptions], changes: Iterable[StateChange]) -> None:
        """Take over a blkdebug node's configuration, as its open does.

        Rules of the event `none` become active once, now, until an event of
        others replaces them.
        """
        for options in rules:
            rule = FaultRule(options)
            self.rules.append(rule)
            self._of_event.setdefault(options.event, []).append(rule)
        self._changes += changes
        self._rules_changed()
        self.event(BlkdebugEvent.NONE)

    def add(self, options: FaultOptions) -> FaultRule:
        """Add a rule at run time; without an event it is in force from now until it is removed."""
        self._catch_up()
        rule = FaultRule(options)
        self.rules.append(rule)
        if options.event is BlkdebugEvent.NONE:
            self._standing.append(rule)
        else:
            self._of_event.setdefault(options.event, []).append(rule)
        self._rules_changed()
        return rule

    def remove(self, *rules: FaultRule) -> None:
        """Forget some rules, whether or not they are used up."""
        self._catch_up()
        for rule in rules:
            self.rules.remove(rule)
            self._take_out_of_force(rule)
        self._rules_changed()

    def clear(self) -> None:
        """Forget all rules."""
        self.remove(*self.rules)

    def event(self, event: BlkdebugEvent) -> None:
        """An event has occurred on the node (bdrv_debug_event).

        Inject rules of the event replace the active list if at least one is
        in the right state.  Of several state changes the one listed first
        wins; all rules see the old state.
        """
        self._catch_up()
        self._occur(event)

    def trace(self, events: Iterable[BlkdebugEvent]) -> Callable[[], None] | None:
        """Return what each request on the shortcut has to call, on any thread; None: no need.

        Such a request would raise `events` here, in this order, and lies
        outside the gate.  What is left of it is the list of active rules that
        its last event brings.  Each event replaces that list, so that only
        the last request counts: hence a deque of one, whose `append` is one
        call into C.  A request on the long way looks into it first (`_catch_up`).
        """
        telling = tuple(event for event in events if self._fits(event))
        return partial(self._last.append, telling[-1:]) if telling else None

    def check(self, iotype: BlkdebugIOType, offset: int, nbytes: int) -> FaultRule | None:
        """Return the rule that hits a request; counts the request as seen and, if so, as hit.

        The first rule in force that concerns the request decides.  A rule
        that lets requests pass first (`after`), or that loses its throw of
        the dice (`rate`), leaves the decision to those behind it.
        """
        gate = self.gate(iotype)
        if gate is not None and not gate.touches(offset, nbytes):
            return None
        self._catch_up()
        for rule in (*self._active, *self._standing):
            if not rule.concerns(iotype, offset, nbytes):
                continue
            rule.seen += 1
            if rule.seen <= rule.options.after:
                continue
            if rule.options.rate < 1.0 and self._random() >= rule.options.rate:
                continue
            return self._fire(rule)
        return None

    def gate(self, iotype: BlkdebugIOType) -> Gate | None:
        """Where requests of this kind can be hit; None means anywhere."""
        if iotype not in self._gates:
            self._gates[iotype] = self._build_gate(iotype)
        return self._gates[iotype]

    @property
    def changes_state(self) -> bool:
        """Whether events change the state, so that every request has to raise them all."""
        return bool(self._changes)

    def _occur(self, event: BlkdebugEvent) -> None:
        fitting = self._fits(event)
        if fitting:
            self._active = fitting
        for change in self._changes:
            if change.event is event and change.state in (0, self.state):
                self.state = change.new_state
                self._fitting.clear()
                break

    def _fits(self, event: BlkdebugEvent) -> list[FaultRule]:
        """The event's rules that are in the right state."""
        fitting = self._fitting.get(event)
        if fitting is None:
            rules = self._of_event.get(event, ())
            fitting = [rule for rule in rules if rule.options.state in (0, self.state)]
            self._fitting[event] = fitting
        return fitting

    def _catch_up(self) -> None:
        """Let the last request on the shortcut have raised its event."""
        while self._last:
            for event in self._last.pop():
                self._occur(event)

    def _rules_changed(self) -> None:
        self._fitting.clear()
        self._gates.clear()
        self._changed()

    def _fire(self, rule: FaultRule) -> FaultRule:
        if not rule.options.lets_go:
            rule.hits += 1
            if rule.exhausted:
                self._take_out_of_force(rule)
                self._rules_changed()
        return rule

    def _take_out_of_force(self, rule: FaultRule) -> None:
        """Let a rule hit nothing any more; it stays known, with its hits, until it is removed."""
        event = rule.options.event
        for rules in (self._standing, self._of_event.get(event, []), self._active):
            if rule in rules:
                rules.remove(rule)

    def _build_gate(self, iotype: BlkdebugIOType) -> Gate | None:
        ranges = []
        for rule in (*self._standing, *(r for rules in self._of_event.values() for r in rules)):
            wanted = rule.options.iotype
            if iotype not in DEFAULT_IOTYPES if wanted is None else wanted is not iotype:
                continue
            if rule.start is None:
                return None
            ranges.append((rule.start, rule.end))
        return Gate(ranges)
