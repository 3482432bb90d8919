"""The threads of the main loop's pool."""

from __future__ import annotations

import queue
import threading

from blockcore.pool import ThreadPool

HANG_S = 30.0


def test_several_threads_work_at_the_same_time() -> None:
    pool = ThreadPool(2)
    met = threading.Barrier(2)
    order: queue.Queue[int] = queue.Queue()
    for _ in range(2):
        pool.submit(lambda: order.put(met.wait(HANG_S)))
    assert {order.get(timeout=HANG_S) for _ in range(2)} == {0, 1}
    pool.close()


def test_it_is_wanted_while_work_waits() -> None:
    pool = ThreadPool(1)
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def blocks() -> None:
        begun.set()
        go_on.wait(HANG_S)

    pool.submit(blocks)
    assert begun.wait(HANG_S) and not pool.is_wanted()
    pool.submit(over.set)
    assert pool.is_wanted()
    go_on.set()
    assert over.wait(HANG_S)
    pool.close()


def test_what_waits_when_it_closes_is_dropped_and_the_threads_end() -> None:
    before = set(threading.enumerate())
    pool = ThreadPool(1)
    threads = set(threading.enumerate()) - before
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def blocks() -> None:
        begun.set()
        go_on.wait(HANG_S)

    pool.submit(blocks)
    assert begun.wait(HANG_S)
    pool.submit(lambda: done.append(1))
    pool.close()
    go_on.set()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert not done
