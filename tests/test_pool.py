"""The threads on which calls of the main loop block."""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue

import pytest

from blockcore.pool import ThreadPool


def test_all_threads_work_at_once_and_in_turn() -> None:
    pool = ThreadPool("pool", 2)
    meeting = threading.Barrier(3)
    done: SimpleQueue[int] = SimpleQueue()

    def meet(number: int) -> None:
        meeting.wait(10)
        done.put(number)

    for number in range(2):
        pool.submit(partial(meet, number))
    pool.submit(lambda: done.put(2))
    assert pool.is_wanted()
    meeting.wait(10)
    assert sorted(done.get(timeout=10) for _ in range(3)) == [0, 1, 2]
    assert not pool.is_wanted()
    pool.close()


def test_a_thread_survives_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    told: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", told.put)
    pool = ThreadPool("pool", 1)
    done: SimpleQueue[int] = SimpleQueue()

    def fail() -> None:
        raise ZeroDivisionError

    pool.submit(fail)
    pool.submit(lambda: done.put(1))
    assert told.get(timeout=10).exc_type is ZeroDivisionError
    assert done.get(timeout=10) == 1
    pool.close()


def test_what_waits_is_dropped_when_the_pool_is_closed() -> None:
    pool = ThreadPool("pool", 1)
    begun, go = threading.Event(), threading.Event()
    done: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        begun.set()
        go.wait(10)
        done.put(1)

    pool.submit(work)
    begun.wait(10)
    pool.submit(lambda: done.put(2))
    pool.close()
    go.set()
    assert done.get(timeout=10) == 1
    assert done.empty()
