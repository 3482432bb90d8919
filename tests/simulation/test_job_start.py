# SPDX-License-Identifier: MIT
"""What may happen while the command that starts a job waits."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from blockcore.bql.effects import Until
from blockcore.machine.drain import Drain
from job_kinds import KINDS
from job_world import JobWorld
from sim import Sim

STARTS = [
    "stream to mid",
    "commit",
    "active commit",
    "mirror",
    "backup full",
    "backup by bitmap",
]
"""Kinds of job whose starts have different steps."""


class Waits:
    """The start of a job whose section number `nth`, from 0 on, waits until it is `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> None:
        self.world = JobWorld(Sim(0), KINDS[name])
        self.world.sim.be_orderly()
        self.begun = 0
        self.waiting = self.let_go = False
        begin, settled, numbers = Drain.begin, Drain.settled, count()

        def counted(drain: Drain) -> None:
            self.begun += 1
            begin(drain)

        async def waiting(drain: Drain, *args: Any, **more: Any) -> bool:
            if next(numbers) == nth:
                self.waiting = True
                await Until(lambda: self.let_go)
            return await settled(drain, *args, **more)

        monkeypatch.setattr(Drain, "begin", counted)
        monkeypatch.setattr(Drain, "settled", waiting)
        self.world.start_job("report")
        self.world.run(lambda: self.waiting or "the start" not in self.world.actors)


@pytest.mark.parametrize("name", STARTS)
def test_the_end_of_the_process_undoes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A coroutine that is closed has nobody who performs what the steps would await."""
    for nth in range(9):
        start = Waits(monkeypatch, name, nth)
        world = start.world
        if not start.waiting:
            break
        before, begun = state(world), start.begun
        routine = world.sim.running["the start"]
        with world.sim.lock.region():
            world.sim.lock.forget(routine)
            routine.abandon()
        assert (state(world), start.begun) == (before, begun)
        monkeypatch.undo()
    assert nth > 0


def state(world: JobWorld) -> dict[str, Any]:
    """What undoing changes."""
    nodes = world.machine.graph.nodes.values()
    return {
        "jobs": [(job.id, job.status) for job in world.machine.jobs],
        "bitmaps": world._state()["bitmaps"],
        "successors": [bitmap.successor for node in nodes for bitmap in node.bitmaps],
        "read-only": [node.node_name for node in nodes if node.read_only],
    }
