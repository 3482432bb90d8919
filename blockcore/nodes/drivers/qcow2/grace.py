# SPDX-License-Identifier: MIT
"""Who may still be using a cluster that nothing refers to any more.

A request finds a cluster in the tables and then reads or writes it, without a
lock.  If the cluster's last reference goes away meanwhile, it must not be
given to somebody else before that request is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from blockcore.nodes.shortcut.slot import Slot


class Mark(NamedTuple):
    """A moment: the last generation of requests before it, and the slots busy then."""

    generation: int
    busy: tuple[tuple[Slot, int], ...]


class Grace:
    """Generations of requests; `slots` are those of the workers on the shortcut."""

    def __init__(self, slots: Callable[[], Iterable[Slot]]) -> None:
        self._slots = slots
        self._generation = 0
        self._active: dict[int, int] = {}

    def enter(self) -> int:
        """A request begins; hand the result to `leave`."""
        generation = self._generation
        self._active[generation] = self._active.get(generation, 0) + 1
        return generation

    def leave(self, generation: int) -> None:
        """The request is over."""
        left = self._active[generation] - 1
        if left:
            self._active[generation] = left
        else:
            del self._active[generation]

    def mark(self) -> Mark:
        """Now: to be called right after the reference has gone.

        Whoever looks later does not find the reference; earlier, somebody
        could find it and not be in the mark.
        """
        generation = self._generation
        if generation in self._active:
            self._generation += 1
        else:
            generation -= 1
        return Mark(generation, tuple((slot, slot.ops) for slot in self._slots() if slot.busy))

    def over(self, mark: Mark) -> bool:
        """Whether every request that had begun at `mark` has ended."""
        if self._active and min(self._active) <= mark.generation:
            return False
        return not any(slot.busy and slot.ops == done for slot, done in mark.busy)
