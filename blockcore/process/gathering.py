# SPDX-License-Identifier: MIT
"""Workers gather on one processor while they keep each other waiting for Python's lock.

Only the thread that has the lock runs Python, so small requests are no faster on
several processors.  As soon as the lock is always wanted they are slower: each time
it is handed over, a thread on another processor has to be woken, which takes longer
than a small request does, and often finds the lock taken again.  This state does not
end by itself as long as there are requests.  Measured on a virtual host of two
processors, with 16 requests of 4 KiB in flight that need 10 us more than those on the
shortcut because they are recorded: 11,000 requests per second on both processors,
30,000 on one.

A worker notices it by how often it goes to sleep: 0.4 times for each request where
there is no such state, 4.5 times where there is.  Then all workers move to its
processor, stay there for a while, and are free again, so that the scheduler chooses
anew, and nobody stays when the load has changed.  Workers with large requests do not
take part: copying data needs no lock, and several processors do it faster.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Set
from resource import RUSAGE_THREAD, getrusage
from typing import Protocol

from blockcore.bql.clock import Clock

LOOK = 16
"""Requests of a worker between two looks: a look takes a third of the time of a small request."""

SLEEPS = 3
"""Sleeps for each request above which a worker waits for the lock most of the time.

A worker may sleep once for its next request, and once for the disk or for a delay.
"""

SMALL = 16 << 10
"""The largest request, in bytes, whose copying does not count beside Python's work."""

STAY_NS = 2_000_000_000
"""Nanoseconds until all are free again.

It takes a fortieth of that until they have noticed again that they are in each other's way.
"""

_PROCESSOR = 36
"""The place of a thread's processor in /proc/PID/stat, behind the name (proc(5): field 39)."""


class Thread(Protocol):
    """What is asked of the calling thread, and done to it."""

    def sleeps(self) -> int:
        """Return how often it has gone to sleep."""

    def processor(self) -> int:
        """Return the processor that it runs on; raise OSError if that cannot be told."""

    def allowed(self) -> Set[int]:
        """Return the processors that it may run on."""

    def allow(self, processors: Set[int]) -> None:
        """Let it run on these only; raise OSError if none of them is there, or it is forbidden."""


class CallingThread:
    """The calling thread, by system calls."""

    def sleeps(self) -> int:
        return getrusage(RUSAGE_THREAD).ru_nvcsw

    def processor(self) -> int:
        with open("/proc/thread-self/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[_PROCESSOR])

    def allowed(self) -> Set[int]:
        return os.sched_getaffinity(0)

    def allow(self, processors: Set[int]) -> None:
        os.sched_setaffinity(0, processors)


class _Own(threading.local):
    """What each thread knows of itself: where it is gathered, and where it was allowed before.

    `sleeps` is how often it had slept at its last look.
    """

    place: int | None = None
    before: Set[int] = frozenset()
    sleeps = 0


class Gathering:
    """The processor on which this process's threads gather, if they do.

    No lock: Python's own keeps each step whole.  Of two workers that notice at the same
    time the second decides, and who has followed the first moves on at the next look.
    """

    def __init__(self, clock: Clock, thread: Thread | None = None) -> None:
        self._clock = clock
        self._thread = thread or CallingThread()
        self._place: int | None = None
        self._until_ns = 0
        self._refused = False
        self._own = _Own()

    def look(self, length: int) -> None:
        """Move the calling worker to where it belongs.

        To be called by each worker at every `LOOK`-th request; this one has `length` bytes.
        """
        own, place, small = self._own, self._now(), length <= SMALL
        if own.place is None:
            sleeps, before = self._thread.sleeps(), own.sleeps
            if place is None and small and sleeps - before > SLEEPS * LOOK:
                place = self._gather()
            own.sleeps = sleeps
        self._move(own, place if small else None)

    def follow(self) -> None:
        """Move the calling thread, which is no worker but often needs the lock, to the workers."""
        self._move(self._own, self._now())

    def _now(self) -> int | None:
        if self._place is not None and self._clock.monotonic_ns() >= self._until_ns:
            self._place = None
        return self._place

    def _gather(self) -> int | None:
        """Let all threads come to this one's processor, from their next look on."""
        with contextlib.suppress(OSError):
            if not self._refused and len(self._thread.allowed()) > 1:
                self._until_ns = self._clock.monotonic_ns() + STAY_NS
                self._place = self._thread.processor()
        return self._place

    def _move(self, own: _Own, place: int | None) -> None:
        if place == own.place:
            return
        try:
            if own.place is None:
                own.before = self._thread.allowed()
            self._thread.allow(own.before if place is None else {place})
        except OSError:
            # A container may forbid it, or the processor has just been taken away.
            self._refused, self._place = True, None
            return
        own.place = place
        if place is None:
            own.sleeps = self._thread.sleeps()


def be_free() -> None:
    """Let the calling thread run where the process may: a gathered one may have started it."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
