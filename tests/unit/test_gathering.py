# SPDX-License-Identifier: MIT
"""When workers move to one processor, and back: by what each has seen of itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.effects import GENERAL
from blockcore.drive.block_backend import BlockBackend
from blockcore.process.connection import Connection
from blockcore.process.gathering import (
    LOOK,
    SLEEPS,
    SMALL,
    STAY_NS,
    CallingThread,
    Gathering,
    be_free,
)
from blockcore.process.pool import Lanes

R = TypeVar("R")

ALL = frozenset(range(4))
CROWDED = SLEEPS * LOOK + 1
"""Sleeps from one look to the next that tell a worker that others keep it waiting."""


class World:
    """A host of four processors, as its threads see it."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.error: OSError | None = None
        self.unknown: OSError | None = None
        self.processors: Set[int] = ALL
        self.gathering = Gathering(self, self)
        self._own = threading.local()

    def monotonic_ns(self) -> int:
        return self.now_ns

    def realtime_ns(self) -> int:
        return 0

    # What the calling thread is asked (`gathering.Thread`).

    def sleeps(self) -> int:
        return getattr(self._own, "sleeps", 0)

    def processor(self) -> int:
        if self.unknown is not None:
            raise self.unknown
        return int(self._own.processor)

    def allowed(self) -> Set[int]:
        allowed: Set[int] = getattr(self._own, "allowed", self.processors)
        return allowed

    def allow(self, processors: Set[int]) -> None:
        if self.error is not None:
            raise self.error
        self._own.allowed = processors

    # What a worker does.

    def work(self, processor: int, sleeps: int, length: int) -> Set[int]:
        """Do `LOOK` requests; return where the worker may run after its look."""
        self._own.processor = processor
        self._own.sleeps = self.sleeps() + sleeps
        self.gathering.look(length)
        return self.allowed()

    def follow(self) -> Set[int]:
        self.gathering.follow()
        return self.allowed()


class Worker:
    """A thread of its own."""

    def __init__(self, world: World, processor: int) -> None:
        self._world, self._processor = world, processor
        self._thread = ThreadPoolExecutor(1)

    def look(self, sleeps: int = LOOK, length: int = 4096) -> Set[int]:
        return self._thread.submit(self._world.work, self._processor, sleeps, length).result()

    def follow(self) -> Set[int]:
        return self._thread.submit(self._world.follow).result()

    def end(self) -> None:
        self._thread.shutdown()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def workers(world: World) -> Iterator[list[Worker]]:
    made = [Worker(world, processor) for processor in range(3)]
    yield made
    for worker in made:
        worker.end()


def test_nobody_moves_while_the_lock_is_free(workers: list[Worker]) -> None:
    for _ in range(3):
        assert [worker.look(CROWDED - 1) for worker in workers] == [ALL] * 3


def test_all_come_to_the_one_who_notices_and_are_free_after_a_while(
    world: World, workers: list[Worker]
) -> None:
    first, second, third = workers
    assert third.look() == ALL
    assert second.look(CROWDED) == {1}
    assert third.look() == {1}
    assert first.follow() == {1}
    world.now_ns += STAY_NS
    assert [third.look(), second.look(), first.follow()] == [ALL] * 3


def test_what_was_slept_before_the_last_look_does_not_count(
    world: World, workers: list[Worker]
) -> None:
    """Not what came while the worker was gathered, and not what came with large requests."""
    one = workers[0]
    assert one.look(CROWDED) == {0}
    world.now_ns += STAY_NS
    assert one.look(CROWDED) == ALL
    assert one.look() == ALL
    assert one.look(CROWDED, SMALL + 1) == ALL
    assert one.look() == ALL


def test_whoever_has_noticed_once_notices_again(world: World, workers: list[Worker]) -> None:
    one, other = workers[:2]
    assert one.look(CROWDED) == {0}
    world.now_ns += STAY_NS
    assert one.look() == ALL
    assert other.look(CROWDED) == {1}
    assert one.look() == {1}


def test_large_requests_stay_away(workers: list[Worker]) -> None:
    one, other = workers[:2]
    assert one.look(CROWDED, SMALL + 1) == ALL
    assert other.look(CROWDED, SMALL) == {1}
    assert one.look(length=SMALL) == {1}
    assert one.look(length=SMALL + 1) == ALL
    assert other.look() == {1}


def test_each_gets_back_what_it_had(world: World, workers: list[Worker]) -> None:
    world.processors = frozenset({1, 2})
    assert workers[1].look(CROWDED) == {1}
    world.now_ns += STAY_NS
    assert workers[1].look() == {1, 2}


def test_one_processor_is_left_alone(world: World, workers: list[Worker]) -> None:
    world.processors = frozenset({0})
    world.error = OSError("not to be asked")
    assert workers[0].look(CROWDED) == {0}
    world.processors, world.error = ALL, None
    assert workers[0].look(CROWDED) == {0}


@pytest.mark.parametrize("what", ["error", "unknown"])
def test_what_the_system_refuses(world: World, workers: list[Worker], what: str) -> None:
    """A move that is forbidden is not tried again; a processor that is not known may be once."""
    setattr(world, what, OSError(1, "Operation not permitted"))
    assert workers[0].look(CROWDED) == ALL
    assert workers[1].look() == ALL
    setattr(world, what, None)
    assert workers[0].look(CROWDED) == (ALL if what == "error" else {0})


def test_the_calling_thread() -> None:
    def visit() -> tuple[Set[int], Set[int], Set[int]]:
        thread = CallingThread()
        before, sleeps, processor = thread.allowed(), thread.sleeps(), thread.processor()
        while thread.sleeps() == sleeps:
            threading.Event().wait(0.001)
        thread.allow({processor})
        moved, there = thread.allowed(), thread.processor()
        thread.allow(before)
        assert there == processor
        return before, moved, thread.allowed()

    before, moved, after = in_thread(visit)
    assert before == after == os.sched_getaffinity(0)
    assert len(moved) == 1 and moved <= before


def test_who_is_started_by_a_gathered_thread_is_free() -> None:
    """Threads inherit where they may run; those of the pool are started by whoever has work."""
    lanes, everywhere = Lanes(), os.sched_getaffinity(0)
    found: list[Set[int]] = []
    done = threading.Event()

    def work() -> None:
        found.append(os.sched_getaffinity(0))
        done.set()

    def start() -> None:
        os.sched_setaffinity(0, {min(everywhere)})
        assert lanes.submit(work, GENERAL)
        assert done.wait(30)
        be_free()
        found.append(os.sched_getaffinity(0))

    in_thread(start)
    lanes.close()
    assert found == [everywhere] * 2


def test_a_connection_lets_its_workers_look() -> None:
    class Drive:
        shortcut = None
        read_only = False

        def __init__(self) -> None:
            self.slots: list[object] = []

    class Counted(Gathering):
        def look(self, length: int) -> None:
            looks.append(length)

    looks: list[int] = []
    lock = BigLock(SystemClock())
    connection = Connection(1, lock, cast(BlockBackend, Drive()), False, Counted(lock.clock))
    slots = connection.new_slot(), connection.new_slot()
    for number in range(1, 2 * LOOK + 1):
        connection.shortcut_pread(slots[0], 0, memoryview(bytearray(number)))
    for _ in range(LOOK - 1):
        connection.shortcut_pwrite(slots[1], 0, memoryview(b"abc"))
    assert looks == [LOOK, 2 * LOOK]
    connection.shortcut_pwrite(slots[1], 0, memoryview(b"abc"))
    assert looks == [LOOK, 2 * LOOK, 3]


def in_thread(fn: Callable[[], R]) -> R:
    """Return what `fn` returns on a thread of its own, whose processors nobody else has."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(fn).result()
