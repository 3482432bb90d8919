# SPDX-License-Identifier: MIT
"""Jobs under random and unlucky schedules, with an error at every single I/O, watched at each step.

What is held against each run is in `job_world`.  FAULTLINE_SEEDS is how many seeds
there are for each kind of job; FAULTLINE_ALL_ERRORS asks for every errno with every policy.
"""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import replace
from functools import partial

import pytest

from blockcore.job.block_job import RETRY_NS, BlockJob
from blockcore.jobs.copy_data import DataCopier
from blockcore.jobs.mirror.copier import Op
from blockcore.jobs.mirror.work import MirrorWork
from blockcore.jobs.shortcut import Copied, Part
from blockcore.machine.machine import Machine
from blockcore.qapi.events import BlockJobCancelled, BlockJobCompleted
from blockcore.qapi.names import BlockdevOnError, BlockErrorAction, IoOperationType, JobStatus
from blockcore.rules.policy import error_action
from job_kinds import BLOCK, KIB, KINDS, LAZY, POLICIES, SIZE, Kind
from job_world import TOGETHER, Guest, JobWorld, Script, mirror_work
from sim import Every, Sim

SEEDS = int(os.environ.get("FAULTLINE_SEEDS", "30"))


NUMBERS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}

ERRORS_MAX = 4
"""So many errors of a fault that does not go away are enough."""


@pytest.fixture(autouse=True, name="grouped")
def _grouped(monkeypatch: pytest.MonkeyPatch) -> list[list[Part]]:
    """The parts that were copied at a time, small ones together by the kinds of job that do so."""
    grouped: list[list[Part]] = []
    copy_all = DataCopier.copy_all

    def has_shortcut(copier: DataCopier, offset: int, length: int) -> bool:
        assert isinstance(copier._host, Machine)
        return copier._host.name == TOGETHER

    async def counted(copier: DataCopier, parts: list[Part]) -> Copied:
        grouped.append(list(parts))
        assert sorted(parts) == grouped[-1]
        return await copy_all(copier, parts)

    monkeypatch.setattr(DataCopier, "has_shortcut", has_shortcut)
    monkeypatch.setattr(DataCopier, "copy_all", counted)
    return grouped


def expected_action(policy: str, number: int) -> BlockErrorAction:
    return error_action(BlockdevOnError(policy), number)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", KINDS)
def test_every_io_fails_in_turn(name: str, policy: str, side: str, persistent: bool) -> None:
    """The first I/O of a side fails, then the second, ... until the fault comes too late."""
    kind = KINDS[name]
    if name in LAZY:
        return
    both = policy == "enospc" or "FAULTLINE_ALL_ERRORS" in os.environ
    for number in NUMBERS.values() if both else [NUMBERS["EIO" if persistent else "ENOSPC"]]:
        for nth in itertools.count(1):
            if one_fails(kind, policy, side, number, nth, persistent):
                break
        assert nth > 2


def one_fails(
    kind: Kind, policy: str, side: str, number: int, nth: int, persistent: bool
) -> bool:
    """One run; whether the fault came too late."""
    sim = Sim(nth)
    world = JobWorld(sim, kind)

    def fails(where: str, disk: str, what: str) -> int:
        count = world.io_count[side]
        return number * (where == side and (count >= nth if persistent else count == nth))

    world.fails = fails
    more = {"x_perf": {"max-workers": 1}} if kind.command == "blockdev-backup" else {}
    world.start_job(policy, **more)
    action = expected_action(policy, number)
    world.run()
    over = let_it_fail(world) and world.io_count[side] < nth
    world.finish(complete=nth % 2 == 0)
    if "job" not in world.told:
        return over
    told = world.told["job"]
    world.require(all(error.action is action for error in told.errors), f"{action} only")
    reading = side == "source" or kind.command == "block-stream"
    operation = IoOperationType.READ if reading else IoOperationType.WRITE
    world.require(all(error.operation is operation for error in told.errors), f"{operation}s")
    check_count(world)
    check_outcome(world, kind, action, number)
    return over


def let_it_fail(world: JobWorld) -> bool:
    """Resume the job until it has failed often enough, is ready, or over; whether it was there."""
    while world.machine.jobs:
        job, told = world.machine.jobs[0], world.told["job"]
        if told.ready or len(told.errors) >= ERRORS_MAX:
            break
        if told.stopped:
            world.run(partial(is_paused, job))
            world.act("resume", world.command("job-resume", id="job"))
            world.run()
        world.run(partial(has_moved, world, len(told.errors)))
    return "job" in world.told


def is_paused(job: BlockJob) -> bool:
    return job.status in (JobStatus.PAUSED, JobStatus.STANDBY)


def has_moved(world: JobWorld, errors: int) -> bool:
    told = world.told["job"]
    return not world.machine.jobs or len(told.errors) > errors or told.ready > 0


def check_count(world: JobWorld) -> None:
    """One event for each I/O that has failed (an image's may be several for one request)."""
    failures, told = sum(world.failures.values()), world.told["job"]
    if any(name.endswith("-file") for name in world.failures):
        world.require(len(told.errors) <= failures, f"{failures} failures")
    else:
        world.require(len(told.errors) == failures, f"{failures} failures")


def check_outcome(world: JobWorld, kind: Kind, action: BlockErrorAction, number: int) -> None:
    end = world.told["job"].ends[-1]
    assert isinstance(end, BlockJobCompleted)
    if world.told["job"].errors:
        ignoring_stream = kind.command == "block-stream" and action is BlockErrorAction.IGNORE
        failed = action is BlockErrorAction.REPORT or ignoring_stream
        wanted = os.strerror(number) if failed else None
        world.require(end.error == wanted, f"it ends with {wanted}")


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", [name for name in KINDS if "stream" not in name])
def test_ignored_errors_that_stay_are_retried_with_pauses(name: str, side: str) -> None:
    kind = KINDS[name]
    if name in LAZY:
        return
    world = JobWorld(Sim(1), kind)
    world.fails = lambda where, disk, what: errno.EIO * (where == side)
    world.start_job("ignore")
    world.run()
    told = world.told["job"]
    wanted = 40
    world.run(lambda: len(told.errors) >= wanted)
    world.require(len(told.errors) >= wanted, "it goes on and on")
    # Mirrors have up to 8 parts on their way here, each of which may fail.
    world.require(world.sim.now_ns > (wanted // 8 - 2) * RETRY_NS, "pauses between the tries")
    world.require(world.sim.now_ns < wanted * 2 * RETRY_NS, "and no longer ones")
    world.act("cancel", world.command("job-cancel", id="job"))
    world.run(lambda: not world.machine.jobs)
    world.require(isinstance(told.ends[-1], BlockJobCancelled), "cancelled meanwhile")
    world.finish()


COMMANDS: Script = [
    *(3 * [("job-pause", {"id": "job"})]),
    *(6 * [("job-resume", {"id": "job"})]),
    ("block-job-set-speed", {"device": "job", "speed": 1 << 20}),
    ("block-job-set-speed", {"device": "job", "speed": 1 << 16}),
    ("block-job-set-speed", {"device": "job", "speed": 0}),
    ("block-job-cancel", {"device": "job"}),
    ("job-finalize", {"id": "job"}),
    ("job-dismiss", {"id": "job"}),
    ("hold the graph", {"steps": 10}),
    ("drain", {"steps": 5}),
    ("stop", {}),
    *(3 * [("cont", {})]),
    ("system_reset", {}),
    ("query-jobs", {}),
    ("query-block-jobs", {}),
    ("query-block", {}),
    ("query-named-block-nodes", {}),
    ("block_resize", {"device": "vda", "size": 2 * SIZE}),
]

COMPLETE = ("job-complete", {"id": "job"})

CHANGE = ("block-job-change", {"id": "job", "type": "mirror", "copy_mode": "write-blocking"})

CANCELS: Script = [("job-cancel", {"id": "job"})]
CANCELS += [("block-job-cancel", {"device": "job", "force": True})]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", KINDS)
def test_seeds(name: str, seed: int) -> None:
    """Three guests, two administrators, disks that fail now and then, and a job."""
    sim = Sim(seed)
    choice, random = sim.random.choice, sim.random.random
    kind = KINDS[name]
    werror, owned = choice(["report", "ignore", "stop", "enospc"]), choice([True, False])
    world = JobWorld(sim, kind, werror, owned=owned)
    number, rate = choice([errno.EIO, errno.ENOSPC]), choice([0.0, 0.05, 0.3])
    side = choice(["source", "target", "both"])
    world.fails = lambda where, disk, what: number * (
        side in (where, "both") and random() < rate
    )
    for _ in range(3):
        world.add_guest()
    auto_finalize, auto_dismiss = choice([True, True, False]), choice([True, True, False])
    speed = choice([0, 0, 1 << 20, 1 << 22])
    world.start_job(
        choice(POLICIES), auto_finalize=auto_finalize, auto_dismiss=auto_dismiss, speed=speed
    )
    commands = COMMANDS + choice([[], [], CANCELS]) + kind.pivots * [COMPLETE]
    if kind.command == "blockdev-mirror" and kind.pivots and not kind.on_chain:
        commands = [*commands, CHANGE]
    for _ in range(2):
        world.add_admin([choice(commands) for _ in range(8)])
    world.run()
    if random() < 0.1:
        world.quit()
    else:
        world.finish(complete=choice([True, False]), cancel=random() < 0.2)


SCATTERED = range(0, SIZE // BLOCK, 3)
"""Blocks that a guest writes one by one: small parts, with clean ones between them."""


PARTS = {32 * KIB: 8, 256 * KIB: 16}
"""How many are copied together, by the buffer: what it holds, or as many as there may be."""


@pytest.mark.parametrize("buf_size", PARTS)
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("policy", POLICIES)
def test_one_of_several_small_parts_fails(
    buf_size: int, policy: str, side: str, persistent: bool, grouped: list[list[Part]]
) -> None:
    """The others are copied, and this one again."""
    for nth in range(1, len(SCATTERED) + 1):
        world, job, work = ready_with_scattered_writes(nth, policy, buf_size)
        before, copied = world.io_count[side], job.progress.current
        world.fails = partial(fails_from, world, side, before + nth, persistent)
        world.act("resume", world.command("job-resume", id="job"))
        world.run(partial(has_failed_or_copied, world, work))
        assert world.told["job"].errors
        world.finish()
        if policy != "ignore":
            assert len(world.told["job"].errors) <= -(-len(SCATTERED) // PARTS[buf_size])
        if world.succeeded():
            more = job.progress.current - copied
            world.require(more == len(SCATTERED) * BLOCK, "each counts once")
    assert max(map(len, grouped)) == PARTS[buf_size]


def ready_with_scattered_writes(
    seed: int, policy: str, buf_size: int = 32 * KIB
) -> tuple[JobWorld, BlockJob, MirrorWork]:
    """A mirror that is paused, and its work."""
    kind = KINDS["mirror of small parts"]
    world = JobWorld(Sim(seed), replace(kind, arguments=kind.arguments | {"buf_size": buf_size}))
    world.start_job(policy)
    world.run(lambda: bool(world.told and world.told["job"].ready))
    (job,) = world.machine.jobs
    work = mirror_work(job)
    assert work is not None
    world.act("pause", world.command("job-pause", id="job"))
    world.run()
    world.run(partial(is_paused, job))
    for block in SCATTERED:
        world.act(f"guest {block}", Guest(world, f"guest {block}", block).write(block, 1))
    world.run()
    return world, job, work


def test_a_small_part_that_always_fails_does_not_keep_back_the_others() -> None:
    world, _, work = ready_with_scattered_writes(1, "ignore")
    bad = SCATTERED[1] * BLOCK
    rule = {"node_name": "dst", "iotype": "write", "offset": bad, "length": 512, "id": "bad"}
    world.act("the fault", world.command("x-fault-add", errno="EIO", **rule))
    world.act("resume", world.command("job-resume", id="job"))
    world.run(lambda: list(work.bitmap.areas()) == [(bad, BLOCK)] and not work.copier.ops.own)
    assert list(work.bitmap.areas()) == [(bad, BLOCK)]
    world.act("no fault", world.command("x-fault-remove", id="bad"))
    world.run()
    world.finish()
    assert world.succeeded()


def test_small_parts_keep_off_what_is_on_its_way(grouped: list[list[Part]]) -> None:
    world, _, work = ready_with_scattered_writes(1, "report")
    del grouped[:]
    other = Op(30 * BLOCK, 31 * BLOCK)
    work.copier.ops.own.append(other)
    world.act("resume", world.command("job-resume", id="job"))
    world.run(lambda: bool(grouped) and work.copier.ops.own == [other])
    assert [offset // BLOCK for parts in grouped for offset, _ in parts] == [*range(0, 30, 3)]
    work.copier.ops.own.remove(other)
    world.finish()
    assert world.succeeded()


def has_failed_or_copied(world: JobWorld, work: MirrorWork) -> bool:
    done = not (work.bitmap.count or work.copier.ops.own)
    return bool(world.told["job"].errors or done)


def fails_from(
    world: JobWorld, side: str, nth: int, persistent: bool, where: str, disk: str, what: str
) -> int:
    """ENOSPC for the I/O of that number of a side, and with `persistent` for all after it."""
    count = world.io_count[side]
    hit = where == side and (count >= nth if persistent else count == nth)
    return errno.ENOSPC if hit else 0


PAUSE = ("job-pause", {"id": "job"})
RESUME = ("job-resume", {"id": "job"})
CANCEL = ("job-cancel", {"id": "job"})
FINALIZE = ("job-finalize", {"id": "job"})
DRAIN = ("drain", {"steps": 1})

SMALL: dict[str, tuple[str, int, int, list[Script]]] = {
    "pause and resume": ("report", 0, 1, [[PAUSE, RESUME]]),
    "a stop by an error and resume": ("stop", 1, 1, [[RESUME]]),
    "a reported error and cancel": ("report", 1, 1, [[CANCEL]]),
    "an ignored error and pause": ("ignore", 1, 0, [[PAUSE]]),
    "a stop by an error in a drained section": ("stop", 1, 0, [[DRAIN]]),
    "pause and cancel": ("report", 0, 0, [[PAUSE], [CANCEL]]),
    "finalize and cancel": ("report", 0, 0, [[FINALIZE], [CANCEL]]),
}
"""The policy, how many I/Os of the target fail, and of guests there are, what others do."""


@pytest.mark.parametrize(("policy", "failures", "guests", "admins"), SMALL.values(), ids=SMALL)
def test_all_interleavings(policy: str, failures: int, guests: int, admins: list[Script]) -> None:
    """Every order of the steps of a backup of one cluster, a guest's write to it, and commands."""
    runs = 0
    for choose in Every():
        world = JobWorld(Sim(1), KINDS["backup by bitmap"])
        world.sim.be_orderly()
        for bitmap in world.source.bitmaps:
            bitmap.clear()
            bitmap.set(0, 1)
        left = iter(range(failures))
        world.fails = lambda side, disk, what, left=left: (  # type: ignore[misc]
            errno.EIO if side == "target" and next(left, None) is not None else 0
        )
        world.start_job(policy, auto_finalize=[FINALIZE] not in admins)
        world.run()
        world.sim.choose_by(choose)
        for _ in range(guests):
            world.act("guest", Guest(world, "guest", 0).write(0, 1))
        for script in admins:
            world.add_admin(script)
        world.run()
        world.finish()
        runs += 1
    assert runs > 2
