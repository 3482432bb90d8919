# SPDX-License-Identifier: MIT
"""The threads on which calls of the main loop block."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from queue import SimpleQueue

import pytest

from blockcore.bql.effects import Lane
from blockcore.process.pool import Lanes, ThreadPool


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


def test_a_lane_has_no_more_threads_than_it_may_and_holds_up_no_other() -> None:
    lanes = Lanes()
    narrow, other = Lane("narrow", 2), Lane("other", 1)
    meeting, done = threading.Barrier(3), SimpleQueue[str]()

    def hang() -> None:
        meeting.wait(10)
        done.put("hung")

    for _ in range(2):
        lanes.submit(hang, narrow)
    lanes.submit(lambda: done.put("third"), narrow)
    assert lanes.is_wanted(narrow)
    lanes.submit(lambda: done.put("other"), other)
    assert done.get(timeout=10) == "other"
    assert done.empty()
    meeting.wait(10)
    assert sorted(done.get(timeout=10) for _ in range(3)) == ["hung", "hung", "third"]
    lanes.close()


def test_a_lane_that_keeps_processors_busy_has_no_more_threads_than_are_good() -> None:
    lanes, lane = Lanes(busy_threads=2), Lane("busy", 4, busy=True)
    meeting, done = threading.Barrier(3), SimpleQueue[int]()

    def hang() -> None:
        meeting.wait(10)
        done.put(0)

    for _ in range(2):
        lanes.submit(hang, lane)
    lanes.submit(lambda: done.put(1), lane)
    assert lanes.is_wanted(lane)
    meeting.wait(10)
    assert sorted(done.get(timeout=10) for _ in range(3)) == [0, 0, 1]
    lanes.close()


def test_a_thread_of_a_lane_takes_more_work_and_then_ends() -> None:
    lanes = Lanes(idle_s=0.01)
    lane = Lane("lane", 4)
    done: SimpleQueue[threading.Thread] = SimpleQueue()
    lanes.submit(lambda: done.put(threading.current_thread()), lane)
    thread = done.get(timeout=10)
    thread.join(10)
    assert not thread.is_alive()
    assert not lanes.is_wanted(lane)
    assert not lanes._crews, "nothing is kept of a lane that has nothing to do"
    busy = Lanes()
    for _ in range(3):
        busy.submit(lambda: done.put(threading.current_thread()), lane)
    threads = {done.get(timeout=10) for _ in range(3)}
    busy.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_lane_that_can_have_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it has do the work; without any it is for somebody else to do."""
    lanes, lane = Lanes(), Lane("lane", 4)
    meeting, done = threading.Barrier(2), SimpleQueue[str]()

    def hang() -> None:
        meeting.wait(10)
        done.put("first")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert lanes.submit(hang, lane)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert lanes.submit(lambda: done.put("second"), lane)
    assert not lanes.submit(lambda: done.put("nobody's"), Lane("another", 4))
    assert done.empty()
    meeting.wait(10)
    assert [done.get(timeout=10) for _ in range(2)] == ["first", "second"]
    lanes.close()


def test_what_waits_in_a_lane_is_dropped_at_the_end() -> None:
    lanes = Lanes()
    lane = Lane("lane", 1)
    begun, go = threading.Event(), threading.Event()
    done: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        begun.set()
        go.wait(10)
        done.put(1)

    lanes.submit(work, lane)
    begun.wait(10)
    lanes.submit(lambda: done.put(2), lane)
    lanes.close()
    lanes.submit(lambda: done.put(3), lane)
    go.set()
    assert done.get(timeout=10) == 1
    assert done.empty()


@pytest.mark.parametrize("kind", ["pool", "lane"])
def test_an_idle_thread_keeps_nothing_of_its_last_work(kind: str) -> None:
    pool, lanes, lane = ThreadPool("pool", 1), Lanes(idle_s=60.0), Lane("lane", 1)

    class Work:
        def __call__(self) -> None:
            """Nothing; what it has is what counts."""

    work = Work()
    gone = threading.Event()
    kept = weakref.ref(work, lambda _: gone.set())
    if kind == "pool":
        pool.submit(work)
    else:
        lanes.submit(work, lane)
    del work
    assert gone.wait(30)
    assert kept() is None
    pool.close()
    lanes.close()
