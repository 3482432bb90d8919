# SPDX-License-Identifier: MIT
"""A coroutine of the core being run, and the two kinds of owner it can have.

A thread that runs one routine to its end owns a `ThreadRoutine`: a guest
request on its nbdkit worker.  The main loop owns `LoopRoutine`s and performs
their calls on its pool: QMP commands, the machine's own loops, jobs.
"""

from __future__ import annotations

import errno
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from blockcore.bql.effects import GENERAL, Call, Lane, Until

Core = Coroutine[Any, Any, Any]

TURN = 2
"""Calls of one routine that a thread performs while others wait for it: a read and a write."""


class Routine:
    """One coroutine of the core, somewhere between two of its effects.

    Outside the lock it is in one of three states: `call` is to be performed
    by the owner, `until` is waited for, or it is `done`.
    """

    __slots__ = ("call", "coro", "done", "error", "result", "until")

    def __init__(self, coro: Core) -> None:
        self.coro = coro
        self.call: Call | None = None
        self.until: Until | None = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def advance(self, value: Any = None, error: BaseException | None = None) -> None:
        """Run to the next effect that cannot be had at once; the lock is held."""
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
            # The frames that it came through lead to this one.
            error = None

    def moved(self) -> None:
        """Tell the owner that somebody else has advanced the routine; the lock is held."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End a waiting routine; its `finally` clauses run here, under the lock.

        One that awaits something is cut short there: nobody is left to
        perform it.
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
                # It has awaited, and can be closed there.

    def outcome(self) -> Any:
        """The result of a routine that is done, or its exception raised, once."""
        assert self.done
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error
        return self.result


class Timer:
    """What is to be done at a deadline, unless it is cancelled before; then nothing is kept."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    @property
    def cancelled(self) -> bool:
        return self._work is None

    def cancel(self) -> None:
        self._work = None

    def fire(self) -> None:
        work = self._work
        if work is not None:
            work()


class Pool(Protocol):
    """What the main loop offers to `spawn`; `process/loop.py` has the real one."""

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        """Run `work` soon, on a thread of that lane, which may block."""

    def is_wanted(self, lane: Lane) -> bool:
        """Whether other work waits for a thread of that lane."""

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        """Let `timer` fire when the monotonic clock reaches `deadline_ns`."""


class Scheduler(Protocol):
    """What a `LoopRoutine` needs of the big lock."""

    pool: Pool

    def region(self) -> AbstractContextManager[None]:
        """Hold the lock."""

    def advance(
        self, routine: Routine, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Advance a routine and tell its owner; the lock is held."""

    def forget(self, routine: Routine) -> None:
        """Take a waiting routine out of its queue; the lock is held."""


class ThreadRoutine(Routine):
    """Owned by the thread that called `run_in_thread`, which parks at `gate`.

    Few routines ever wait, and an Event costs as much as a small read: `_park`
    makes it.
    """

    __slots__ = ("gate",)

    gate: threading.Event

    def moved(self) -> None:
        self.gate.set()


class LoopRoutine(Routine):
    """Owned by the main loop, which performs its calls on a pool.

    A thread of the pool goes on with the next call of the same routine, if it
    is of the same lane: to hand it over costs as much as a small read, and what
    was just read into memory is in that processor's cache when it is written.
    If others wait for a thread, they get it after `TURN` calls.
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
                del outcome  # an exception must not be held by a frame that it knows
                call = self.call if self._left else None
                self._left = 0
            left = max(left - 1, 1)

    def _expire(self, until: Until) -> None:
        with self.lock.region():
            if self.until is until:
                self.lock.forget(self)
                self.lock.advance(self, False)


def _without_this_frame(error: BaseException) -> BaseException:
    """The exception that the caller has caught, with only what is below it in the traceback.

    An exception leads to every frame it came through.  If one of these leads to
    the exception, both are left to the garbage collector, and so is all that a
    request had in its hands.
    """
    trace = error.__traceback__
    return error.with_traceback(trace and trace.tb_next)


def perform(call: Call) -> tuple[Any, BaseException | None]:
    """Carry out a call, without the lock: its result, or what it raised."""
    try:
        return call.fn(*call.args), None
    except BaseException as exc:  # thrown into the coroutine, which knows what it means
        return None, exc


def run_alone(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine of the core where there is nobody else who could end a wait of it.

    What would have to wait fails with ESHUTDOWN.
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
