# SPDX-License-Identifier: MIT
"""What may happen while the command that starts a job waits."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from blockcore.bql.effects import Until
from blockcore.job.block_job import BlockJob
from blockcore.machine.drain import Drain
from blockcore.nodes.permissions import ALL, NONE, NodeUser, Perm
from blockcore.qapi.names import ShutdownCause
from job_kinds import KINDS, SIZE, image
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

LISTED_EARLY = ("commit", "active commit", "mirror")
"""Those whose start waits when the job is there."""


class Waits:
    """A command that starts a job, and waits at its wait number `nth`, from 0 on.

    What counts are the beginnings and ends of drained sections.  `replies` has what the
    command answers.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> None:
        self.world = JobWorld(Sim(0), KINDS[name])
        self.world.sim.be_orderly()
        self.begun = 0
        self.waiting = self._let_go = False
        self.replies: list[Any] = []
        self._monkeypatch = monkeypatch
        self._nth = nth

    def start(self) -> None:
        """Start the job, and go on until its command waits or has answered."""
        kind = self.world.kind
        self.send(kind.command, job_id="job", **kind.arguments)

    def send(self, command: str, **arguments: Any) -> None:
        begin, settled, noticed, numbers = Drain.begin, Drain.settled, Drain.noticed, count()

        def counted(drain: Drain) -> None:
            self.begun += 1
            begin(drain)

        async def wait() -> None:
            if next(numbers) == self._nth:
                self.waiting = True
                await Until(lambda: self._let_go)

        async def slowly_settled(drain: Drain, *args: Any, **more: Any) -> bool:
            await wait()
            return await settled(drain, *args, **more)

        async def slowly_noticed(drain: Drain) -> None:
            await wait()
            await noticed(drain)

        self._monkeypatch.setattr(Drain, "begin", counted)
        self._monkeypatch.setattr(Drain, "settled", slowly_settled)
        self._monkeypatch.setattr(Drain, "noticed", slowly_noticed)
        self._act("the start", command, arguments)
        self.world.run(lambda: self.waiting or bool(self.replies))

    def _act(self, name: str, command: str, arguments: dict[str, Any]) -> None:
        async def reply() -> None:
            self.replies.append((name, await self.world.command(command, **arguments)))

        self.world.act(name, reply())

    def cancel(self) -> None:
        """Cancel the job, and go on until the job notices that."""
        self._act("the cancel", "job-cancel", {"id": "job"})
        self.world.run(lambda: self.job is None or self.job.is_completed)

    def go_on(self) -> None:
        """Let the start wait no more, and go on until there is nothing to do."""
        self._monkeypatch.undo()
        self._let_go = True
        self.world.sim.lock.poke()
        self.world.run()

    @property
    def job(self) -> BlockJob | None:
        """The job, if it is listed."""
        return next((job for job in self.world.machine.jobs if job.id == "job"), None)

    def check_never_began(self, error: str | None = None) -> None:
        """The job is over, and what was done for it is undone; the start has answered."""
        self.world.finish()
        assert self.world.told["job"].seen == ["created", "aborting", "concluded", "null"]
        assert dict(self.replies) == {"the start": error, "the cancel": None}


@pytest.mark.parametrize("name", STARTS)
def test_the_end_of_the_process_undoes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A coroutine that is closed has nobody who performs what the steps would await."""
    for nth in range(9):
        start = Waits(monkeypatch, name, nth)
        world = start.world
        start.start()
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


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("end", ["cancel", "quit"])
def test_a_job_that_is_cancelled_before_it_has_started(
    monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    """It does not start; the command answers as if the job had been cancelled a moment later."""
    listed = 0
    for nth in range(9):
        start = Waits(monkeypatch, name, nth)
        start.start()
        if not start.waiting:
            break
        if start.job is None or start.job.started:
            start.go_on()
            continue
        listed += 1
        if end == "cancel":
            start.cancel()
            start.go_on()
            start.check_never_began()
            continue
        start.world.machine.quit(ShutdownCause.HOST_QMP_QUIT)
        start.world.sim.lock.poke()
        start.go_on()
        start.world.quit()
        assert start.replies == [("the start", None)]
    monkeypatch.undo()
    assert bool(listed) == (name in LISTED_EARLY)


def test_a_job_that_is_cancelled_and_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the start is that of its command, as if there had been no cancel."""
    start = Waits(monkeypatch, "commit", 2)
    start.start()
    assert start.job is not None
    start.cancel()
    base, user = start.world.nodes["base"], NodeUser(NONE, ALL & ~Perm.WRITE, "somebody")
    base.parents.append(user)
    start.go_on()
    base.parents.remove(user)
    start.world.finish()
    assert start.world.told["job"].seen == ["created", "aborting", "concluded", "null"]
    assert "somebody" in dict(start.replies)["the start"]


@pytest.mark.parametrize("mode", ["individual", "grouped"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_backup_that_is_cancelled_before_its_transaction_is_over(
    monkeypatch: pytest.MonkeyPatch, mode: str, fails: bool
) -> None:
    """One that was created later starts if it does not belong to the cancelled one."""
    cancelled = 0
    for nth in range(20):
        start = Waits(monkeypatch, "backup full", nth)
        world = start.world
        world.beside.add("other")
        for name in ("src2", "dst2"):
            world._flat(name, bytes(SIZE))
        world.before = world._state()
        actions = [backup("src", "dst", "job"), backup("src2", "dst2", "other")]
        if fails:
            actions.append(backup("src3", "dst", "third"))
        start.send("transaction", actions=actions, properties={"completion-mode": mode})
        if not start.waiting:
            break
        if start.job is None or start.job.status != "created":
            start.go_on()
            continue
        cancelled += 1
        start.cancel()
        start.go_on()
        start.check_never_began("Cannot find device='src3' nor node-name='src3'" if fails else None)
        began = any("id='other', status=<JobStatus.RUNNING" in line for line in world.sim.trace)
        assert began == (mode == "individual" and not fails)
    monkeypatch.undo()
    assert cancelled


def test_a_cancelled_backup_is_undone_before_what_came_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The backup is of an overlay that goes away with the failing transaction."""
    cancelled = 0
    for nth in range(20):
        start = Waits(monkeypatch, "backup full", nth)
        world = start.world
        world._image("over", image(frozenset(), 0, None))
        world._flat("dst2", bytes(SIZE))
        world.before = world._state()
        actions = [
            {"type": "blockdev-snapshot", "data": {"node": "src", "overlay": "over"}},
            backup("over", "dst", "job"),
            backup("over", "nowhere", "other"),
        ]
        start.send("transaction", actions=actions)
        if not start.waiting:
            break
        if start.job is None or start.job.status != "created":
            start.go_on()
            continue
        cancelled += 1
        start.cancel()
        start.go_on()
        start.check_never_began("Cannot find device='nowhere' nor node-name='nowhere'")
        assert "backing" not in world.nodes["over"].children
    monkeypatch.undo()
    assert cancelled


def backup(source: str, target: str, job_id: str) -> dict[str, Any]:
    """An action of a transaction."""
    data = {"job-id": job_id, "device": source, "target": target, "sync": "full"}
    return {"type": "blockdev-backup", "data": data}
