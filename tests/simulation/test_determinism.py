# SPDX-License-Identifier: MIT
"""The same work gets the same faults: at any depth, in any order, after stops, beside a job."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, NamedTuple

import pytest

from blockcore.bql.routine import LoopRoutine
from blockcore.drive.block_backend import BlockBackend
from blockcore.faults.dice import BLOCK
from blockcore.faults.options import Go, Request
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.events import Event, Stop
from sim import Every, MemoryNode, Sim, add_drive, execute, new_machine, pause

BLOCKS = 12
TOUCHES = 6
SEED = 5

RULES: list[dict[str, Any]] = [
    {"id": "flaky", "iotype": ["read", "write"], "rate": 0.2},
    {"id": "torn", "action": "torn", "keep": "random", "errno": 0, "rate": 0.3},
    {"id": "slow", "action": "delay", "delay-ms": 5, "jitter-ms": 5, "rate": 0.3},
    {"id": "stale", "action": "corrupt", "how": "stale", "rate": 0.2},
    {"id": "rot", "action": "corrupt", "how": "flip", "bits": 3, "rate": 0.4},
]

Touch = tuple[str, int, int]
"""The kind of a request, its block, and its number among those of that kind and block."""


class Task(NamedTuple):
    kind: str
    block: int
    number: int


def work() -> list[Task]:
    """Reads and writes of each block, always in the same order of a block's own."""
    blocks = [block for block in range(BLOCKS) for _ in range(TOUCHES)]
    dice = Random(SEED)
    dice.shuffle(blocks)
    return [Task(dice.choice(("read", "write")), at, n) for n, at in enumerate(blocks)]


class Disk(MemoryNode):
    """Knows which requests of guests have failed."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(NodeOptions(node_name="disk"), machine, BLOCKS * BLOCK)
        self.touches: Counter[tuple[str, int]] = Counter()
        self.failed: set[Touch] = set()

    async def perform(self, request: Request, go: Go[Any] | None = None) -> Any:
        place = str(request.iotype), request.offset // BLOCK
        nth = None
        if self._host.asker().connection:
            self.touches[place] += 1
            nth = self.touches[place]
        try:
            return await super().perform(request, go)
        except OSError:
            if nth is not None:
                self.failed.add((*place, nth))
            raise


class World:
    """A machine of one seed under a schedule of another; guests that share the work."""

    def __init__(self, schedule: int, policy: str = "report") -> None:
        self.sim = Sim(schedule)
        self.machine = new_machine(self.sim)
        self.machine.seed = SEED
        self.disk = Disk(self.machine)
        self.blk: BlockBackend = add_drive(self.machine, self.disk, rerror=policy, werror=policy)
        self.left = work()
        self.busy: set[int] = set()
        self.done = 0
        self.read: set[tuple[Task, bytes]] = set()
        self.machine.listeners.append(self._event)
        self.sim.start("rules", self._add_rules(), now=True)

    async def _add_rules(self) -> None:
        for rule in RULES:
            await execute(self.machine, "x-fault-add", **{"node-name": "disk", **rule})

    def _event(self, event: Event, now_ns: int) -> None:
        if isinstance(event, Stop):
            self.sim.start("cont", self._cont())

    async def _cont(self) -> None:
        await execute(self.machine, "cont")

    def start_guest(self, number: int) -> None:
        """Start a guest with a connection of its own."""
        lock = self.sim.lock
        name = f"guest {number}"

        def ended(routine: Any) -> None:
            self.sim.running.pop(name, None)
            assert routine.error is None, self.sim.story()

        with lock.region():
            routine = LoopRoutine(self._guest(), lock, ended)
            routine.asker.connection = number
            self.sim.running[name] = routine
            lock.advance(routine)

    async def _guest(self) -> None:
        """Take the next request to a block that nobody is busy with, until there is none left."""
        while self.left:
            await pause()
            found = (at for at, task in enumerate(self.left) if task.block not in self.busy)
            at = next(found, None)
            if at is None:
                continue
            task = self.left.pop(at)
            self.busy.add(task.block)
            await self._request(task)
            self.busy.remove(task.block)
            self.done += 1

    async def _request(self, task: Task) -> None:
        if task.kind == "write":
            data = memoryview(bytes([task.number + 1]) * BLOCK)
            try:
                await self.blk.pwrite(task.block * BLOCK, data, False)
            except OSError:
                return
        else:
            buf = memoryview(bytearray(BLOCK))
            try:
                await self.blk.pread(task.block * BLOCK, buf)
            except OSError:
                return
            self.read.add((task, bytes(buf)))

    async def job(self) -> None:
        """Read the disk as a job does, some blocks twice."""
        for number in range(2 * BLOCKS):
            await pause()
            try:
                await self.disk.pread(number * 5 % BLOCKS * BLOCK, memoryview(bytearray(BLOCK)))
            except OSError:
                continue


def played(depth: int, schedule: int, policy: str = "report", *, job: bool = False) -> World:
    """Let `depth` guests do the work."""
    world = World(schedule, policy)
    for number in range(depth):
        world.start_guest(number + 1)
    if job:
        world.sim.start("job", world.job())
    world.sim.run()
    assert world.done == len(work()), world.sim.story()
    return world


@pytest.mark.parametrize("job", [False, True], ids=["alone", "beside a job"])
@pytest.mark.parametrize("policy", ["report", "stop"])
def test_any_depth_and_order(policy: str, job: bool) -> None:
    """What fails, what is on the disk, and what was read of it, to the byte."""
    one = played(1, 0, policy)
    assert len(one.disk.failed) > 5
    assert one.disk.data != World(0).disk.data
    for depth in (1, 3, BLOCKS):
        for schedule in range(3):
            other = played(depth, schedule, policy, job=job)
            assert other.disk.failed == one.disk.failed, other.sim.story()
            assert other.disk.touches == one.disk.touches
            assert other.disk.data == one.disk.data
            assert other.read == one.read


def test_another_seed_makes_other_faults() -> None:
    one, other = played(3, 0), World(0)
    other.machine.seed = SEED + 1
    for rule in other.disk.injector().rules:
        other.disk.injector().renew(rule, rule.options)
    other.start_guest(1)
    other.sim.run()
    assert other.disk.failed != one.disk.failed


def test_requests_that_are_in_flight_together_in_a_block() -> None:
    """Which of them is the first touch is chance; what becomes of the first touch is not."""
    found = set()
    for choose in Every():
        sim = Sim(choose)
        machine = new_machine(sim)
        machine.seed = SEED
        disk = MemoryNode(NodeOptions(node_name="disk"), machine, BLOCK)

        async def add(machine: Machine = machine) -> None:
            torn = {"action": "torn", "keep": "random", "errno": 0, "rate": 0.99}
            watching = {"action": "corrupt", "how": "stale", "after": 1}
            for rule in (torn, watching):
                await execute(machine, "x-fault-add", **{"node-name": "disk", **rule})

        add_drive(machine, disk)
        sim.start("rules", add(), now=True)
        for name, half in (("a", 0), ("b", BLOCK // 2)):
            sim.start(name, disk.pwrite(half, memoryview(name.encode() * (BLOCK // 2))))
        sim.run()
        halves = bytes(disk.data[: BLOCK // 2]), bytes(disk.data[BLOCK // 2 :])
        found.add(frozenset(half.replace(b"b", b"a") for half in halves))
    assert len(found) == 1
