# SPDX-License-Identifier: MIT
"""Servers that hang in the middle of a job, under random schedules, beside a drive that goes on.

FAULTLINE_SEEDS is how many seeds there are for each kind of job and place of the server.
"""

from __future__ import annotations

import os

import pytest

from job_kinds import BLOCK, KINDS, LAZY, POLICIES, SIZE, Flat, Kind
from job_world import JobWorld, Script, will_complete
from sim import FarNode, Sim, add_drive, pause

SEEDS = int(os.environ.get("FAULTLINE_SEEDS", "8"))

PATIENCE_MAX = 10
"""After so many requests, or before, the server hangs."""


STEPS = 600
"""So many steps later at the latest others begin; a job may have ended, or not need the server."""


def places(kind: Kind) -> list[str]:
    """The disks without a format, whose server may hang."""
    own = ["base"] if kind.on_chain else ["src"]
    return own + ["dst"] * ("target" in kind.arguments and not kind.to_image)


PLACES = [(name, far) for name, kind in KINDS.items() for far in places(kind)]


class FarFlat(FarNode, Flat):
    """A disk of a world, on a server."""


class HungWorld(JobWorld):
    """A world in which the disk `far_name` is on a server, and a drive `vdb` is not."""

    def __init__(self, sim: Sim, kind: Kind, far_name: str, werror: str, owned: bool) -> None:
        self._far_name = far_name
        super().__init__(sim, kind, werror, owned=owned)
        far = self.nodes[far_name]
        assert isinstance(far, FarFlat)
        self.far = far
        far.is_local = lambda: self._peeking
        if "bitmap" not in kind.arguments:
            # What fails there and was carried out is not copied again, if it is for certain.
            far.is_late = lambda: sim.random.random() < 0.5
        self.other = [self._flat(f"other{n}", bytes([n]) * SIZE) for n in range(2)]
        for node in self.other:
            node.monitor_owned = True
        self.vdb = add_drive(self.machine, self.other[0], "vdb", werror="report")
        self.machine.graph.refresh_filenames()
        self.before = self._state()

    def _flat_class(self, name: str) -> type[Flat]:
        return FarFlat if name == self._far_name else Flat

    def _check_read_only(self) -> None:
        """What cannot be flushed any more stays writable."""
        if not self.far.given_up:
            super()._check_read_only()

    def job_hangs_up(self) -> bool:
        """Whether a cancel cuts off what the job waits for: the target, unless others need it."""
        return self._far_name == "dst" or (self.kind.command == "block-commit" and self.kind.pivots)

    def is_over(self, cancelled: bool) -> bool:
        """Whether the job has ended; one that is ready does so when it is asked."""
        ready = "job" in self.told and self.told["job"].ready > 0
        return not self.machine.jobs or (ready and not cancelled)

    def yank(self) -> None:
        """Cut the server off."""
        instance = {"type": "block-node", "node-name": self._far_name}
        self.act("yank", self.command("yank", instances=[instance]))
        self.sim.run(lambda: "yank" not in self.actors)
        self.require(self.far.given_up or self.far.closed, "yank is answered at once")

    async def use_vdb(self, number: int) -> None:
        """A guest of `vdb`: what it has written is there."""
        random, vdb = self.sim.random, self.vdb
        for value in range(1, 6):
            offset = (number * 16 + random.randrange(16)) * BLOCK
            await vdb.pwrite(offset, memoryview(bytes([value]) * BLOCK))
            await pause()
            if random.random() < 0.3:
                await vdb.flush()
            buf = memoryview(bytearray(BLOCK))
            await vdb.pread(offset, buf)
            self.require(buf == bytes([value]) * BLOCK, "vdb has what was written")

    async def copy_vdb(self) -> None:
        """A mirror of `vdb` lives its whole life."""
        self.beside.add("jb")
        arguments = {"job_id": "jb", "device": "vdb", "target": "other1", "sync": "full"}
        await self.command("blockdev-mirror", **arguments)
        while job := next((job for job in self.machine.jobs if job.id == "jb"), None):
            if job.is_ready and not will_complete(job):
                await self.command("job-complete", id="jb")
            await pause()
        self.require(self.vdb.root is self.other[1], "vdb is on its copy")

    def beside_it(self) -> None:
        """All of this comes to an end, whatever hangs."""
        for number in range(2):
            self.act(f"guest {number} of vdb", self.use_vdb(number))
        self.act("copy", self.copy_vdb())
        for _ in range(2):
            self.add_admin([self.sim.random.choice(COMMANDS) for _ in range(6)])
        self.add_admin(self.sim.random.choice([[], STOP_AND_GO]))
        self.run(self.others_are_done)
        self.add_admin([REMOVE])
        self.run(self.others_are_done)
        self.require(self.others_are_done(), f"{self.actors} do not need the server")

    def others_are_done(self) -> bool:
        """Whether nobody is at work but who starts the job, who may need the server for that."""
        return self.actors <= {"the start"}


BITMAP = {"node": "other0", "name": "x"}

REMOVE = ("block-dirty-bitmap-remove", BITMAP)

COMMANDS: Script = [
    *((name, {}) for name in ("query-jobs", "query-block-jobs", "query-block", "query-yank")),
    *((name, {}) for name in ("query-named-block-nodes", "query-blockstats", "x-query-requests")),
    ("block_resize", {"node_name": "other0", "size": SIZE}),
    ("block-dirty-bitmap-add", BITMAP),
    REMOVE,
    ("transaction", {"actions": [{"type": "block-dirty-bitmap-clear", "data": BITMAP}]}),
    ("transaction", {"actions": [{"type": "abort", "data": {}}]}),
]

STOP_AND_GO: Script = [("stop", {}), ("cont", {})]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(("name", "far"), PLACES)
def test_seeds(name: str, far: str, seed: int) -> None:
    """Whoever has nothing to do with the server goes on; a cancel or `yank` ends the job."""
    sim = Sim(seed)
    choice = sim.random.choice
    kind = KINDS[name]
    policy = choice(POLICIES)
    world = HungWorld(sim, kind, far, choice(["report", "ignore"]), choice([True, False]))
    for _ in range(2):
        world.add_guest()
    world.far.patience = sim.random.randrange(PATIENCE_MAX)
    world.start_job(policy)
    steps = iter(range(STEPS))
    sim.run(lambda: world.far.hangs or next(steps, None) is None)
    world.beside_it()
    cancelled = choice([True, False]) and bool(world.machine.jobs)
    if cancelled:
        world.act("cancel", world.command("job-cancel", id="job"))
        sim.run(lambda: not world.machine.jobs and "cancel" not in world.actors)
    if cancelled and world.job_hangs_up():
        world.require(not world.machine.jobs, "a cancelled job ends without its server")
        world.far.go_on()
        sim.lock.poke()
    else:
        world.yank()
        world.run()
        if cancelled or (policy in ("report", "enospc") and name not in LAZY):
            sim.run(lambda: world.is_over(cancelled))
            world.require(world.is_over(cancelled), "an error, or the cancel, ends the job")
    world.run()
    world.finish(cancel=True)
