# SPDX-License-Identifier: MIT
"""Grouped backups of two drives under random schedules: both succeed, or neither does."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

import pytest

from blockcore.job.block_job import BlockJob
from blockcore.machine.graph_changes import changing_graph
from blockcore.nodes.definitions.options import BlockdevOptionsFile
from blockcore.qapi.events import BlockJobCancelled, BlockJobCompleted, Event, JobStatusChange
from blockcore.qapi.names import JobStatus, QmpError
from blockcore.rules.job_status import JOB_TRANSITIONS
from job_kinds import FILLER, KIB, SIZE, Flat, base_data
from job_world import Script
from qcow2_images import options
from sim import Sim, add_drive, add_node, execute, new_machine, pause

SEEDS = int(os.environ.get("FAULTLINE_SEEDS", "40")) * 5

DRIVES = range(2)

STEPS_MAX = 50


class Group:
    """A machine with two drives `vd0` and `vd1`, and a job on each, `j0` and `j1`."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.machine = new_machine(sim)
        self.machine.job_error_check_modern = True
        self.number = 0
        self.rate = 0.0
        self.acting: set[str] = set()
        self.status: dict[str, JobStatus] = {}
        self.ends: dict[str, Event] = {}
        self.points: dict[str, bytes] = {}
        self.sources = [self._disk(f"src{n}", base_data()) for n in DRIVES]
        self.targets = [self._disk(f"dst{n}", bytes([FILLER]) * SIZE) for n in DRIVES]
        self.drives = [
            add_drive(self.machine, node, f"vd{n}") for n, node in enumerate(self.sources)
        ]
        self.machine.listeners.append(self._event)

    def _disk(self, name: str, data: bytes) -> Flat:
        node = Flat(options(name), self.machine, SIZE, partial(self._on_io, name))
        node.definition = BlockdevOptionsFile(driver="file", filename=f"/{name}")
        node.data[:] = data
        add_node(self.machine, node, monitor_owned=True)
        return node

    def _on_io(self, disk: str, what: str) -> None:
        fails = self.sim.random.random() < self.rate
        self.sim.note(f"{disk}: {what}{' fails' * fails}")
        if fails:
            raise OSError(self.number, "injected")

    def require(self, truth: bool, rule: str) -> None:
        if not truth:
            raise AssertionError(f"{rule}\n{self.sim.story()}")

    def _event(self, event: Event, now_ns: int) -> None:
        self.sim.note(f"<- {event}")
        if isinstance(event, BlockJobCompleted | BlockJobCancelled):
            self.require(event.device not in self.ends, "one end of each job")
            self.ends[event.device] = event
        elif isinstance(event, JobStatusChange):
            old = self.status.get(event.id, JobStatus.UNDEFINED)
            self.require(event.status in JOB_TRANSITIONS[old], f"{event.status} follows {old}")
            self.status[event.id] = event.status
            number = int(event.id[1:])
            if event.status is JobStatus.CREATED:
                self.points[event.id] = bytes(self.sources[number].data)
            elif event.status is JobStatus.WAITING:
                same = self.targets[number].data == self.points[event.id]
                self.require(same, f"{event.id} has kept the moment")
            elif event.status is JobStatus.PENDING:
                others = set(self.status.values()) - {JobStatus.PENDING, JobStatus.WAITING}
                self.require(not others, "nobody is pending before all have done their work")

    def act(self, name: str, coro: Any) -> None:
        async def until_end() -> None:
            await coro
            self.acting.discard(name)

        self.acting.add(name)
        self.sim.start(name, until_end())

    async def administrate(self, script: Script) -> None:
        for name, arguments in script:
            await pause()
            await self.command(name, **arguments)

    async def command(self, name: str, **arguments: Any) -> None:
        self.sim.note(f"-> {name} {arguments}")
        try:
            if name == "hold the graph":
                async with changing_graph(self.machine, *self.machine.graph.nodes):
                    for _ in range(10):
                        await pause()
            else:
                await execute(self.machine, name, **arguments)
        except QmpError as exc:
            self.sim.note(f"{name}: {exc.desc}")

    async def guest(self, number: int) -> None:
        random = self.sim.random
        for _ in range(5):
            await pause()
            buf = memoryview(bytes([200 + random.randrange(50)]) * (4 * KIB))
            try:
                await self.drives[number].pwrite(random.randrange(SIZE // len(buf)) * len(buf), buf)
            except OSError:
                continue

    def run(self) -> None:
        self.sim.run(lambda: not self.acting)
        self.require(not self.acting, f"{self.acting} never end")

    def settle(self) -> None:
        """Bring the jobs to their ends."""
        self.sim.be_orderly()
        self.rate = 0.0
        for _ in range(STEPS_MAX):
            self.do("cont")
            self.sim.run(lambda: not self.machine.jobs or self._next() is not None)
            wanted = self._next()
            if wanted is None:
                break
            self.do(wanted[0], id=wanted[1].id)
        self.sim.run()
        self.require(not self.machine.jobs, "the jobs hang")

    def do(self, name: str, **arguments: Any) -> None:
        self.act(name, self.command(name, **arguments))
        self.run()

    def _next(self) -> tuple[str, BlockJob] | None:
        for job in self.machine.jobs:
            if job.user_paused and job.status is JobStatus.PAUSED:
                return "job-resume", job
            if job.status is JobStatus.CONCLUDED and not job.auto_dismiss:
                return "job-dismiss", job
        for job in self.machine.jobs:
            undisturbed = not job.txn.finalizing and not job.is_cancelled
            if job.status is JobStatus.PENDING and not job.auto_finalize and undisturbed:
                return "job-finalize", job
        return None

    def check(self) -> None:
        if not self.ends:
            return
        well = [
            isinstance(end, BlockJobCompleted) and end.error is None for end in self.ends.values()
        ]
        self.require(len(well) == len(DRIVES) and len(set(well)) == 1, "both or none")
        for node in self.machine.graph.nodes.values():
            users = [one for one in node.parents if one not in self.drives]
            self.require(not users and not list(node.bitmaps), f"{node.node_name} is as before")
        self.require(len(self.machine.graph.nodes) == 2 * len(DRIVES), "no filter is left")
        self.require(all(blk.quiet() and blk.may_run() for blk in self.drives), "guests go on")
        waiting = set(self.sim.running) - {"stop on error", "flush after stop"}
        self.require(not waiting, f"{waiting} never end")


COMMANDS: Script = [
    *(2 * [("job-pause", {})]),
    *(3 * [("job-resume", {})]),
    *(2 * [("job-finalize", {})]),
    ("job-dismiss", {}),
    ("job-cancel", {}),
    *(3 * [("hold the graph", {"steps": 10})]),
    ("stop", {}),
    *(2 * [("cont", {})]),
    ("query-block-jobs", {}),
]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_seeds(seed: int) -> None:
    sim = Sim(seed)
    choice = sim.random.choice
    world = Group(sim)
    world.number, world.rate = choice([errno.EIO, errno.ENOSPC]), choice([0.0, 0.0, 0.1])
    jobs = [
        {
            "type": "blockdev-backup",
            "data": {
                "job-id": f"j{n}",
                "device": f"vd{n}",
                "target": f"dst{n}",
                "sync": "full",
                "speed": choice([0, 0, 1 << 20]),
                "on-source-error": choice(["report", "stop", "ignore"]),
                "on-target-error": choice(["report", "stop", "enospc"]),
                "auto-finalize": choice([True, False]),
                "auto-dismiss": choice([True, False]),
            },
        }
        for n in DRIVES
    ]
    more = {"actions": jobs, "properties": {"completion-mode": "grouped"}}
    if choice([False, False, True]):
        jobs.append({"type": "abort", "data": {}})
    for n in DRIVES:
        sim.start(f"guest {n}", world.guest(n))
    world.act("the start", world.command("transaction", **more))
    for admin in range(2):
        script: Script = []
        for _ in range(8):
            name, arguments = choice(COMMANDS)
            named = name.startswith("job-")
            script.append((name, {"id": choice(["j0", "j1"])} if named else arguments))
        world.act(f"admin {admin}", world.administrate(script))
    world.run()
    world.settle()
    world.check()
