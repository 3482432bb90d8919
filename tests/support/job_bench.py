# SPDX-License-Identifier: MIT
"""Jobs without any real work, on a bench: what they do is seen step by step."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from blockcore.bql.effects import Until
from blockcore.bql.routine import Timer
from blockcore.job.block_job import BlockJob, BlockJobDriver
from blockcore.job.job_txn import JobTxn
from blockcore.job.options import JobOptions
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.events import (
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    BlockJobReady,
    Event,
    JobStatusChange,
)
from blockcore.qapi.names import JobStatus, JobType, QmpError
from sim import MemoryNode, Sim, add_drive, execute, new_machine, pause

SECOND = 10**9

S = JobStatus

Step = Callable[[], Coroutine[Any, Any, object] | None]


@contextmanager
def graph_held(bench: Bench) -> Iterator[None]:
    """Somebody changes the graph meanwhile."""
    over = False

    async def hold() -> None:
        async with bench.machine.changing.part(bench.machine.graph.nodes.values):
            await Until(lambda: over)

    bench.begin(hold())
    try:
        yield
    finally:
        over = True


def failure(number: int = errno.EIO) -> OSError:
    return OSError(number, os.strerror(number))


class Steps(BlockJobDriver):
    """Takes the steps that a `Work` has."""

    type = JobType.STREAM

    async def run(self, job: BlockJob) -> None:
        assert isinstance(job, Work)
        await job.work()

    async def prepare(self, job: BlockJob) -> None:
        assert isinstance(job, Work)
        job.bench.log.append(f"{job.id} prepare")
        await pause()
        if job.failing_prepare is not None:
            raise job.failing_prepare

    async def commit(self, job: BlockJob) -> None:
        assert isinstance(job, Work)
        job.bench.log.append(f"{job.id} commit")

    async def abort(self, job: BlockJob) -> None:
        assert isinstance(job, Work)
        job.bench.log.append(f"{job.id} abort")

    async def clean(self, job: BlockJob) -> None:
        assert isinstance(job, Work)
        job.bench.log.append(f"{job.id} clean")
        await pause()

    def cancel(self, job: BlockJob, force: bool) -> bool:
        assert isinstance(job, Work)
        return force or not (job.gets_ready and job.is_ready)

    def complete(self, job: BlockJob) -> bool:
        assert isinstance(job, Work)
        job.completed_by_user = True
        return True


class Work(BlockJob):
    """Takes steps as long as `left` says, each after a sleep of `delay_ns`.

    `outcome` and `failing_prepare` are what the work and `prepare` raise;
    `gets_ready`: it becomes ready in the end and waits to be completed.
    """

    def __init__(self, bench: Bench, txn: JobTxn, job_id: str | None, **more: Any) -> None:
        self.bench = bench
        self.left = 0
        self.delay_ns_ = 0
        self.outcome: OSError | None = None
        self.failing_prepare: OSError | None = None
        self.gets_ready = False
        self.completed_by_user = False
        self.steps: list[int] = []
        node = more.pop("node", bench.node)
        needs = {name: more.pop(name) for name in ("perm", "shared") if name in more}
        options = JobOptions(job_id=job_id, **more)
        super().__init__(bench.machine, Steps(), txn, node, options, **needs)

    async def work(self) -> None:
        while self.left:
            await self.sleep(self.delay_ns_)
            if self.is_cancelled:
                return
            self.left -= 1
            self.steps.append(self.bench.sim.now_ns)
        if self.outcome is not None:
            raise self.outcome
        if self.gets_ready:
            await self.become_ready()
            while not (self.completed_by_user or self.cancel_requested):
                await self.wait()


class Bench:
    """A machine with a drive; `log` has all events of jobs and the steps of their ends."""

    def __init__(self) -> None:
        self.sim = Sim(1)
        self.sim.be_orderly()
        self.machine: Machine = new_machine(self.sim)
        self.node = MemoryNode(NodeOptions(node_name="node"), self.machine, 4096)
        self.blk = add_drive(self.machine, self.node, "vda")
        self.log: list[str] = []
        self._count = 0
        self.machine.listeners.append(self._event)

    def _event(self, event: Event, now_ns: int) -> None:
        match event:
            case JobStatusChange():
                self.log.append(f"{event.id} {event.status}")
            case BlockJobCompleted():
                self.log.append(f"{event.device} COMPLETED {event.error or ''}".rstrip())
            case BlockJobCancelled():
                self.log.append(f"{event.device} CANCELLED")
            case BlockJobReady():
                self.log.append(f"{event.device} READY")
            case BlockJobPending():
                self.log.append(f"{event.id} PENDING")
            case BlockJobError():
                self.log.append(f"{event.device} ERROR {event.action}")

    def new(self, job_id: str = "job", txn: JobTxn | None = None, **more: Any) -> Work:
        return Work(self, txn or JobTxn(self.machine), job_id, **more)

    def begin(self, *steps: Step | Coroutine[Any, Any, object]) -> None:
        """Take steps under the lock, one after the other; everything else stands still."""

        async def take() -> None:
            for step in steps:
                done = step if isinstance(step, Coroutine) else step()
                if done is not None:
                    await done

        self._count += 1
        self.sim.start(f"steps {self._count}", take(), now=True)

    def do(self, *steps: Step | Coroutine[Any, Any, object]) -> None:
        """The same, and then let everything go on."""
        self.begin(*steps)
        self.sim.run()

    def refused(self, name: str, **arguments: Any) -> str:
        """What a command is refused with."""
        said: list[str] = []

        async def ask() -> None:
            try:
                await execute(self.machine, name, **arguments)
            except QmpError as exc:
                said.append(exc.desc)

        self.sim.start(name, ask(), now=True)
        self.sim.run()
        (desc,) = said
        return desc

    def answer(self, name: str) -> Any:
        """What a query answers."""
        got: list[Any] = []

        async def ask() -> None:
            got.append(await execute(self.machine, name))

        self.do(ask())
        return got[0]

    def command(self, name: str, **arguments: Any) -> None:
        self.do(execute(self.machine, name, **arguments))

    def told(self, start: int = 0) -> list[str]:
        """The log without the names of the only job."""
        return [line.removeprefix("job ") for line in self.log[start:]]


STARTED = ["created", "running"]
SUCCESS = ["waiting", "pending", "prepare", "commit", "clean", "COMPLETED", "concluded"]


CANCELLED = ["aborting", "abort", "clean", "CANCELLED", "concluded"]


def working(bench: Bench, **more: Any) -> Work:
    """A job that takes a step each second, and is in its first sleep."""
    job = bench.new(**more)
    job.left, job.delay_ns_ = 5, SECOND
    bench.begin(job.start)
    return job


def at(bench: Bench, seconds: float) -> None:
    """Let time pass up to here."""
    moment = int(seconds * SECOND) + 1
    bench.sim.call_at(moment, Timer(lambda: None))
    bench.sim.run(lambda: bench.sim.now_ns >= moment)


def in_state(bench: Bench, state: JobStatus) -> Work:
    """A job in this state, which stays there."""
    job = bench.new(auto_finalize=state is not S.PENDING, auto_dismiss=False)
    if state is S.CREATED:
        return job
    if state in (S.READY, S.STANDBY):
        job.gets_ready = True
        bench.do(job.start)
    elif state in (S.RUNNING, S.PAUSED):
        job.left, job.delay_ns_ = 5, SECOND
        bench.begin(job.start)
    else:
        bench.do(job.start)
    if state in (S.PAUSED, S.STANDBY):
        bench.begin(job.user_pause)
    assert job.status is state
    return job
