# SPDX-License-Identifier: MIT
"""The time during which requests may still use a cluster without references.

A request finds a cluster in the tables, and then reads or writes it without a
lock.  If the cluster loses its last reference meanwhile, it must not be allocated
again before that request is over.  A `Mark` remembers which requests were under
way when the reference went: coroutines by generations, workers on the shortcut
by their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from blockcore.nodes.shortcut.slot import Slot


class Mark(NamedTuple):
    """A moment: the last generation of requests before it, and the slots busy at it.

    Each busy slot comes with its number of ended requests.
    """

    generation: int
    busy: tuple[tuple[Slot, int], ...]


class Grace:
    """Generations of requests; `slots` returns the slots of workers on the shortcut."""

    def __init__(self, slots: Callable[[], Iterable[Slot]]) -> None:
        self._slots = slots
        self._generation = 0
        self._active: dict[int, int] = {}

    def enter(self) -> int:
        """Begin a request, and return its generation for `leave`."""
        generation = self._generation
        self._active[generation] = self._active.get(generation, 0) + 1
        return generation

    def leave(self, generation: int) -> None:
        """End a request of a generation."""
        left = self._active[generation] - 1
        if left:
            self._active[generation] = left
        else:
            del self._active[generation]

    def mark(self) -> Mark:
        """Return a mark for this moment; call this after the reference was removed.

        A request that begins later does not find the reference.  With a mark taken
        before the removal, a request between the two could find it, and would not
        be waited for.
        """
        # Workers change their slots meanwhile, without the lock.  A slot becomes busy before
        # its worker looks at a table: a worker that is not in the mark looks too late to find
        # the reference.  If a request ends between the look at `busy` and that at `ops`, the
        # mark may wait for the worker's next request as well: that only delays the cluster.
        generation = self._generation
        if generation in self._active:
            self._generation += 1
        else:
            generation -= 1
        return Mark(generation, tuple((slot, slot.ops) for slot in self._slots() if slot.busy))

    def over(self, mark: Mark) -> bool:
        """Tell whether every request that was under way at `mark` has ended."""
        if self._active and min(self._active) <= mark.generation:
            return False
        return not any(slot.busy and slot.ops == done for slot, done in mark.busy)
