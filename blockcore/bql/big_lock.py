# SPDX-License-Identifier: MIT
"""The big lock, and the running of the core's coroutines under it.

One lock protects the whole model.  A `Routine` is a running coroutine of the
core.  It is advanced under the lock until it awaits a blocking call, which its
owner performs with the lock dropped, or a condition.

*Settling*: at the end of each region of the lock, the conditions of all waiting
routines are evaluated, and the routines whose conditions hold are advanced on
the spot, in the order in which they began to wait, until no condition holds.
So no wake-up can be lost, and code that makes a condition true notifies
nothing.  Events are emitted in QEMU's order, because QEMU enters its coroutines
synchronously as well.

`routine` says what a routine is, and which kinds of owner there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from blockcore.bql.asker import Asker
from blockcore.bql.clock import Clock
from blockcore.bql.routine import Core, LoopRoutine, Pool, Routine, ThreadRoutine, perform

POLL_S = 0.1
"""Seconds between two looks of a parked guest request at whether its client is still connected.

With more, a connection whose client has gone keeps its worker longer; with less,
parked requests take more of the processor.
"""

POLL_S_PER_WAITER = 0.002
"""Seconds added to `POLL_S` for each parked request: together they poll under 500 times a second.

Beyond 450 parked requests `POLL_S_MAX` comes first.
"""

POLL_S_MAX = 1.0
"""Seconds after which a client that has gone is noticed at the latest."""


class BigLock:
    """The one lock, and the routines that wait under it.

    `asker` is for whom that runs which runs now (`Routine.asker`).  The owner must set
    `pool` before the first `spawn`.  Where a docstring says that the lock is held, the
    caller holds it; the other methods take it.
    """

    pool: Pool

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.closing = False
        self.asker = Asker()
        self._lock = threading.Lock()
        self._waiting: dict[Callable[[], bool], deque[Routine]] = {}
        self._parked: set[ThreadRoutine] = set()
        self._deferred: list[Callable[[], None]] = []

    def region(self) -> BigLock:
        """Return a context that holds the lock, and settles before it releases the lock."""
        return self

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._leave()

    def defer(self, work: Callable[[], None]) -> None:
        """Run `work` right after the current region, without the lock; the lock is held now.

        Equal work that is deferred several times in a region runs once.
        """
        if work not in self._deferred:
            self._deferred.append(work)

    def poke(self) -> None:
        """Settle, because something that a condition depends on has changed without the lock."""
        with self.region():
            pass

    def run_in_thread(
        self, coro: Core, alive: Callable[[], bool], connection: int = 0
    ) -> Any:
        """Run `coro` to its end on this thread, and return its result or raise its exception.

        `connection` is the number of the connection that it is for.

        The thread performs the coroutine's calls itself, and sleeps while the
        coroutine waits for a condition.  During a wait it calls `alive` now and
        then, without the lock.  When that returns False, or when the lock is
        closed, the coroutine is abandoned, and OSError(ESHUTDOWN) is raised.
        """
        routine = ThreadRoutine(coro, connection)
        asker = routine.asker
        self._lock.acquire()
        self.asker = asker
        routine.advance()
        while not routine.done:
            if routine.call is None:
                self._park(routine, alive)
                continue
            call = routine.call
            self._leave()
            outcome = perform(call)
            self._lock.acquire()
            self.asker = asker
            routine.advance(*outcome)
            # An exception in it refers to this frame by its traceback: a cycle, which would keep
            # the request's buffers until the garbage collector runs.
            del outcome
        self._leave()
        return routine.outcome()

    def spawn(self, coro: Core, on_done: Callable[[Routine], None]) -> Routine:
        """Start `coro`, owned by the main loop, and return its routine; the lock is held.

        It runs at once, on this thread, to its first effect that cannot be had
        at once.  When it has ended, `on_done` gets the routine, under the lock,
        on any thread.
        """
        routine = LoopRoutine(coro, self, on_done)
        self.advance(routine)
        return routine

    def advance(
        self, routine: Routine, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Advance a routine on a thread other than its owner's, and tell the owner.

        `value` is the result of the effect, or `error` is thrown into the
        coroutine.  The lock is held.
        """
        # A routine that runs may advance another one.
        before, self.asker = self.asker, routine.asker
        routine.advance(value, error)
        error, self.asker = None, before
        if routine.until is not None:
            if self.closing:
                routine.abandon()
            else:
                self._wait(routine)
        routine.moved()

    def forget(self, routine: Routine) -> None:
        """Remove a waiting routine from the queue of its condition; the lock is held."""
        assert routine.until is not None
        queue = self._waiting[routine.until.condition]
        queue.remove(routine)
        if not queue:
            del self._waiting[routine.until.condition]

    def close(self) -> None:
        """Abandon all waiting routines, and all that begin to wait later: the process is ending."""
        with self.region():
            self.closing = True
            for queue in list(self._waiting.values()):
                for routine in list(queue):
                    self.forget(routine)
                    routine.abandon()
                    routine.moved()

    def _wait(self, routine: Routine) -> None:
        """Queue a routine by rank: nearly always at the end, which is where the search begins."""
        until = routine.until
        assert until is not None
        queue = self._waiting.setdefault(until.condition, deque())
        place = len(queue)
        while place and (other := queue[place - 1].until) and other.rank > until.rank:
            place -= 1
        queue.insert(place, routine)

    def _leave(self) -> None:
        """Settle and release the lock; then run, without the lock, what the region has deferred."""
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
        """Advance the routines whose conditions hold, until no condition holds."""
        while ready := [condition for condition in self._waiting if condition()]:
            for condition in ready:
                for routine in list(self._waiting.get(condition, ())):
                    # The routine before may have made the condition false, or ended this wait.
                    if routine.until is not None and condition():
                        self.forget(routine)
                        self.advance(routine, True)

    def _park(self, routine: ThreadRoutine, alive: Callable[[], bool]) -> None:
        """Sleep on this thread until the routine has been advanced, or its client has gone.

        The lock is held at the call and at the return, and dropped during the sleep.
        """
        if self.closing:
            routine.abandon()
            return
        routine.gate = threading.Lock()
        routine.gate.acquire()
        self._wait(routine)
        self._parked.add(routine)
        gone = False
        while routine.until is not None and not gone and not self._overdue(routine):
            self._leave()
            gone = self._watch(routine, alive)
            self._lock.acquire()
        self._parked.discard(routine)
        # Under the lock: either another region has advanced the routine, or it still waits.
        if routine.until is not None:
            self.forget(routine)
            if gone:
                routine.abandon()
            else:
                self.asker = routine.asker
                routine.advance(False)

    def _watch(self, routine: ThreadRoutine, alive: Callable[[], bool]) -> bool:
        """Sleep until the routine may have moved; return whether its client has gone.

        The lock is not held.
        """
        # Another region may advance the routine at any time, even to its next wait; the caller
        # looks again under the lock.  The gate is taken before `until` is looked at: a move
        # after that look opens the gate again, so no move is missed.
        while routine.until is not None:
            if routine.gate.acquire(timeout=self._patience_s(routine)):
                continue
            if self._overdue(routine):
                return False
            if not alive():
                return True
        return False

    def _overdue(self, routine: Routine) -> bool:
        """Return whether the deadline of the routine's wait has passed."""
        # Read once: without the lock (`_watch`) the wait may end between two reads.
        until = routine.until
        deadline_ns = None if until is None else until.deadline_ns
        return deadline_ns is not None and self.clock.monotonic_ns() >= deadline_ns

    def _patience_s(self, routine: Routine) -> float:
        """Return how long to sleep before the next look at the client and the deadline."""
        patience = min(POLL_S + POLL_S_PER_WAITER * len(self._parked), POLL_S_MAX)
        until = routine.until
        if until is not None and until.deadline_ns is not None:
            left_s = (until.deadline_ns - self.clock.monotonic_ns()) / 1e9
            patience = min(patience, max(left_s, 0.0))
        return patience
