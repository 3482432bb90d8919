# SPDX-License-Identifier: MIT
"""The big lock, and how coroutines of the core are run under it.

One lock protects the whole model.  A `Routine` is a coroutine of the core
being run: under the lock it is advanced until it wants a blocking call, which
its owner performs with the lock dropped, or until it waits for a condition.
Whenever a region of the lock ends, the conditions of all waiting routines are
looked at, and those that hold are advanced in place, in the order in which
they came, until nothing moves (*settling*): no wake-up can be lost, nobody has
to notify, and events leave in the order in which QEMU's coroutines, which are
entered synchronously, would emit them.

What a routine is, and who owns one, is in `routine`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from blockcore.bql.clock import Clock
from blockcore.bql.routine import Core, LoopRoutine, Pool, Routine, ThreadRoutine, perform

POLL_S = 0.1
"""How often a parked guest request asks whether its client is still there."""

POLL_S_PER_WAITER = 0.002
"""Keeps the polls of any number of parked requests under 500 a second."""

POLL_S_MAX = 1.0


class BigLock:
    """The one lock, the routines that wait under it, and the settling of them.

    `pool` must be set before the first `spawn`.
    """

    pool: Pool

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.closing = False
        self._lock = threading.Lock()
        self._waiting: dict[Callable[[], bool], deque[Routine]] = {}
        self._parked: set[ThreadRoutine] = set()
        self._deferred: list[Callable[[], None]] = []

    def region(self) -> BigLock:
        """Hold the lock, as a context.

        What has become possible meanwhile happens before it is left.
        """
        return self

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._leave()

    def defer(self, work: Callable[[], None]) -> None:
        """Run `work` once, right after the current region, without the lock."""
        if work not in self._deferred:
            self._deferred.append(work)

    def poke(self) -> None:
        """Settle: something that a condition looks at has changed without the lock."""
        with self.region():
            pass

    def run_in_thread(self, coro: Core, alive: Callable[[], bool]) -> Any:
        """Run `coro` to its end on this thread, waiting where it waits; gives its result.

        `alive` is asked now and then during a wait.  Once it says no, or the
        lock is closed, the coroutine is abandoned and OSError(ESHUTDOWN)
        raised.
        """
        routine = ThreadRoutine(coro)
        self._lock.acquire()
        routine.advance()
        while not routine.done:
            if routine.call is None:
                self._park(routine, alive)
                continue
            call = routine.call
            self._leave()
            outcome = perform(call)
            self._lock.acquire()
            routine.advance(*outcome)
            del outcome  # an exception that comes through here must not be held here
        self._leave()
        return routine.outcome()

    def spawn(self, coro: Core, on_done: Callable[[Routine], None]) -> Routine:
        """Start `coro` on the main loop; the lock is held.

        It runs at once, here, as far as it can.  `on_done` gets the routine,
        under the lock, when it has ended.
        """
        routine = LoopRoutine(coro, self, on_done)
        self.advance(routine)
        return routine

    def advance(
        self, routine: Routine, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Advance a routine that somebody else owns, and tell its owner; the lock is held."""
        routine.advance(value, error)
        error = None
        if routine.until is not None:
            if self.closing:
                routine.abandon()
            else:
                self._wait(routine)
        routine.moved()

    def forget(self, routine: Routine) -> None:
        """Take a waiting routine out of the queue of its condition; the lock is held."""
        assert routine.until is not None
        queue = self._waiting[routine.until.condition]
        queue.remove(routine)
        if not queue:
            del self._waiting[routine.until.condition]

    def close(self) -> None:
        """Abandon all that waits, from now on: the process is ending."""
        with self.region():
            self.closing = True
            for queue in list(self._waiting.values()):
                for routine in list(queue):
                    self.forget(routine)
                    routine.abandon()
                    routine.moved()

    def _wait(self, routine: Routine) -> None:
        """Queue a routine by rank: nearly always at the end."""
        until = routine.until
        assert until is not None
        queue = self._waiting.setdefault(until.condition, deque())
        place = len(queue)
        while place and (other := queue[place - 1].until) and other.rank > until.rank:
            place -= 1
        queue.insert(place, routine)

    def _leave(self) -> None:
        """Settle and release; then do, unlocked, what the region has deferred."""
        try:
            if self._waiting:
                self._settle()
        finally:
            deferred = self._deferred
            if deferred:
                self._deferred = []
            self._lock.release()
        for work in deferred:
            work()

    def _settle(self) -> None:
        """Advance the routines whose conditions hold, until none does.

        A condition is looked at again before each routine it releases: the
        one before may have changed what it depends on.
        """
        while ready := [condition for condition in self._waiting if condition()]:
            for condition in ready:
                for routine in list(self._waiting.get(condition, ())):
                    if routine.until is not None and condition():
                        self.forget(routine)
                        self.advance(routine, True)

    def _park(self, routine: ThreadRoutine, alive: Callable[[], bool]) -> None:
        """Wait on this thread until the routine has moved on; called and left with the lock."""
        if self.closing:
            routine.abandon()
            return
        routine.gate = threading.Event()
        self._wait(routine)
        self._parked.add(routine)
        gone = False
        while routine.until is not None and not gone and not self._overdue(routine):
            self._leave()
            gone = self._watch(routine, alive)
            self._lock.acquire()
        self._parked.discard(routine)
        if routine.until is not None:
            self.forget(routine)
            if gone:
                routine.abandon()
            else:
                routine.advance(False)

    def _watch(self, routine: ThreadRoutine, alive: Callable[[], bool]) -> bool:
        """Sleep until there is something to do for the routine; whether its client is gone.

        The lock is not held: another region may move the routine on, to its
        next wait even, before the caller has it.
        """
        while routine.until is not None:
            if routine.gate.wait(self._patience_s(routine)):
                routine.gate.clear()
            elif self._overdue(routine):
                return False
            elif not alive():
                return True
        return False

    def _overdue(self, routine: Routine) -> bool:
        until = routine.until
        deadline_ns = None if until is None else until.deadline_ns
        return deadline_ns is not None and self.clock.monotonic_ns() >= deadline_ns

    def _patience_s(self, routine: Routine) -> float:
        patience = min(POLL_S + POLL_S_PER_WAITER * len(self._parked), POLL_S_MAX)
        until = routine.until
        if until is not None and until.deadline_ns is not None:
            left_s = (until.deadline_ns - self.clock.monotonic_ns()) / 1e9
            patience = min(patience, max(left_s, 0.0))
        return patience
