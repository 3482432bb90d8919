# SPDX-License-Identifier: MIT
"""Jobs that succeed or fail together."""

from __future__ import annotations

from typing import Any

import pytest

from blockcore.job.job_txn import JobTxn
from blockcore.machine.drain import Drain
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import JobStatus
from job_bench import SECOND, Bench, Work, failure
from sim import MemoryNode, add_node

S = JobStatus


def group(bench: Bench, count: int = 2, **more: Any) -> list[Work]:
    """Jobs of one transaction, not started; each on a node of its own."""
    txn = JobTxn(bench.machine)
    jobs = []
    for n in range(1, count + 1):
        node = MemoryNode(NodeOptions(node_name=f"node{n}"), bench.machine, 4096)
        add_node(bench.machine, node, monitor_owned=True)
        jobs.append(bench.new(f"j{n}", txn, node=node, **more))
    return jobs


def test_grouped_success() -> None:
    """All wait for the last one; then all are pending before anything is done."""
    bench = Bench()
    one, two = group(bench)
    two.left, two.delay_ns_ = 1, SECOND
    bench.begin(one.start, two.start)
    assert bench.log[-2:] == ["j1 waiting", "j2 running"]
    bench.sim.run()
    assert bench.log[5:] == [
        *("j2 waiting", "j2 pending", "j1 pending", "j2 prepare", "j1 prepare"),
        *("j2 commit", "j2 clean", "j2 COMPLETED", "j2 concluded", "j2 null"),
        *("j1 commit", "j1 clean", "j1 COMPLETED", "j1 concluded", "j1 null"),
    ]


def test_grouped_failure() -> None:
    """As recorded: transaction-grouped-failure."""
    bench = Bench()
    one, two = group(bench)
    one.left, one.delay_ns_, one.outcome = 1, SECOND, failure()
    two.left, two.delay_ns_ = 5, SECOND
    drain = Drain(bench.machine, bench.machine.graph.nodes.values())
    bench.begin(drain.begin, one.start, two.start)
    bench.begin(drain.end)
    bench.sim.run()
    assert [line for line in bench.log if line[3:] not in ("abort", "clean")] == [
        *("j1 created", "j2 created", "j1 running", "j1 paused", "j2 running", "j2 paused"),
        *("j1 running", "j2 running", "j1 aborting", "j2 aborting"),
        *("j2 CANCELLED", "j2 concluded", "j2 null"),
        *("j1 COMPLETED Input/output error", "j1 concluded", "j1 null"),
    ]


@pytest.mark.parametrize("failing", [0, 1])
def test_grouped_failure_of_the_last_steps(failing: int) -> None:
    bench = Bench()
    jobs = group(bench)
    jobs[failing].failing_prepare = failure()
    bench.do(*(job.start for job in jobs))
    ends = [line for line in bench.log if line.split()[1] in ("COMPLETED", "CANCELLED")]
    wanted = ["j1 CANCELLED", "j2 CANCELLED"]
    wanted[failing] = f"j{failing + 1} COMPLETED Input/output error"
    assert ends == wanted[::-1] and not bench.machine.jobs


def test_grouped_with_one_that_is_not_finalized_by_itself() -> None:
    bench = Bench()
    txn = JobTxn(bench.machine)
    auto, manual = bench.new("auto", txn), bench.new("manual", txn, auto_finalize=False)
    bench.do(auto.start, manual.start)
    assert bench.log[-3:] == ["manual pending", "manual PENDING", "auto pending"]
    bench.command("job-finalize", id="auto")
    assert not bench.machine.jobs and "manual COMPLETED" in bench.log


def test_grouped_cancel_of_a_waiting_one() -> None:
    bench = Bench()
    one, two = group(bench)
    two.left, two.delay_ns_ = 5, SECOND
    bench.begin(one.start, two.start)
    bench.command("job-cancel", id="j1")
    ends = [line for line in bench.log if line.split()[1] in ("COMPLETED", "CANCELLED")]
    assert ends == ["j2 CANCELLED", "j1 CANCELLED"] and not bench.machine.jobs


def test_roll_back() -> None:
    """A transaction's later action has failed: the jobs were created and never began."""
    bench = Bench()
    one, two = group(bench)
    assert isinstance(one.txn, JobTxn)
    bench.do(one.txn.roll_back(), one.txn.roll_back())
    assert [line for line in bench.log if line[3:] not in ("abort", "clean")] == [
        *("j1 created", "j2 created"),
        *("j2 aborting", "j2 concluded", "j2 null", "j1 aborting", "j1 concluded", "j1 null"),
    ]
