"""Threads on which calls may block: those of QMP commands, jobs and the machine's own loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class ThreadPool:
    """So many threads, and one queue of work that they take in turn.

    What work has for an outcome it keeps itself.  If it raises, that is a bug:
    it is told, and the thread goes on, since others need it.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}") for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], None]) -> None:
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
            try:
                work()
            except Exception as exc:
                told = (type(exc), exc, exc.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(told))
