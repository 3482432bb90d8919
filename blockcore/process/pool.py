# SPDX-License-Identifier: MIT
"""Threads on which calls may block: calls of QMP commands, jobs and the machine's own loops.

A lane (`bql.effects.Lane`) is a kind of call with threads of its own, so that
calls that hang do not hold up calls of other lanes.  `ThreadPool` has the
threads of the lanes that are always there, `Lanes` those that come and go.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from blockcore.bql.effects import COPYING, Lane
from blockcore.process.gathering import be_free

Work = Callable[[], None]
"""A piece of work; it stores its outcome itself.

An exception that it raises is a bug.  It is reported by `threading.excepthook`,
and the thread goes on, because other work needs it.
"""

IDLE_S = 2.0
"""How long a thread of `Lanes` waits for more work before it ends, in seconds.

Longer keeps stacks for nothing; shorter starts threads anew for each burst.
"""


class ThreadPool:
    """A fixed number of threads that take work from one queue."""

    def __init__(self, name: str, threads: int) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}") for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Queue `work` for one of the threads; it is dropped once the pool is closed."""
        self._queue.put(work)

    def is_wanted(self) -> bool:
        """Return whether work waits for a thread.

        Without a lock, so the answer may be old.  Its only use is to decide
        whether a routine lets others have the thread (`routine.TURN`).
        """
        return not self._queue.empty()

    def close(self) -> None:
        """Let each thread end after the work it is doing; drop the work that waits.

        Does not wait for the threads.
        """
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._closed:
            _do(work)
            del work  # or its buffers would stay in memory until the next work comes


class _Crew:
    """The threads of one lane, and the work that waits for them; all under the lock.

    `threads` is how many there are, `idle` how many of them wait for work.
    """

    __slots__ = ("changed", "idle", "threads", "work")

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.work: deque[Work] = deque()
        self.threads = 0
        self.idle = 0


class Lanes:
    """The threads of lanes that come and go.

    A thread starts when work finds none idle and the lane may have more.  It
    ends when it has been idle for `idle_s` seconds.  A lane whose work keeps
    processors busy has at most `busy_threads`.
    """

    def __init__(self, idle_s: float = IDLE_S, busy_threads: int = COPYING.threads) -> None:
        self._idle_s = idle_s
        self._busy_threads = busy_threads
        self._lock = threading.Lock()
        self._crews: dict[Lane, _Crew] = {}
        self._closed = False

    def submit(self, work: Work, lane: Lane) -> bool:
        """Queue `work` for a thread of its lane; it is dropped once this is closed.

        Returns False, and does not take the work, if the lane has no thread and
        the process can start none.
        """
        with self._lock:
            if self._closed:
                return True
            crew = self._crews.get(lane)
            if crew is None:
                crew = self._crews[lane] = _Crew(self._lock)
            crew.work.append(work)
            if len(crew.work) <= crew.idle:
                crew.changed.notify()
            elif crew.threads < self._most(lane):
                thread = threading.Thread(target=self._run, args=(lane, crew), name=lane.name)
                try:
                    thread.start()
                except RuntimeError:
                    if not crew.threads:
                        del self._crews[lane]
                        return False
                else:
                    crew.threads += 1
            return True

    def _most(self, lane: Lane) -> int:
        return min(lane.threads, self._busy_threads) if lane.busy else lane.threads

    def is_wanted(self, lane: Lane) -> bool:
        """Return whether work waits for a thread of that lane (see `ThreadPool.is_wanted`)."""
        # No lock: the crew may end meanwhile, which leaves a wrong answer and no error.
        crew = self._crews.get(lane)
        return crew is not None and len(crew.work) > crew.idle

    def close(self) -> None:
        """Let each thread end after the work it is doing; drop the work that waits."""
        with self._lock:
            self._closed = True
            for crew in self._crews.values():
                crew.work.clear()
                crew.changed.notify_all()

    def _run(self, lane: Lane, crew: _Crew) -> None:
        be_free()
        while (work := self._next(lane, crew)) is not None:
            _do(work)
            del work

    def _next(self, lane: Lane, crew: _Crew) -> Work | None:
        """Wait for work, and return the oldest; None if the thread has to end.

        A thread that gets None is no longer counted, and must not come back.
        """
        with self._lock:
            if not crew.work and not self._closed:
                crew.idle += 1
                crew.changed.wait_for(lambda: crew.work or self._closed, self._idle_s)
                crew.idle -= 1
            if crew.work:
                return crew.work.popleft()
            crew.threads -= 1
            if not crew.threads:
                del self._crews[lane]
            return None


def _do(work: Work) -> None:
    try:
        work()
    except Exception as exc:
        told = (type(exc), exc, exc.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(told))
