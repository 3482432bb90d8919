# SPDX-License-Identifier: MIT
"""The fault rules of one node: decides which rule, if any, hits a request.

This is QEMU's blkdebug engine (`block/blkdebug.c`; verified with qemu-io,
`tests/golden/7.2/blkdebug-cli.json`), plus what blkdebug lacks: rules that are
added to any node at run time, byte ranges, counts, and hit counters.

A rule is in force in one of two ways:

- A rule with an `event` belongs to blkdebug's state machine.  When the event
  occurs, the rules of that event whose `state` fits *replace* the active list.
  Every later request, of whatever kind, is compared with that list, until
  another event replaces it.
- A rule without an event that was added at run time (a *standing* rule) is in
  force until it is removed or used up.

What happens to a request that is hit is decided by the rule's kind
(`FaultOptions.carry_out`), which the node calls (`BlockNode.perform`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Set
from functools import partial

from blockcore.bql.clock import NS_OF_MS
from blockcore.faults.gate import Gate
from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.faults.rule import FaultRule
from blockcore.faults.scene import FaultHost, Scene
from blockcore.faults.states import SetState, StateChange
from blockcore.qapi.names import BlkdebugEvent, FaultIOType

FIRST_STATE = 1
"""The state of a node whose rules have not changed it."""


class FaultInjector:
    """The rules of one node, and blkdebug's state variable.

    Whenever rules have come or gone, it invalidates shortcuts past the node
    (`FaultHost.concerns_changed`): callers do not have to do that themselves.

    All methods need the big lock.
    """

    def __init__(self, host: FaultHost) -> None:
        self.state = FIRST_STATE
        self.rules: list[FaultRule] = []
        self._host = host
        self._standing: list[FaultRule] = []
        self._of_event: dict[BlkdebugEvent, list[FaultRule]] = {}
        self._changes: list[tuple[StateChange, FaultRule | None]] = []
        self._active: list[FaultRule] = []
        # The event of the last request on the shortcut, until `_catch_up` has raised it.
        self._last: deque[tuple[BlkdebugEvent, ...]] = deque(maxlen=1)
        self._fitting: dict[BlkdebugEvent, list[FaultRule]] = {}
        self._gates: dict[FaultIOType, Gate | None] = {}
        self._watching: list[FaultRule] = []
        self._sweeps = False
        self._files: frozenset[str] = frozenset()

    def load(self, rules: Iterable[FaultOptions], changes: Iterable[StateChange]) -> None:
        """Add the rules of a blkdebug node's configuration, when the node is opened (read_config).

        Rules with the event `none` become the active list once, now; an event
        of other rules replaces them, as in QEMU.
        """
        for options in rules:
            rule = self._rule(options)
            self.rules.append(rule)
            self._of_event.setdefault(options.event, []).append(rule)
        self._changes += ((change, None) for change in changes)
        self._rules_changed()
        self.event(BlkdebugEvent.NONE)

    def add(self, options: FaultOptions, *, of_sweep: bool = False) -> FaultRule:
        """Add a rule at run time, and return it; without an event it is a standing rule."""
        return self.add_all([options], of_sweep=of_sweep)[0]

    def add_all(
        self, given: Iterable[FaultOptions], *, of_sweep: bool = False
    ) -> list[FaultRule]:
        """Add rules at run time, all at the same moment, and return them."""
        self._catch_up()
        now_ns = self._host.clock.monotonic_ns()
        added = [FaultRule(options, self._host.seed, now_ns) for options in given]
        self.rules += added
        for rule in added:
            rule.of_sweep = of_sweep
            self._put_in_force(rule)
        self._rules_changed()
        return added

    def modify(self, rule: FaultRule, options: FaultOptions) -> None:
        """Give a rule other options; it keeps its place among the rules, and its counters.

        It is in force as one that was added at run time.  In the active list it
        stays if event and state are as they were.
        """
        self._catch_up()
        old = rule.options
        stays = rule in self._active and options.event is not BlkdebugEvent.NONE
        stays = stays and (old.event, old.state) == (options.event, options.state)
        before = list(self._active)
        self._take_out_of_force(rule)
        rule.change(options)
        if not rule.exhausted:
            self._put_in_force(rule)
            self._sort()
            if stays:
                self._active = before
        self._rules_changed()

    def renew(self, rule: FaultRule, options: FaultOptions) -> FaultRule:
        """Put a new rule in the place of another, and return it.

        It has seen and hit nothing, remembers nothing, and its chances are those of
        the beginning.  What the other one kept hanging goes on.
        """
        at = self.rules.index(rule)
        self.remove(rule)
        new = self._rule(options)
        new.of_sweep = rule.of_sweep
        self.rules.insert(at, new)
        self._put_in_force(new)
        self._sort()
        self._rules_changed()
        return new

    def remove(self, *rules: FaultRule) -> None:
        """Remove rules, whether or not they are used up.

        Without any rule or change of state the node is in the first state again.
        """
        self._catch_up()
        for rule in rules:
            self.rules.remove(rule)
            self._take_out_of_force(rule)
            rule.removed = True
            rule.state.release()
        if not self.rules and not self._changes:
            self.state = FIRST_STATE
        self._rules_changed()

    def clear(self) -> None:
        """Remove all rules, and the changes of state of a blkdebug node's configuration."""
        self._changes.clear()
        self.remove(*self.rules)

    def event(self, event: BlkdebugEvent) -> None:
        """Let an event occur on the node (blkdebug_debug_event).

        The event's rules replace the active list if at least one of them fits
        the state.  Of several state changes that fit, the first in the list
        wins.  Both compare with the state before the event.
        """
        self._catch_up()
        if not self._host.asker().unruled:
            self._occur(event)

    def trace(self, events: Iterable[BlkdebugEvent]) -> Callable[[], None] | None:
        """Return a callback that records one request on the shortcut, or None if none is needed.

        `events` are those that such a request would raise at this node, in
        order.  The request is outside all gates, so no rule can hit it.  The
        callback may be called on any thread, without the big lock.
        """
        # All that a recorded request can change is the active list.  Each event with fitting rules
        # replaces that list, so only the last such event of the last request counts: hence a
        # deque of length 1.  `append` is one call into C, which the interpreter does not
        # interrupt, and the next request on the long way raises the event before it looks at the
        # list (`_catch_up`).  Events that change the state forbid the shortcut (`changes_state`).
        telling = tuple(event for event in events if self._fits(event))
        return partial(self._last.append, telling[-1:]) if telling else None

    def files(self, iotype: FaultIOType, offset: int, nbytes: int) -> frozenset[str]:
        """Return the files that rules look for at a request (`while_file`)."""
        if not self._files:
            return self._files
        gate = self.gate(iotype)
        concerned = gate is None or gate.touches(offset, nbytes)
        return self._files if concerned else frozenset()

    def check(
        self,
        iotype: FaultIOType,
        offset: int,
        nbytes: int,
        present: Set[str] = frozenset(),
        fua: bool = False,
    ) -> FaultRule | None:
        """Return the rule that hits a request, or None, and count the request at the rules.

        The first rule in force that matches the request hits it.  A rule that
        has to let requests pass first (`after`), or whose `rate` spares this
        one, leaves the decision to the next rule; later ones that a sweep arms learn
        who has it.  `present` are those `files` that exist.  None hits what is asked
        for past all rules (`Asker.past_rules`).
        """
        gate = self.gate(iotype)
        missed = gate is not None and not gate.touches(offset, nbytes)
        if missed or self._host.asker().unruled:
            return None
        self._catch_up()
        hit: FaultRule | None = None
        for rule in (*self._active, *self._standing):
            if hit is not None and not rule.of_sweep:
                continue
            if not rule.concerns(iotype, offset, nbytes) or not self._can_hit(rule, present, fua):
                continue
            if not rule.options.strikes(offset, nbytes, rule.state.memory):
                continue
            if hit is not None:
                rule.taken_by = hit.options.id
            elif rule.strikes(iotype, offset, self._host.asker().connection):
                hit = rule
                if not self._sweeps:
                    break
        if hit is not None:
            self._host.fault_hit(hit.options.id or "", iotype, offset, nbytes)
            self._fire(hit)
        return hit

    def around(
        self,
        request: Request,
        go: Go[R],
        size: int,
        files: Set[str] = frozenset(),
        present: Set[str] = frozenset(),
    ) -> Go[R]:
        """Return what carries out a request to a node of `size` bytes instead of `go`.

        The request is counted at the rules; `files` were looked for, and `present` is as
        for `check`.
        """
        if files:
            self._host.files_sought(files, present)
        iotype, offset, nbytes = request.iotype, request.offset, request.nbytes
        driver = go
        rule = self.check(iotype, offset, nbytes, present, request.fua)
        if rule is not None:
            if rule.options.notify:
                self._host.emit(rule.notice(request, self._host.asker().connection))
            go = partial(rule.options.carry_out, go=go, scene=self._scene(rule, size))
        for rule in self._watching:
            if iotype in rule.watched and rule.touches(offset, nbytes):
                go = partial(
                    rule.options.watch, go=go, driver=driver, scene=self._scene(rule, size)
                )
        return go

    def _scene(self, rule: FaultRule, size: int) -> Scene:
        host, id = self._host, rule.options.id or ""
        return Scene(host, id, host.clock, rule.state, rule.dice, size, rule.thrown)

    def _can_hit(self, rule: FaultRule, present: Set[str], fua: bool) -> bool:
        """Return whether the rule matches requests of who asks now, in this state, at this time.

        And such as have FUA, or have not.
        """
        options = rule.options
        if not rule.is_choosy:
            return True
        if options.state and options.event is BlkdebugEvent.NONE and options.state != self.state:
            return False
        if options.fua is not None and options.fua != fua:
            return False
        if not options.is_of(self._host.asker().connection):
            return False
        if options.while_file is not None and options.while_file not in present:
            return False
        if not options.has_times:
            return True
        return options.is_time((self._host.clock.monotonic_ns() - rule.added_ns) // NS_OF_MS)

    def _rule(self, options: FaultOptions) -> FaultRule:
        return FaultRule(options, self._host.seed, self._host.clock.monotonic_ns())

    def gate(self, iotype: FaultIOType) -> Gate | None:
        """Return the ranges in which a request of this kind can be hit; None means anywhere."""
        if iotype not in self._gates:
            self._gates[iotype] = self._build_gate(iotype)
        return self._gates[iotype]

    @property
    def standing(self) -> tuple[FaultRule, ...]:
        """The rules in force without an event, in the order in which they have their turns."""
        return tuple(self._standing)

    @property
    def states(self) -> set[int]:
        """The states that there are, or that an event or a hit may bring; 0 stands for any."""
        found = {0, self.state, *(change.new_state for change, _ in self._changes)}
        return found | {rule.options.new_state for rule in self.rules}

    @property
    def changes_state(self) -> bool:
        """Whether events can change the state, so that each request has to raise all of them."""
        return bool(self._changes)

    def _occur(self, event: BlkdebugEvent) -> None:
        fitting = self._fits(event)
        if fitting:
            self._active = fitting
        for change, rule in self._changes:
            if change.event is event and change.state in (0, self.state):
                self.state = change.new_state
                self._fitting.clear()
                if rule is not None:
                    rule.seen += 1
                    rule.hits += 1
                break

    def _change_state(self, state: int) -> None:
        """Change blkdebug's state because a rule has hit a request."""
        if state != self.state:
            self.state = state
            self._rules_changed()

    def _fits(self, event: BlkdebugEvent) -> list[FaultRule]:
        """Return the rules of an event that fit the present state."""
        fitting = self._fitting.get(event)
        if fitting is None:
            rules = self._of_event.get(event, ())
            fitting = [rule for rule in rules if rule.options.state in (0, self.state)]
            self._fitting[event] = fitting
        return fitting

    def _catch_up(self) -> None:
        """Raise the event of the last request on the shortcut, if it has not been raised yet."""
        # A worker may record a request right after the loop has ended: that request and the one
        # that catches up here run at the same time, so either order is right.
        while self._last:
            for event in self._last.pop():
                self._occur(event)

    def _rules_changed(self) -> None:
        self._fitting.clear()
        self._gates.clear()
        self._watching = [rule for rule in self.rules if rule.watched]
        self._sweeps = any(rule.of_sweep for rule in self.rules)
        self._files = frozenset(
            rule.options.while_file
            for rule in self.rules
            if rule.options.while_file is not None and not rule.exhausted
        )
        self._host.concerns_changed()

    def _fire(self, rule: FaultRule) -> None:
        if not rule.options.lets_go:
            rule.hits += 1
            if rule.exhausted:
                self._take_out_of_force(rule)
                self._rules_changed()
            if rule.options.new_state:
                self._change_state(rule.options.new_state)

    def _put_in_force(self, rule: FaultRule) -> None:
        """Let a rule hit requests: at once, or from its event on; after all other rules."""
        options = rule.options
        if isinstance(options, SetState):
            self._changes.append((options.change, rule))
        elif options.event is BlkdebugEvent.NONE:
            self._standing.append(rule)
        else:
            self._of_event.setdefault(options.event, []).append(rule)

    def _sort(self) -> None:
        """Bring the rules in force into the order in which they were made."""
        order = {id(one): at for at, one in enumerate(self.rules)}
        for rules in (self._standing, *self._of_event.values()):
            rules.sort(key=lambda one: order[id(one)])
        self._changes.sort(key=lambda change: -1 if change[1] is None else order[id(change[1])])

    def _take_out_of_force(self, rule: FaultRule) -> None:
        """Let a rule hit nothing any more; it stays in `rules`, with its counters."""
        event = rule.options.event
        for rules in (self._standing, self._of_event.get(event, []), self._active):
            if rule in rules:
                rules.remove(rule)
        self._changes = [change for change in self._changes if change[1] is not rule]

    def _build_gate(self, iotype: FaultIOType) -> Gate | None:
        ranges = []
        in_force = (*self._standing, *(r for rules in self._of_event.values() for r in rules))
        for rule in dict.fromkeys((*in_force, *self._watching)):
            if iotype not in rule.iotypes and iotype not in rule.watched:
                continue
            if rule.start is None:
                return None
            ranges.append((rule.start, rule.end))
        return Gate(ranges)
