# SPDX-License-Identifier: MIT
"""Fault rules for tests of one node, whose name nobody asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any

import blockcore.bql.clock
from blockcore.bql.asker import Asker
from blockcore.faults.fail import Fail
from blockcore.qapi.events import Event
from blockcore.qapi.names import FaultIOType


class Clock:
    """A clock that a test sets."""

    ns = 0

    def monotonic_ns(self) -> int:
        return self.ns

    realtime_ns = monotonic_ns


class Host:
    """What rules need of a machine; nobody goes past these rules."""

    def __init__(self, seed: int = 0, changed: Callable[[], object] = int) -> None:
        self.seed = seed
        self.time = Clock()
        self.clock: blockcore.bql.clock.Clock = self.time
        self.asking = 0
        self.events: list[Event] = []
        self.hung_up: list[int] = []
        self.hang_up: Callable[[Iterable[int]], None] = self.hung_up.extend
        self._changed = changed

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def concerns_changed(self) -> None:
        self._changed()

    def asker(self) -> Asker:
        return Asker(self.asking)

    def fault_hit(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Nobody records it."""

    def files_sought(self, files: Set[str], present: Set[str]) -> None:
        """Nobody records it."""


def fail(**members: Any) -> Fail:
    """Return a rule that fails requests; members are those of `x-fault-add`, or None."""
    given = {name: value for name, value in members.items() if value is not None}
    return Fail(**{"id": "f", "node_name": "n", **given})
