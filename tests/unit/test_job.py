# SPDX-License-Identifier: MIT
"""The life cycle of jobs, and who makes them pause, without any real work."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from blockcore.job.job_txn import JobTxn
from blockcore.machine.drain import Drain
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import NONE, Perm
from blockcore.qapi.names import (
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobStatus,
    QmpError,
)
from job_bench import (
    CANCELLED,
    SECOND,
    STARTED,
    SUCCESS,
    Bench,
    Work,
    at,
    failure,
    graph_held,
    in_state,
    working,
)
from sim import MemoryNode, add_node, pause

S = JobStatus


def test_success() -> None:
    bench = Bench()
    job = bench.new()
    job.left = 2
    bench.do(job.start)
    assert bench.told() == [*STARTED, *SUCCESS, "null"]
    assert not bench.machine.jobs and bench.node.op_blockers.reason(BlockOpType.RESIZE) is None
    assert bench.node.parents == [bench.blk]


@pytest.mark.parametrize("auto_finalize", [True, False])
def test_failure(auto_finalize: bool) -> None:
    """Nobody is asked to finalize what has failed."""
    bench = Bench()
    job = bench.new(auto_finalize=auto_finalize)
    job.outcome = failure()
    bench.do(job.start)
    end = ["aborting", "abort", "clean", "COMPLETED Input/output error", "concluded", "null"]
    assert bench.told() == [*STARTED, *end]


def test_failure_of_the_last_steps() -> None:
    bench = Bench()
    job = bench.new()
    job.failing_prepare = failure(errno.EPERM)
    bench.do(job.start)
    end = ["aborting", "abort", "clean", "COMPLETED Operation not permitted", "concluded", "null"]
    assert bench.told() == [*STARTED, *SUCCESS[:3], *end]


def test_finalized_and_dismissed_by_hand() -> None:
    bench = Bench()
    job = bench.new(auto_finalize=False, auto_dismiss=False)
    bench.do(job.start)
    assert bench.told() == [*STARTED, "waiting", "pending", "PENDING"]
    bench.command("job-finalize", id="job")
    assert bench.told() == [*STARTED, "waiting", "pending", "PENDING", *SUCCESS[2:]]
    assert bench.machine.jobs == [job]
    assert bench.refused("block_resize", device="vda", size=8192) == (
        "Node 'vda' is busy: block device is in use by block job: stream"
    )
    bench.command("block-job-dismiss", id="job")
    assert bench.told()[-1] == "null" and not bench.machine.jobs
    assert bench.node.parents == [bench.blk]


def test_what_a_concluded_job_tells() -> None:
    bench = Bench()
    job = bench.new(auto_dismiss=False)
    job.outcome = failure(errno.ENOSPC)
    bench.do(job.start)
    (info,) = bench.answer("query-jobs")
    assert info["status"] == "concluded" and info["error"] == "No space left on device"
    (info,) = bench.answer("query-block-jobs")
    assert info["error"] == "No space left on device" and not info["busy"]


def test_created_paused_means_started_paused() -> None:
    bench = Bench()
    job = bench.new()
    job.user_pause()
    bench.do(job.start)
    assert bench.told() == [*STARTED, "paused"]
    bench.do(job.user_resume)
    assert bench.told() == [*STARTED, "paused", "running", *SUCCESS, "null"]


def test_a_pause_ends_a_sleep() -> None:
    """A resumed job does not sleep the rest of it (in QEMU 7.2 one chunk more passes)."""
    bench = Bench()
    job = working(bench)
    at(bench, 0.25)
    bench.begin(job.user_pause)
    assert bench.told() == [*STARTED, "paused"] and job.steps == []
    at(bench, 10)
    bench.begin(job.user_resume)
    assert bench.told() == [*STARTED, "paused", "running"]
    assert job.steps == [10 * SECOND + 1]
    at(bench, 10.5)
    assert len(job.steps) == 1
    at(bench, 11.5)
    assert len(job.steps) == 2


def test_one_who_wants_a_pause_is_enough() -> None:
    """A user, an error and two drained sections, in every order of their ends."""
    for order in range(24):
        bench = Bench()
        job = working(bench)
        drains = [Drain(bench.machine, [bench.node]) for _ in range(2)]
        ends: list[Callable[[], None]] = [job.user_resume, *(drain.end for drain in drains)]
        bench.begin(job.user_pause, drains[0].begin, drains[1].begin)
        fail = (BlockdevOnError.STOP, IoOperationType.READ, errno.ENOSPC)
        assert job.error_action(*fail) is BlockErrorAction.STOP
        assert job.pause_count == 3 and job.iostatus == "nospace"
        assert bench.told()[-2:] == ["paused", "ERROR stop"]
        for count in range(3, 0, -1):
            assert job.pause_count == count and job.status is S.PAUSED
            bench.begin(ends.pop(order % count))
        assert job.status is S.RUNNING and not job.user_paused
        assert job.iostatus == "ok"


def test_an_error_pauses_as_a_user_does() -> None:
    bench = Bench()
    job = working(bench)

    def fail() -> None:
        for _ in range(2):
            job.error_action(BlockdevOnError.STOP, IoOperationType.WRITE, errno.EIO)

    bench.begin(fail)
    assert bench.told() == [*STARTED, "ERROR stop", "ERROR stop", "paused"]
    assert job.user_paused and job.pause_count == 1
    assert job.iostatus == "failed"
    assert bench.refused("job-pause", id="job") == "Job is already paused"
    said = "The block job for device 'job' is currently paused"
    assert bench.refused("block-job-cancel", device="job") == said
    bench.machine.cont()
    assert job.iostatus == "ok" and job.status == "paused"
    bench.begin(job.user_resume)
    assert job.status == "running" and job.pause_count == 0
    again = bench.refused("job-resume", id="job")
    assert again == "Can't resume a job that was not paused"


@pytest.mark.parametrize(
    ("policy", "number", "action", "iostatus"),
    [
        ("report", errno.EIO, "report", "ok"),
        ("ignore", errno.ENOSPC, "ignore", "ok"),
        ("stop", errno.ENOSPC, "stop", "nospace"),
        ("stop", errno.EIO, "stop", "failed"),
        ("enospc", errno.ENOSPC, "stop", "nospace"),
        ("enospc", errno.EIO, "report", "ok"),
        ("auto", errno.ENOSPC, "stop", "nospace"),
        ("auto", errno.EIO, "report", "ok"),
    ],
)
def test_policies(policy: str, number: int, action: str, iostatus: str) -> None:
    bench = Bench()
    job = working(bench)
    made = job.error_action(BlockdevOnError(policy), IoOperationType.READ, number)
    assert made == action and job.iostatus == iostatus
    assert bench.told()[2:] == [f"ERROR {action}"]
    assert job.user_paused is (action == "stop")


def test_the_first_error_stays_the_io_status() -> None:
    bench = Bench()
    job = working(bench)
    for number in (errno.ENOSPC, errno.EIO):
        job.error_action(BlockdevOnError.STOP, IoOperationType.READ, number)
    assert job.iostatus == "nospace"


def test_a_paused_ready_job_is_in_standby() -> None:
    bench = Bench()
    job = bench.new()
    job.gets_ready = True
    bench.do(job.start)
    bench.do(job.user_pause)
    bench.do(job.user_complete)
    assert bench.told() == [*STARTED, "ready", "READY", "standby"]
    bench.do(job.user_resume)
    assert bench.told()[5:] == ["ready", *SUCCESS, "null"]


@pytest.mark.parametrize(("speed", "woken"), [(0, True), (2000, True), (1000, False), (10, False)])
def test_a_higher_speed_ends_a_sleep(speed: int, woken: bool) -> None:
    bench = Bench()
    job = working(bench, speed=1000)
    at(bench, 0.25)
    bench.begin(lambda: job.set_speed(speed))
    assert len(job.steps) == woken and job.limit.speed == speed


def test_speed_of_an_ended_job() -> None:
    bench = Bench()
    job = bench.new(auto_finalize=False)
    bench.do(job.start)
    said = "Job 'job' in state 'pending' cannot accept command verb 'set-speed'"
    assert bench.refused("block-job-set-speed", device="job", speed=1) == said


def test_a_job_that_never_waits_lets_others_go_first() -> None:
    bench = Bench()
    job = bench.new()
    job.left = 1000
    calls: list[int] = []

    async def other() -> None:
        while job.left:
            calls.append(job.left)
            await pause()

    bench.begin(job.start)
    bench.sim.start("other", other(), now=True)
    bench.sim.run()
    assert len(calls) > 20


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        (S.CREATED, ["aborting", "abort", "clean", "concluded", "null"]),
        (S.RUNNING, CANCELLED),
        (S.PAUSED, ["running", *CANCELLED]),
        (S.READY, CANCELLED),
        (S.STANDBY, ["ready", *CANCELLED]),
        (S.PENDING, CANCELLED),
    ],
)
def test_cancelled_at_once(state: JobStatus, ends: list[str]) -> None:
    """One that has not started is not heard of any more, whatever its user wants."""
    bench = Bench()
    job = in_state(bench, state)
    before = len(bench.log)
    bench.command("job-cancel", id="job")
    assert bench.told(before) == ends
    assert job.error_text == "Operation canceled" and not job.user_paused
    assert job.pause_count == (state is S.CREATED)


def test_cancelled_in_a_drained_section() -> None:
    """Nobody waits for the end of the section, as whoever drains waits for nobody's end."""
    bench = Bench()
    job = in_state(bench, S.RUNNING)
    drain = Drain(bench.machine, [bench.node])
    bench.begin(drain.begin)
    before = len(bench.log)
    bench.do(job.cancel())
    assert bench.told(before) == ["running", *CANCELLED]
    drain.end()


@pytest.mark.parametrize("state", [S.CONCLUDED, S.NULL])
def test_too_late_to_cancel(state: JobStatus) -> None:
    bench = Bench()
    job = in_state(bench, S.CONCLUDED)
    if state is S.NULL:
        job.dismiss()
        assert bench.refused("job-cancel", id="job") == "Job not found"
        said = bench.refused("block-job-cancel", device="job")
        assert said == "Block job 'job' not found"
        return
    said = "Job 'job' in state 'concluded' cannot accept command verb 'cancel'"
    assert bench.refused("job-cancel", id="job") == said


@pytest.mark.parametrize("state", [S.RUNNING, S.PENDING])
def test_gently_is_at_once_unless_a_job_is_ready(state: JobStatus) -> None:
    bench = Bench()
    in_state(bench, state)
    before = len(bench.log)
    bench.command("block-job-cancel", device="job")
    assert bench.told(before) == CANCELLED


def test_gently_lets_a_ready_job_finish() -> None:
    bench = Bench()
    job = in_state(bench, S.READY)
    before = len(bench.log)
    bench.command("block-job-cancel", device="job")
    assert bench.told(before) == SUCCESS and not job.is_cancelled


def test_who_cancels_gently_cannot_complete() -> None:
    bench = Bench()
    job = in_state(bench, S.READY)
    job.cancel_requested = True
    said = "The active block job 'job' cannot be completed"
    assert bench.refused("job-complete", id="job") == said


def test_cancelled_while_others_change_the_graph() -> None:
    """The last steps wait for them; they are not those of success any more."""
    bench = Bench()
    job = bench.new()
    with graph_held(bench):
        bench.begin(job.start)
        bench.sim.run()
        assert job.status is S.PENDING
        bench.begin(job.cancel)
        bench.sim.run()
    bench.sim.lock.poke()
    bench.sim.run()
    assert bench.told() == [*STARTED, "waiting", "pending", *CANCELLED, "null"]


def test_cancelled_before_its_turn_to_be_finalized() -> None:
    bench = Bench()
    txn = JobTxn(bench.machine)
    jobs = [bench.new(f"j{n}", txn, auto_finalize=False) for n in range(3)]
    bench.do(*(job.start for job in jobs))
    bench.log.clear()
    with graph_held(bench):
        bench.begin(jobs[1].cancel)
        bench.begin(txn.finalize)
        bench.begin(jobs[0].cancel)
        bench.sim.run()
    bench.sim.lock.poke()
    bench.sim.run()
    end = ["aborting", "abort", "clean", "CANCELLED", "concluded", "null"]
    assert bench.log == [f"j{n} {what}" for n in (2, 1, 0) for what in end]


@pytest.mark.parametrize("job_id", ["", "0", "-a", "a b", "ä", "#block"])
def test_bad_ids(job_id: str) -> None:
    bench = Bench()
    with pytest.raises(QmpError, match=f"^Invalid job ID '{job_id}'$"):
        bench.new(job_id)
    assert not bench.log and not bench.machine.jobs


def test_the_id_is_the_drives_name_unless_given() -> None:
    bench = Bench()
    assert Work(bench, JobTxn(bench.machine), None).id == "vda"
    with pytest.raises(QmpError, match="^Job ID 'vda' already in use$"):
        bench.new("vda")
    other = MemoryNode(NodeOptions(node_name="other"), bench.machine, 4096)
    add_node(bench.machine, other)
    with pytest.raises(QmpError, match="^Invalid job ID ''$"):
        Work(bench, JobTxn(bench.machine), None, node=other)


def test_a_speed_below_zero() -> None:
    bench = Bench()
    with pytest.raises(QmpError, match="^Parameter 'speed' expects a non-negative value$"):
        bench.new(speed=-1)
    assert bench.told() == ["created", "null"]
    check_untouched(bench)


def test_a_node_that_cannot_be_shared() -> None:
    bench = Bench()
    with pytest.raises(QmpError, match="^Permission conflict on node 'node'"):
        bench.new(perm=Perm.CONSISTENT_READ, shared=NONE)
    assert bench.told() == ["created", "null"]
    check_untouched(bench)


def check_untouched(bench: Bench) -> None:
    assert not bench.machine.jobs and bench.node.parents == [bench.blk]
    assert bench.node.op_blockers.reason(BlockOpType.RESIZE) is None


def test_a_job_blocks_its_nodes() -> None:
    bench = Bench()
    job = working(bench)
    for op in BlockOpType:
        assert bench.node.op_blockers.reason(op) == "block device is in use by block job: stream"
    job.remove_node(bench.node)
    job.remove_node(bench.node)
    assert bench.node.op_blockers.reason(BlockOpType.RESIZE) is None
