# SPDX-License-Identifier: MIT
"""A running coroutine of the core, and the two kinds of owner that it can have.

A guest request is a `ThreadRoutine`: its owner is the nbdkit worker that the
request came on, which runs it to its end.  QMP commands, jobs and the machine's
own loops are `LoopRoutine`s: their owner is the main loop, which has their calls
performed on threads of its pool.
"""

from __future__ import annotations

import errno
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from blockcore.bql.asker import Asker
from blockcore.bql.effects import GENERAL, Call, Lane, Until

Core = Coroutine[Any, Any, Any]

TURN = 2
"""Calls of one routine that a pool's thread performs before it goes to others that wait.

Two are a read and a write: one step of a copy, whose data stays in the cache.
More would let others wait longer.
"""


class Routine:
    """One coroutine of the core, at one of its effects or at its end.

    Whenever the lock is free, exactly one of these is so: `call` is set, and
    the owner has to perform it; `until` is set, and the routine waits; or it is
    `done`, with a `result` or an `error`.  `asker` is for whom it runs.
    """

    __slots__ = ("asker", "call", "coro", "done", "error", "result", "until")

    def __init__(self, coro: Core, connection: int = 0) -> None:
        self.coro = coro
        self.asker = Asker(connection)
        self.call: Call | None = None
        self.until: Until | None = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def advance(self, value: Any = None, error: BaseException | None = None) -> None:
        """Run to the next effect that cannot be had at once, or to the end; the lock is held.

        `value` is the result of the present effect, or `error` is thrown into
        the coroutine.  A condition that holds already is no wait.
        """
        self.call = self.until = None
        try:
            while True:
                try:
                    effect = self.coro.send(value) if error is None else self.coro.throw(error)
                except StopIteration as stop:
                    self.done, self.result = True, stop.value
                    return
                except BaseException as exc:  # the outcome is the owner's, whatever it is
                    self.done, self.error = True, _without_this_frame(exc)
                    return
                if isinstance(effect, Call):
                    self.call = effect
                    return
                if not effect.condition():
                    self.until = effect
                    return
                value, error = True, None
        finally:
            # Its traceback leads to this frame: without the reference there is no cycle.
            error = None

    def moved(self) -> None:
        """Tell the owner that another thread has advanced the routine; the lock is held."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End a waiting routine with ESHUTDOWN; its `finally` clauses run here, under the lock.

        A clause that awaits is cut short at that await, because no owner
        performs the effect any more.
        """
        self.until = None
        self.done, self.error = True, OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
        while True:
            try:
                self.coro.close()
                return
            except Exception as exc:
                if inspect.getcoroutinestate(self.coro) == inspect.CORO_CLOSED:  # a clause failed
                    self.error = exc
                    return
                # A clause has awaited (RuntimeError): the coroutine is closed again, there.

    def outcome(self) -> Any:
        """Return the result of a routine that is done, or raise its exception; call this once."""
        assert self.done
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # which refers to this frame by its traceback
        return self.result


class Timer:
    """Work for a deadline, which can be cancelled.

    A cancelled timer drops its work at once, and with it the routine: the event
    loop keeps the timer itself until the deadline.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    @property
    def cancelled(self) -> bool:
        """Whether the timer was cancelled."""
        return self._work is None

    def cancel(self) -> None:
        """Drop the work; the lock is held."""
        self._work = None

    def fire(self) -> None:
        """Do the work, unless the timer was cancelled; without the lock."""
        # Read once, for another thread may cancel here.  The work itself then finds, under the
        # lock, that the routine's wait is over (`LoopRoutine._expire`).
        work = self._work
        if work is not None:
            work()


class Pool(Protocol):
    """The threads and timers of the main loop, for `LoopRoutine`s.

    `process/loop.py` has the real pool.  All methods may be called on any
    thread, under the lock, and do not block.
    """

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        """Run `work`, which may block, on a thread of that lane."""

    def is_wanted(self, lane: Lane) -> bool:
        """Return whether other work waits for a thread of that lane."""

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        """Let `timer` fire, on the main loop, when the monotonic clock reaches `deadline_ns`."""


class Scheduler(Protocol):
    """The big lock as a `LoopRoutine` needs it."""

    pool: Pool

    def region(self) -> AbstractContextManager[None]:
        """Return a context that holds the lock."""

    def advance(
        self, routine: Routine, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Advance a routine, and tell its owner; the lock is held."""

    def forget(self, routine: Routine) -> None:
        """Remove a waiting routine from its queue; the lock is held."""


class ThreadRoutine(Routine):
    """A routine whose owner is the thread that called `run_in_thread`.

    The owner sleeps at `gate` while the routine waits: a lock that the owner takes
    and others release, which costs half of what an Event does.  Only `BigLock._park`
    makes it, because few routines ever wait.
    """

    __slots__ = ("gate",)

    gate: threading.Lock

    def moved(self) -> None:
        # Free already: the owner has not seen the last move yet, and will see both.
        if self.gate.locked():
            self.gate.release()


class LoopRoutine(Routine):
    """A routine whose owner is the main loop; its calls are performed on the loop's pool.

    The pool's thread that has performed a call also performs the routine's next
    call, if that is of the same lane: handing a call over to another thread
    costs as much as a small read, and data that was just read is in this
    processor's cache when it is written.  If other work waits for a thread of
    the lane, the thread goes to that work after `TURN` calls.

    `_left` is above 0 only while such a thread advances the routine: how many
    more calls the thread may perform.  `_lane` is the lane of that thread.
    """

    __slots__ = ("_lane", "_left", "_timer", "lock", "on_done")

    def __init__(self, coro: Core, lock: Scheduler, on_done: Callable[[Routine], None]) -> None:
        super().__init__(coro)
        self.lock = lock
        self.on_done = on_done
        self._left = 0
        self._lane = GENERAL
        self._timer: Timer | None = None

    def moved(self) -> None:
        pool, call, until = self.lock.pool, self.call, self.until
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.done:
            self.on_done(self)
        elif call is not None:
            lane = call.lane
            other = lane is not self._lane
            # Submit the call, unless the thread that is in `_perform` goes on with it.  With 1
            # left, that thread goes on as long as no other work waits for it.
            if not self._left or other or (self._left == 1 and pool.is_wanted(lane)):
                self._left = 0
                pool.submit(lambda: self._perform(call), lane)
        elif until is not None and until.deadline_ns is not None:
            self._timer = Timer(lambda: self._expire(until))
            pool.call_at(until.deadline_ns, self._timer)

    def _perform(self, first: Call) -> None:
        call: Call | None = first
        left = TURN
        while call is not None:
            outcome = perform(call)
            with self.lock.region():
                self._left, self._lane = left, first.lane
                self.lock.advance(self, *outcome)
                del outcome  # an exception in it refers to this frame: a cycle
                call = self.call if self._left else None
                self._left = 0
            left = max(left - 1, 1)

    def _expire(self, until: Until) -> None:
        """End a wait at its deadline, on the main loop."""
        with self.lock.region():
            # Before this region the condition may have come true: then the routine is elsewhere.
            if self.until is until:
                self.lock.forget(self)
                self.lock.advance(self, False)


def _without_this_frame(error: BaseException) -> BaseException:
    """Return an exception that the caller has caught, without the caller in its traceback.

    A traceback refers to each frame that the exception came through.  If one of
    these frames refers to the exception, there is a cycle: then everything that
    a request had, buffers too, stays until the garbage collector runs.
    """
    trace = error.__traceback__
    return error.with_traceback(trace and trace.tb_next)


def perform(call: Call) -> tuple[Any, BaseException | None]:
    """Perform a call, without the lock; return its result and None, or None and what it raised."""
    try:
        return call.fn(*call.args), None
    except BaseException as exc:  # thrown into the coroutine, which knows what it means
        return None, exc


def run_alone(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine of the core to its end on this thread, where no other routine runs.

    At the start and at the end of the process.  Nothing else could end a wait,
    so a wait for a condition that does not hold fails with OSError(ESHUTDOWN).
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = True, None
        if isinstance(effect, Call):
            value, error = perform(effect)
        elif not effect.condition():
            error = OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
