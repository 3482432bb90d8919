"""Jobs at single moments that matter; `job_world` watches every step."""

from __future__ import annotations

import errno

from job_world import CLUSTER, KINDS, Flat, JobWorld, Kind
from sim import Sim

MIRROR = KINDS["mirror"]


def new_world(kind: Kind, werror: str = "report") -> JobWorld:
    """A world without surprises: first come, first served."""
    world = JobWorld(Sim(1), kind, werror)
    world.sim.be_orderly()
    return world


def test_mirror_of_a_granule_that_begins_with_zeroes() -> None:
    """If pieces of the source are smaller than granules, one that has any data is data."""
    kind = Kind(
        "blockdev-mirror",
        {**MIRROR.arguments, "granularity": 4 * CLUSTER, "buf_size": 0},
        becomes_ready=True,
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
