# SPDX-License-Identifier: MIT
"""Drained sections: no guest's request is under way, and no job works."""

from __future__ import annotations

from blockcore.job.job_txn import JobTxn
from blockcore.machine.drain import Drain
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import JobStatus
from job_bench import CANCELLED, STARTED, SUCCESS, Bench, Work, in_state, working
from sim import MemoryNode, add_node, pause

S = JobStatus


def test_created_in_a_drained_section() -> None:
    """It begins with a pause, and goes on with the end of the last section that concerns it."""
    bench = Bench()
    drains = [Drain(bench.machine, [bench.node]) for _ in range(2)]
    bench.begin(drains[0].begin, drains[1].begin)
    job = bench.new()
    bench.begin(job.start)
    assert bench.told() == [*STARTED, "paused"] and job.pause_count == 2
    bench.begin(drains[0].end)
    assert job.status is S.PAUSED
    bench.do(drains[1].end)
    assert bench.told() == [*STARTED, "paused", "running", *SUCCESS, "null"]


def test_created_before_a_section_and_started_in_it() -> None:
    bench = Bench()
    job = bench.new()
    drain = Drain(bench.machine, [bench.node])
    bench.begin(drain.begin, job.start)
    assert job.status is S.PAUSED
    bench.do(drain.end)
    assert bench.told()[-1] == "null"


def test_a_section_of_other_nodes_concerns_nobody() -> None:
    bench = Bench()
    other = MemoryNode(NodeOptions(node_name="other"), bench.machine, 4096)
    add_node(bench.machine, other)
    job = working(bench)
    drain = Drain(bench.machine, [other])
    bench.begin(drain.begin, drain.settled())
    assert job.status is S.RUNNING and not job.pause_count and bench.blk.may_run()
    drain.end()


def test_a_section_waits_for_requests_and_jobs() -> None:
    """The guest's request ends, the next one waits; the job's step ends, and it pauses."""
    bench = Bench()
    seen: list[str] = []

    class Slow(Work):
        async def work(self) -> None:
            for _ in range(5):
                await pause()
            seen.append("step")
            await self.pause_point()

    Slow(bench, JobTxn(bench.machine), "job").start()

    async def guest() -> None:
        for number in range(2):
            await bench.blk.pwrite(0, memoryview(bytes(512)))
            seen.append(f"request {number}")

    async def section() -> None:
        async with Drain(bench.machine, [bench.node]):
            seen.append("drained")
            await pause()
            await pause()
            seen.append("over")

    bench.sim.start("guest", guest(), now=True)
    bench.sim.start("section", section(), now=True)
    bench.sim.run()
    assert seen.index("drained") > max(seen.index("request 0"), seen.index("step"))
    assert seen[-1] == "request 1" and seen[-2] == "over"
    assert [line for line in bench.told() if line in ("paused", "running")] == [
        "running",
        "paused",
        "running",
    ]


def test_a_section_of_a_job_itself_does_not_wait_for_it() -> None:
    bench = Bench()
    drain = Drain(bench.machine, [bench.node])
    over: list[bool] = []

    class Drains(Work):
        async def work(self) -> None:
            drain.begin()
            await drain.settled(but=self)
            over.append(True)

    job = Drains(bench, JobTxn(bench.machine), "job", auto_finalize=False)
    bench.do(job.start)
    (info,) = bench.answer("query-block-jobs")
    assert over and info["paused"] and info["status"] == "pending"
    drain.end()


def test_a_job_does_not_wake_in_a_section() -> None:
    """Whoever enters it, as a gentle cancel does; it will notice that afterwards."""
    bench = Bench()
    job = in_state(bench, S.READY)
    drain = Drain(bench.machine, [bench.node])
    bench.begin(drain.begin)
    before = len(bench.log)
    bench.begin(job.enter)
    assert bench.told(before) == []
    bench.begin(drain.end)
    assert bench.told(before) == ["ready"]


def test_a_cancelled_job_does_not_pause() -> None:
    """It was at work when it was cancelled, and then the section does not keep it from its end."""
    bench = Bench()
    drain = Drain(bench.machine, [bench.node])

    class Slow(Work):
        async def work(self) -> None:
            await pause()
            await self.pause_point()

    job = Slow(bench, JobTxn(bench.machine), "job")
    bench.begin(job.start, drain.begin)
    bench.do(job.cancel())
    assert bench.told() == [*STARTED, *CANCELLED, "null"]
    drain.end()
