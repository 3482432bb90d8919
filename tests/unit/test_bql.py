# SPDX-License-Identifier: MIT
"""The big lock with real threads; every wait is for something that must happen."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.effects import COPYING, GENERAL, Call, Copy, Lane, LaneCall, Until
from blockcore.bql.routine import Routine, Timer

HANG_S = 30
"""How long to wait for what takes no time: only a failing test waits."""

FAR_NS = 1 << 62


class Pool:
    """The main loop's pool, worked off by the test's own thread."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.lanes: list[Lane] = []
        self.timers: list[tuple[int, Timer]] = []
        self.wanted = True

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        self.work.append(work)
        self.lanes.append(lane)

    def is_wanted(self, lane: Lane) -> bool:
        return self.wanted

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        self.timers.append((deadline_ns, timer))

    def run(self) -> None:
        while self.work:
            self.work.pop(0)()


class Flag:
    """Something to wait for."""

    def __init__(self) -> None:
        self.up = False

    def is_up(self) -> bool:
        return self.up


class StillClock:
    """A clock that only the test moves."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def realtime_ns(self) -> int:
        return self.now_ns


class Guests:
    """Threads that run a coroutine each, as nbdkit's workers do."""

    def __init__(self, lock: BigLock) -> None:
        self.lock = lock
        self.outcomes: queue.Queue[Any] = queue.Queue()
        self.threads: list[threading.Thread] = []

    def start(
        self, coro: Coroutine[Any, Any, Any], alive: Callable[[], bool] = lambda: True
    ) -> None:
        def run() -> None:
            try:
                self.outcomes.put(self.lock.run_in_thread(coro, alive))
            except BaseException as exc:
                self.outcomes.put(exc)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def outcome(self) -> Any:
        return self.outcomes.get(timeout=HANG_S)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(HANG_S)
            assert not thread.is_alive()


def make_lock(clock: Any = None) -> tuple[BigLock, Pool]:
    lock = BigLock(clock or SystemClock())
    lock.pool = pool = Pool()
    return lock, pool


def ignore(routine: Routine) -> None:
    """For a routine whose end nobody waits for."""


async def wait_for(flag: Flag, before: Callable[[], None] = lambda: None) -> bool:
    before()
    return await Until(flag.is_up)


@pytest.fixture(name="lock")
def _lock() -> BigLock:
    return make_lock()[0]


def test_result_and_calls_without_the_lock(lock: BigLock) -> None:
    """A call runs on the caller's thread, unlocked; between calls the lock is held."""
    seen = []

    def call(number: int) -> int:
        seen.append((threading.current_thread(), lock._lock.locked()))
        return number + 1

    async def work() -> int:
        number: int = await Call(call, 1)
        seen.append((threading.current_thread(), lock._lock.locked()))
        return int(await Call(call, number))

    assert lock.run_in_thread(work(), lambda: True) == 3
    me = threading.current_thread()
    assert seen == [(me, False), (me, True), (me, False)]
    assert not lock._lock.locked()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), AssertionError("bug")])
def test_a_call_that_fails_is_thrown_in(lock: BigLock, error: Exception) -> None:
    def call() -> None:
        raise error

    async def work() -> str:
        try:
            await Call(call)
        except OSError as exc:
            return f"errno {exc.errno}"
        return "no error"

    if isinstance(error, OSError):
        assert lock.run_in_thread(work(), lambda: True) == "errno 28"
    else:
        with pytest.raises(AssertionError, match="bug"):
            lock.run_in_thread(work(), lambda: True)
    assert not lock._lock.locked()


def test_an_exception_leaves_the_lock_free(lock: BigLock) -> None:
    with pytest.raises(ZeroDivisionError), lock.region():
        raise ZeroDivisionError
    with lock.region():
        assert lock._lock.locked()


def test_a_condition_that_holds_is_not_waited_for(lock: BigLock) -> None:
    flag = Flag()
    flag.up = True
    assert lock.run_in_thread(wait_for(flag), lambda: pytest.fail("was asked")) is True


def test_settling_is_first_come_first_served() -> None:
    lock, pool = make_lock()
    flag, order = Flag(), []

    async def work(number: int) -> None:
        await Until(flag.is_up)
        order.append(number)
        await Call(order.append, -number)

    with lock.region():
        for number in range(1, 6):
            lock.spawn(work(number), ignore)
    with lock.region():
        flag.up = True
        assert order == []
    assert order == [1, 2, 3, 4, 5]
    pool.run()
    assert order == [1, 2, 3, 4, 5, -1, -2, -3, -4, -5]


def test_a_rank_goes_before_the_order_of_coming() -> None:
    lock, _ = make_lock()
    flag = Flag()
    order: list[str] = []

    async def wait(name: str, rank: int) -> None:
        await Until(flag.is_up, rank=rank)
        order.append(name)

    with lock.region():
        for name, rank in (("c", 3), ("a", 1), ("d", 3), ("b", 2), ("e", 4)):
            lock.spawn(wait(name, rank), ignore)
        flag.up = True
    assert order == ["a", "b", "c", "d", "e"]


def test_who_comes_back_queues_up_at_the_end() -> None:
    """A routine that takes what it waited for keeps the others waiting."""
    lock, _ = make_lock()
    tokens: list[int] = []
    order = []

    def available() -> bool:
        return bool(tokens)

    async def work(name: str) -> None:
        for _ in range(2):
            await Until(available)
            order.append((name, tokens.pop()))

    with lock.region():
        for name in "abc":
            lock.spawn(work(name), ignore)
    for token in range(6):
        with lock.region():
            tokens.append(token)
    assert order == [("a", 0), ("b", 1), ("c", 2), ("a", 3), ("b", 4), ("c", 5)]


def test_settling_goes_on_until_nothing_moves() -> None:
    """One waiter sets off the next, in the same region."""
    lock, _ = make_lock()
    flags = [Flag() for _ in range(5)]

    async def work(number: int) -> None:
        await Until(flags[number].is_up)
        flags[number + 1].up = True

    with lock.region():
        for number in reversed(range(4)):
            lock.spawn(work(number), ignore)
    with lock.region():
        flags[0].up = True
    assert all(flag.up for flag in flags)
    assert not lock._waiting


def test_spawned_routines_end_under_the_lock() -> None:
    lock, pool = make_lock()
    ended: list[tuple[Any, bool]] = []

    def on_done(routine: Routine) -> None:
        ended.append((routine.error or routine.result, lock._lock.locked()))

    async def work(fails: bool) -> int:
        await Call(ignore, None)
        if fails:
            raise OSError(errno.EIO, "x")
        return 7

    with lock.region():
        lock.spawn(work(False), on_done)
        lock.spawn(work(True), on_done)
    assert not ended
    pool.run()
    assert ended[0] == (7, True)
    assert isinstance(ended[1][0], OSError) and ended[1][1]


@pytest.mark.parametrize(("wanted", "story"), [(False, "aaaaabbbbb"), (True, "aabbaabbab")])
def test_a_thread_goes_on_with_a_routine_unless_it_is_wanted(wanted: bool, story: str) -> None:
    lock, pool = make_lock()
    pool.wanted = wanted
    done: list[str] = []

    async def five(name: str) -> None:
        for _ in range(5):
            await Call(done.append, name)

    with lock.region():
        for name in "ab":
            lock.spawn(five(name), ignore)
    pool.run()
    assert "".join(done) == story


def test_calls_of_another_lane_are_for_other_threads() -> None:
    """What copies is not held up by what waits, and nobody by who waits for one server."""
    lock, pool = make_lock()
    pool.wanted = False
    one, other = Lane("one", 1), Lane("other", 1)
    lanes = [GENERAL, COPYING, COPYING, one, one, other, COPYING, GENERAL, GENERAL]

    async def work() -> None:
        for lane in lanes:
            kinds = {GENERAL: Call, COPYING: Copy}
            await (kinds[lane](ignore, None) if lane in kinds else LaneCall(lane, ignore, None))

    with lock.region():
        lock.spawn(work(), ignore)
    pool.run()
    assert pool.lanes == [GENERAL, COPYING, one, other, COPYING, GENERAL]


def test_a_routine_that_waits_leaves_its_thread() -> None:
    """Who lets it go on submits its next call: once, not twice."""
    lock, pool = make_lock()
    pool.wanted = False
    flag = Flag()
    done: list[int] = []

    async def waits() -> None:
        await Call(done.append, 1)
        await Until(flag.is_up)
        await Call(done.append, 2)

    with lock.region():
        lock.spawn(waits(), ignore)
    pool.run()
    assert done == [1] and not pool.work
    flag.up = True
    lock.poke()
    assert len(pool.work) == 1
    pool.run()
    assert done == [1, 2]


@pytest.mark.parametrize("comes_true", [True, False])
def test_deadline_of_a_spawned_routine(comes_true: bool) -> None:
    """The deadline answers False; once the condition has held it means nothing any more."""
    lock, pool = make_lock()
    flag, results = Flag(), []

    async def work() -> None:
        results.append(await Until(flag.is_up, 1000))
        await Until(Flag().is_up)

    with lock.region():
        lock.spawn(work(), ignore)
    with lock.region():
        flag.up = comes_true
    ((deadline_ns, timer),) = pool.timers
    assert deadline_ns == 1000
    assert timer.cancelled is comes_true, "what is not waited for any more is not kept"
    timer.fire()
    timer.fire()
    assert results == [comes_true]


@pytest.mark.parametrize("deadline_ns", [0, 1, 20_000_000], ids=["past", "now", "soon"])
def test_deadline_of_a_thread(lock: BigLock, deadline_ns: int) -> None:
    async def work() -> bool:
        return await Until(Flag().is_up, lock.clock.monotonic_ns() + deadline_ns)

    assert lock.run_in_thread(work(), lambda: True) is False
    assert not lock._waiting and not lock._parked


def test_a_thread_is_woken_by_any_region(lock: BigLock) -> None:
    flag, parked = Flag(), threading.Event()
    guests = Guests(lock)
    guests.start(wait_for(flag, parked.set))
    parked.wait(HANG_S)
    with lock.region():
        flag.up = True
    assert guests.outcome() is True
    guests.join()


def test_poke_settles_what_changed_without_the_lock(lock: BigLock) -> None:
    flag, parked = Flag(), threading.Event()
    guests = Guests(lock)
    guests.start(wait_for(flag, parked.set))
    parked.wait(HANG_S)
    flag.up = True
    lock.poke()
    assert guests.outcome() is True


def test_a_thread_may_wait_again_and_again(lock: BigLock) -> None:
    """Each flag goes up in a region of its own: none of the wake-ups is lost."""
    flags = [Flag() for _ in range(50)]
    reached: queue.Queue[int] = queue.Queue()

    async def work() -> int:
        for number, flag in enumerate(flags):
            reached.put(number)
            await Until(flag.is_up)
        return len(flags)

    guests = Guests(lock)
    guests.start(work())
    for number, flag in enumerate(flags):
        assert reached.get(timeout=HANG_S) == number
        with lock.region():
            flag.up = True
    assert guests.outcome() == 50


def test_200_parked_threads(lock: BigLock) -> None:
    """All are parked at once, all go on, in the order in which they came."""
    flag, order = Flag(), []
    parked: queue.Queue[int] = queue.Queue()

    async def work(number: int) -> int:
        parked.put(number)
        await Until(flag.is_up)
        order.append(number)
        await Call(ignore, None)
        return number

    guests = Guests(lock)
    for number in range(200):
        guests.start(work(number))
    came = [parked.get(timeout=HANG_S) for _ in range(200)]
    with lock.region():
        assert len(lock._parked) == 200
        flag.up = True
    assert sorted(guests.outcome() for _ in range(200)) == list(range(200))
    assert order == came
    guests.join()
    assert not lock._waiting and not lock._parked


def test_a_dead_client_s_request_is_abandoned(lock: BigLock) -> None:
    """`finally` runs under the lock; the other waiter is not concerned."""
    ended, parked = [], threading.Event()
    flag = Flag()

    async def work() -> None:
        try:
            await Until(flag.is_up)
        finally:
            ended.append(lock._lock.locked())

    guests = Guests(lock)
    guests.start(wait_for(flag, parked.set))
    parked.wait(HANG_S)
    asked = []

    def alive() -> bool:
        asked.append(True)
        return len(asked) < 2

    with pytest.raises(OSError) as caught:
        lock.run_in_thread(work(), alive)
    assert caught.value.errno == errno.ESHUTDOWN
    assert ended == [True] and len(asked) == 2
    assert sum(len(waiters) for waiters in lock._waiting.values()) == 1
    with lock.region():
        flag.up = True
    assert guests.outcome() is True


@asynccontextmanager
async def section(ended: list[str], flag: Flag) -> AsyncIterator[None]:
    try:
        yield
    finally:
        ended.append("section")
        await Until(flag.is_up)
        ended.append("not reached")


def test_what_is_abandoned_may_await_at_its_end() -> None:
    """It ends there; what encloses it still has its turn."""
    lock, _ = make_lock()
    ended: list[str] = []
    outcome: list[Routine] = []
    flag = Flag()

    async def work() -> None:
        try:
            async with section(ended, flag):
                try:
                    await Until(flag.is_up)
                finally:
                    ended.append("inner")
                    await Call(ended.append, "not reached")
        finally:
            await Until(flag.is_up)
            ended.append("not reached")

    with lock.region():
        lock.spawn(work(), outcome.append)
    lock.close()
    assert ended == ["inner", "section"]
    assert isinstance(outcome[0].error, OSError) and outcome[0].error.errno == errno.ESHUTDOWN


def test_an_error_at_the_end_of_what_is_abandoned_is_its_outcome() -> None:
    """And the others are abandoned as well."""
    lock, _ = make_lock()
    outcomes: list[Routine] = []

    async def work() -> None:
        try:
            await Until(Flag().is_up)
        finally:
            raise RuntimeError("a bug")

    with lock.region():
        for _ in range(2):
            lock.spawn(work(), outcomes.append)
    lock.close()
    assert [str(routine.error) for routine in outcomes] == ["a bug", "a bug"]


def test_close_abandons_all_that_waits() -> None:
    lock, _ = make_lock()
    parked: queue.Queue[None] = queue.Queue()
    spawned: list[Routine] = []
    guests = Guests(lock)
    for _ in range(10):
        guests.start(wait_for(Flag(), lambda: parked.put(None)))
    for _ in range(10):
        parked.get(timeout=HANG_S)
    with lock.region():
        lock.spawn(wait_for(Flag()), spawned.append)
    lock.close()
    outcomes = [guests.outcome() for _ in range(10)]
    guests.join()
    assert [exc.errno for exc in outcomes] == [errno.ESHUTDOWN] * 10
    assert isinstance(spawned[0].error, OSError)
    assert not lock._waiting


def test_nothing_waits_once_closed() -> None:
    lock, pool = make_lock()
    lock.close()
    ended: list[Routine] = []

    async def calls_then_waits() -> None:
        await Call(ignore, None)
        await Until(Flag().is_up)

    for coro in (wait_for(Flag()), calls_then_waits()):
        with pytest.raises(OSError) as caught:
            lock.run_in_thread(coro, lambda: pytest.fail("was asked"))
        assert caught.value.errno == errno.ESHUTDOWN
    with lock.region():
        lock.spawn(wait_for(Flag()), ended.append)
        lock.spawn(calls_then_waits(), ended.append)
    pool.run()
    assert [isinstance(routine.error, OSError) for routine in ended] == [True, True]
    assert lock.run_in_thread(_three(), lambda: True) == 3


async def _three() -> int:
    return int(await Call(int, 3))


def test_deferred_work_runs_once_and_unlocked(lock: BigLock) -> None:
    done = []

    def work() -> None:
        done.append(lock._lock.locked())

    with lock.region():
        lock.defer(work)
        lock.defer(work)
        assert not done
    assert done == [False]
    with lock.region():
        pass
    assert done == [False]


def test_deferred_work_of_a_settled_routine(lock: BigLock) -> None:
    """What a routine defers while it is settled is done by whoever left the region."""
    lock.pool = Pool()
    flag, done = Flag(), []

    async def work() -> None:
        await Until(flag.is_up)
        lock.defer(lambda: done.append(threading.current_thread()))

    with lock.region():
        lock.spawn(work(), ignore)
    with lock.region():
        flag.up = True
    assert done == [threading.current_thread()]


def test_who_moves_on_while_overdue_is_not_abandoned() -> None:
    """The deadline passes, and before its thread has the lock, another's region moves it on.

    The clock is what a thread looks at last before it takes the lock to say
    that it is overdue; there this test lets the other one be first.
    """
    looks: list[bool] = []

    class Racing(StillClock):
        def monotonic_ns(self) -> int:
            if not lock._lock.locked():
                looks.append(True)
                if len(looks) == 2:
                    self.now_ns = 200
                    with lock.region():
                        first.up = True
            return self.now_ns

    lock, _ = make_lock(Racing())
    first, last = Flag(), Flag()

    async def work() -> list[bool]:
        return [await Until(first.is_up, 100), await Until(last.is_up, FAR_NS)]

    def alive() -> bool:
        """Asked while the routine is in its second wait, which ends by its condition."""
        with lock.region():
            last.up = True
        return True

    assert lock.run_in_thread(work(), alive) == [True, True]
    assert len(looks) > 2
