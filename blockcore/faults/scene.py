# SPDX-License-Identifier: MIT
"""What a kind of fault has to carry out a request that its rule has hit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import field
from typing import Any, Protocol

from blockcore.bql.asker import Asker
from blockcore.bql.clock import Clock
from blockcore.bql.effects import Until
from blockcore.faults.dice import Dice, RuleDice
from blockcore.qapi.events import Event
from blockcore.qapi.names import FaultIOType
from blockcore.qapi.record import dataclass


class FaultHost(Protocol):
    """What the rules of a node need of its machine.

    `clock` is the machine's, for rules with times; decisions by chance follow from `seed`.
    `hang_up` ends connections at once, without an answer to their requests.
    """

    clock: Clock
    seed: int
    hang_up: Callable[[Iterable[int]], None]

    def emit(self, event: Event) -> None:
        """Send an event to every control client."""

    def concerns_changed(self) -> None:
        """Invalidate shortcuts past the node, because its rules have changed."""

    def asker(self) -> Asker:
        """Return for whom that runs which runs now."""

    def fault_hit(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Hear that a rule has hit the request that runs now."""

    def files_sought(self, files: Set[str], present: Set[str]) -> None:
        """Hear which files the request that runs now has looked for, and those that exist."""


class Hold:
    """What hanging requests of a rule wait for: called as the condition of their wait.

    `waiting` is how many do.  `lost` says that they are not carried out any more:
    nobody waits for them.
    """

    __slots__ = ("lost", "over", "waiting")

    def __init__(self) -> None:
        self.over = self.lost = False
        self.waiting = 0

    def __call__(self) -> bool:
        return self.over


@dataclass(slots=True)
class RuleState:
    """What a rule remembers from request to request, besides its counters.

    `hold` is what its hanging requests wait for, and `hanging` how many do.
    `memory` is the kind's own (`FaultOptions.new_memory`).
    """

    memory: Any = None
    hold: Hold = field(default_factory=Hold)
    hanging: int = 0

    def release(self, *, lost: bool = False) -> int:
        """Let all hanging requests go on, or end them if they are `lost`; return how many.

        Later ones wait for another release.
        """
        self.hold.over, self.hold.lost = True, lost
        self.hold = Hold()
        return self.hanging


@dataclass(frozen=True, slots=True)
class Scene:
    """The surroundings of one request that a rule has hit.

    `clock` is the machine's, `state` and `dice` the rule's; `size` is the node's, in bytes.
    `host` is for what the kind does beside the request, `rule` the rule's id.
    `thrown` are the dice of this request, other ones at each request to its place, if
    the kind `draws`: they were thrown when the request came, so that what is awaited
    before the kind's turn does not change their order.
    """

    host: FaultHost
    rule: str
    clock: Clock
    state: RuleState
    dice: RuleDice
    size: int
    thrown: Dice | None = None

    async def wait(self, over: Callable[[], bool], deadline_ns: int | None) -> bool:
        """Wait as `Until` does; meanwhile the asker is known to wait for the rule."""
        asker = self.host.asker()
        asker.fault = self.rule
        try:
            return await Until(over, deadline_ns)
        finally:
            asker.fault = None

    def place(self, iotype: FaultIOType, offset: int) -> Dice:
        """Return dice for a place: the same at each request there."""
        return self.dice.place(iotype, offset)
