"""The life cycle of jobs, who makes them pause, and transactions, without any real work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sim import MemoryNode, Sim, add_drive, add_node, execute, new_machine, pause

from blockcore.block_job import BlockJob
from blockcore.drain import Drain, drained
from blockcore.events import (
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    BlockJobReady,
    Event,
    JobStatusChange,
)
from blockcore.job_txn import JobTxn
from blockcore.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import NONE, Perm
from blockcore.qapi import (
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobStatus,
    JobType,
    QmpError,
)

SECOND = 10**9

S = JobStatus

Step = Callable[[], Coroutine[Any, Any, None] | None]


def failure(number: int = errno.EIO) -> OSError:
    return OSError(number, os.strerror(number))


class Work(BlockJob):
    """Takes steps as long as `left` says, each after a sleep of `delay_ns`.

    `outcome` and `failing_prepare` are what the work and `prepare` raise;
    `gets_ready`: it becomes ready in the end and waits to be completed.
    """

    type = JobType.STREAM

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
        super().__init__(bench.machine, txn, job_id, node, **more)

    async def run(self) -> None:
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

    async def prepare(self) -> None:
        self.bench.log.append(f"{self.id} prepare")
        await pause()
        if self.failing_prepare is not None:
            raise self.failing_prepare

    async def commit(self) -> None:
        self.bench.log.append(f"{self.id} commit")

    async def abort(self) -> None:
        self.bench.log.append(f"{self.id} abort")

    async def clean(self) -> None:
        self.bench.log.append(f"{self.id} clean")
        await pause()

    def on_cancel(self, force: bool) -> bool:
        return force or not (self.gets_ready and self.is_ready)

    def on_complete(self) -> None:
        self.completed_by_user = True


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

    def begin(self, *steps: Step | Coroutine[Any, Any, None]) -> None:
        """Take steps under the lock, one after the other; everything else stands still."""

        async def take() -> None:
            for step in steps:
                done = step if isinstance(step, Coroutine) else step()
                if done is not None:
                    await done

        self._count += 1
        self.sim.start(f"steps {self._count}", take(), now=True)

    def do(self, *steps: Step | Coroutine[Any, Any, None]) -> None:
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
    assert bench.refused("block_resize", device="vda", size=8192) == "Device 'vda' is in use"
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


def working(bench: Bench, **more: Any) -> Work:
    """A job that takes a step each second, and is in its first sleep."""
    job = bench.new(**more)
    job.left, job.delay_ns_ = 5, SECOND
    bench.begin(job.start)
    return job


def at(bench: Bench, seconds: float) -> None:
    """Let time pass up to here."""
    moment = int(seconds * SECOND) + 1
    bench.sim.call_at(moment, lambda: None)
    bench.sim.run(lambda: bench.sim.now_ns >= moment)


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


CANCELLED = ["aborting", "abort", "clean", "CANCELLED", "concluded"]


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
    with bench.machine.changing.held():
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
    with bench.machine.changing.held():
        bench.begin(jobs[1].cancel)
        bench.begin(txn.finalize)
        bench.begin(jobs[0].cancel)
        bench.sim.run()
    bench.sim.lock.poke()
    bench.sim.run()
    end = ["aborting", "abort", "clean", "CANCELLED", "concluded", "null"]
    assert bench.log == [f"j{n} {what}" for n in (2, 1, 0) for what in end]


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
    bench.do(one.txn.roll_back(two), one.txn.roll_back(one))
    assert [line for line in bench.log if line[3:] not in ("abort", "clean")] == [
        *("j1 created", "j2 created"),
        *("j2 aborting", "j2 concluded", "j2 null", "j1 aborting", "j1 concluded", "j1 null"),
    ]


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
        async def run(self) -> None:
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
        async with drained(bench.machine, [bench.node]):
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
        async def run(self) -> None:
            drain.begin()
            await drain.settled(but=self)
            over.append(True)

    job = Drains(bench, JobTxn(bench.machine), "job", auto_finalize=False)
    bench.do(job.start)
    (info,) = bench.answer("query-block-jobs")
    assert over and info["paused"] and info["status"] == "pending"
    drain.end()


def test_a_job_wakes_in_a_section_only_to_pause_again() -> None:
    bench = Bench()
    job = in_state(bench, S.READY)
    drain = Drain(bench.machine, [bench.node])
    bench.begin(drain.begin)
    before = len(bench.log)
    bench.begin(job.enter)
    assert bench.told(before) == ["ready", "standby"]
    bench.begin(drain.end)
    assert job.status is S.READY
