# SPDX-License-Identifier: MIT
"""Threads on which calls may block: those of QMP commands, jobs and the machine's own loops."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from blockcore.bql.effects import COPYING, Lane

Work = Callable[[], None]
"""What it has for an outcome it keeps itself.

If it raises, that is a bug: it is told, and the thread goes on, since others need it.
"""

IDLE_S = 2.0
"""How long a thread of a lane that is not always there waits for more work."""


class ThreadPool:
    """So many threads, and one queue of work that they take in turn."""

    def __init__(self, name: str, threads: int) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}") for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Run `work` on one of the threads; dropped once the pool is closed."""
        self._queue.put(work)

    def is_wanted(self) -> bool:
        """Whether work waits for a thread."""
        return not self._queue.empty()

    def close(self) -> None:
        """Let the threads end with what they are at; what waits is dropped."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._closed:
            _do(work)
            del work  # with the buffers it has, while there is nothing else to do


class _Crew:
    """The threads of one lane, as many as its work needs, and that work."""

    __slots__ = ("changed", "idle", "threads", "work")

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.work: deque[Work] = deque()
        self.threads = 0
        self.idle = 0


class Lanes:
    """Threads of lanes that come and go: each begins with work, and ends `idle_s` after it.

    A lane whose work keeps processors busy has at most `busy_threads`.
    """

    def __init__(self, idle_s: float = IDLE_S, busy_threads: int = COPYING.threads) -> None:
        self._idle_s = idle_s
        self._busy_threads = busy_threads
        self._lock = threading.Lock()
        self._crews: dict[Lane, _Crew] = {}
        self._closed = False

    def submit(self, work: Work, lane: Lane) -> bool:
        """Run `work` on a thread of its lane; dropped once this is closed.

        False, and it is not taken, if the lane has no thread and the process
        can have no more.
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
        """Whether work waits for a thread of that lane."""
        crew = self._crews.get(lane)
        return crew is not None and len(crew.work) > crew.idle

    def close(self) -> None:
        """Let all threads end with what they are at; what waits is dropped."""
        with self._lock:
            self._closed = True
            for crew in self._crews.values():
                crew.work.clear()
                crew.changed.notify_all()

    def _run(self, lane: Lane, crew: _Crew) -> None:
        while (work := self._next(lane, crew)) is not None:
            _do(work)
            del work

    def _next(self, lane: Lane, crew: _Crew) -> Work | None:
        """What has waited longest, or None: then the thread counts no more."""
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
