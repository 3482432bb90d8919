# SPDX-License-Identifier: MIT
"""Jobs at single moments that matter; `job_world` watches every step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from blockcore.bql.effects import Until
from blockcore.machine.drain import Drain
from blockcore.nodes.graph.links import attach, detach
from blockcore.nodes.permissions import NodeUser
from blockcore.qapi.events import BlockJobCompleted
from job_kinds import BLOCK, CLUSTER, KINDS, SIZE, Flat, Kind
from job_world import Guest, JobWorld
from sim import Sim, perform

MIRROR = KINDS["mirror"]


def new_world(kind: Kind, werror: str = "report") -> JobWorld:
    """A world without surprises: first come, first served."""
    world = JobWorld(Sim(1), kind, werror)
    world.sim.be_orderly()
    return world


@contextmanager
def held_drained(world: JobWorld) -> Iterator[None]:
    """A drained section of the source meanwhile."""
    held = True

    async def hold() -> None:
        async with Drain(world.machine, [world.source]):
            await Until(lambda: not held)

    world.act("hold", hold())
    world.run(lambda: bool(world.machine.drains))
    yield
    held = False
    world.sim.lock.poke()


def test_mirror_of_a_granule_that_begins_with_zeroes() -> None:
    """If pieces of the source are smaller than granules, one that has any data is data."""
    kind = Kind(
        "blockdev-mirror",
        {**MIRROR.arguments, "granularity": 4 * CLUSTER, "buf_size": 0},
        pivots=True,
    )
    world = new_world(kind)
    assert isinstance(world.source, Flat) and isinstance(world.target, Flat)
    assert not any(world.source.data[12 * CLUSTER : 13 * CLUSTER])
    world.start_job("report")
    world.run()
    world.run(lambda: world.told["job"].ready > 0)
    assert world.target.data == world.source.data
    world.finish()


def test_backup_begins_nothing_after_an_error() -> None:
    """What waits for a free worker is not begun once another has failed."""
    world = new_world(KINDS["backup full"])
    world.fails = lambda side, disk, what: errno.EIO
    world.start_job("report", x_perf={"max-workers": 1})
    world.run()
    world.run(lambda: not world.machine.jobs)
    world.finish()
    assert world.io_count == {"source": 1}


def test_guest_writes_before_a_backup_by_bitmap_goes_on() -> None:
    """The job is paused from the beginning: what guests overwrite is saved, and only once."""
    world = new_world(KINDS["backup by bitmap"])
    with held_drained(world):
        world.start_job("report")
        world.run(lambda: "the start" not in world.actors)
        world.act("pause", world.command("job-pause", id="job"))
        world.run(lambda: "pause" not in world.actors)
    guest = Guest(world, "guest", 0)
    world.act("guest", guest.write(0, 1))
    world.run()
    saved, now = world.peek(world.target)[:BLOCK], world.peek(world.source)[:BLOCK]
    assert saved == world.point[:BLOCK] != now
    world.finish()
    assert world.succeeded()


def test_flush_while_the_graph_changes() -> None:
    """A machine that stops flushes all nodes, whatever a job does with them meanwhile."""
    world = new_world(KINDS["stream"])
    top, mid = world.source, world.machine.graph.nodes["mid"]

    def fails(side: str, disk: str, what: str) -> int:
        if disk == "top-file" and what == "flush" and "backing" in top.children:
            detach(top, "backing")
        return 0

    world.act("write", top.pwrite(0, memoryview(bytes(BLOCK))))
    world.run()
    world.fails = fails
    world.act("flush", top.flush())
    world.run()
    assert not world.actors and "backing" not in top.children
    attach(top, "backing", mid)


@pytest.mark.parametrize("name", ["backup full", "mirror", "stream"])
def test_quit_with_a_job_that_nobody_dismisses(name: str) -> None:
    """One that is concluded, and one that is about to be."""
    for steps in range(60):
        world = new_world(KINDS[name])
        world.start_job("report", auto_dismiss=False)
        world.run()
        left = iter(range(steps))
        world.run(lambda: next(left, None) is None)
        world.quit()


@pytest.mark.parametrize("nth", range(1, 6))
def test_guest_write_that_fails_in_the_middle_of_a_write_blocking_mirror(nth: int) -> None:
    """A part of it may be in the source, and has to get to the target."""
    world = new_world(KINDS["write-blocking mirror of a chain"])
    world.start_job("report")
    world.run()
    world.run(lambda: world.told["job"].ready > 0)
    writes = count(1)

    def fails(side: str, disk: str, what: str) -> int:
        return errno.EIO * (disk == "top-file" and what == "write" and next(writes) == nth)

    world.fails = fails
    guest = Guest(world, "guest", 3)
    world.act("guest", guest.write(3, 2))
    world.run()
    world.finish()
    assert world.succeeded()


def test_backup_that_is_cancelled_after_an_error_in_its_pause() -> None:
    """Nobody asks what to do about it any more; one who resumes the job is told."""
    for command, errors in (("job-cancel", 0), ("job-resume", 1)):
        world = new_world(KINDS["backup full"])
        pausing = iter([True])

        def fails(side: str, disk: str, what: str, world: JobWorld = world) -> int:
            if next(pausing, False):
                with world.sim.lock.region():
                    world.machine.jobs[0].user_pause()
            return errno.EIO

        world.fails = fails
        world.start_job("report", x_perf={"max-workers": 1})
        world.run()
        world.run(lambda: world.told["job"].seen.count("paused") == 2)
        world.act(command, world.command(command, id="job"))
        world.run()
        world.finish()
        assert len(world.told["job"].errors) == errors


def test_stream_ends_with_the_first_error_it_has_ignored() -> None:
    """Recorded: stream-ignore-two-errors."""
    world = new_world(KINDS["stream"])
    numbers = iter([errno.ENOSPC, errno.EIO])
    world.fails = lambda side, disk, what: next(numbers, 0) if disk == "base" else 0
    world.start_job("ignore")
    world.run()
    world.run(lambda: not world.machine.jobs)
    world.finish()
    (end,) = world.told["job"].ends
    assert isinstance(end, BlockJobCompleted) and end.error == "No space left on device"
    assert len(world.told["job"].errors) == 2


@pytest.mark.parametrize("policy", ["ignore", "stop"])
def test_guest_write_that_a_write_blocking_mirror_cannot_copy(policy: str) -> None:
    """The guest hears nothing of it; the job copies later what was written."""
    world = new_world(KINDS["write-blocking mirror"])
    world.start_job(policy)
    world.run()
    world.run(lambda: world.told["job"].ready > 0)
    world.fails = lambda side, disk, what: errno.ENOSPC * (side == "target")
    guest = Guest(world, "guest", 3)
    world.act("guest", guest.write(3, 2))
    world.run()
    assert world.expected[3] == world.expected[4] != {4}
    assert [error.operation for error in world.told["job"].errors] == ["write"]
    world.finish()
    assert world.succeeded() and world.blk.root is world.target


def test_guests_reads_do_a_part_of_a_stream() -> None:
    """What they read is in the image afterwards, long before the job gets there."""
    world = new_world(KINDS["stream"])
    world.start_job("report", speed=1)
    world.run()
    at = 15 * CLUSTER
    world.run(lambda: world.machine.jobs[0].progress.current > 0)
    assert not perform(world.source.is_allocated(at, CLUSTER))[0]
    world.act("guest", Guest(world, "guest", 0).read(at // BLOCK, 1))
    world.run()
    assert perform(world.source.is_allocated(at, CLUSTER)) == (True, CLUSTER)
    world.finish(cancel=True)


def test_a_copy_before_a_mirrors_write_that_fails_is_an_error_of_the_mirrors_target() -> None:
    """What the backup of the target could not read is nothing that the mirror reads."""
    world = new_world(MIRROR)
    world.beside.add("backup")
    third = world._flat("third", bytes(SIZE))
    world.act("raw", world.command("blockdev-add", driver="raw", node_name="above", file="dst"))
    world.run()
    backup = {"job_id": "backup", "device": "dst", "target": third.node_name, "sync": "none"}
    world.act("backup", world.command("blockdev-backup", **backup))
    world.run()
    world.fails = lambda side, disk, what: errno.EIO * ((disk, what) == ("dst", "read"))
    world.start_job("report", target="above")
    world.run()
    world.run(lambda: "job" not in {job.id for job in world.machine.jobs})
    (error,) = world.told["job"].errors
    assert error.operation == "write"
    (end,) = world.told["job"].ends
    assert isinstance(end, BlockJobCompleted) and end.error == "Input/output error"


def test_a_stream_reads_its_target_no_more_while_the_images_below_are_closed() -> None:
    """That may take as long as a server wants."""
    world = JobWorld(Sim(1), KINDS["stream"], owned=False)
    world.sim.be_orderly()
    mid, closing = world.nodes["mid"], False
    close = mid.do_close

    async def do_close() -> None:
        nonlocal closing
        closing = True
        await Until(lambda: not closing)
        await close()

    mid.do_close = do_close  # type: ignore[method-assign]
    world.start_job("report")
    world.run()
    world.run(lambda: closing)
    readers = [user for user in world.source.parents if type(user) is NodeUser]
    closing = False
    world.sim.lock.poke()
    world.finish()
    assert world.succeeded() and not readers
