# SPDX-License-Identifier: MIT
"""Drained sections: no guest has a request at some nodes, and no job works on them.

(bdrv_drained_begin.)  Guests' new requests wait, those under way end; jobs
pause, and those that are started meanwhile begin with that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from blockcore.bql.clock import Clock
from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.job.block_job import BlockJob
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.node import BlockNode

PATIENCE_NS = 50_000_000
"""For what is under way elsewhere to end, where QEMU waits for it as long as it takes."""


class Drainable(Protocol):
    """What drained sections need of the machine."""

    backends: list[BlockBackend]
    graph: BlockGraph
    jobs: list[BlockJob]
    drains: list[Drain]


class Drain:
    """One section, around everything that can reach one of `nodes`.

    As a context it is settled at its beginning, unless `deadline_ns` comes
    before; there are `begin`, `settled`, `end` or `leave` for those who need
    them one by one.
    """

    def __init__(
        self, host: Drainable, nodes: Iterable[BlockNode], deadline_ns: int | None = None
    ) -> None:
        self._host = host
        self._deadline_ns = deadline_ns
        self._nodes = frozenset(nodes)
        self._above = [blk for blk in host.backends if self._concerns([blk.root])]
        self._jobs: list[BlockJob] = []
        self._held = ExitStack()

    async def __aenter__(self) -> None:
        self.begin()
        try:
            await self.settled(deadline_ns=self._deadline_ns)
        except BaseException:
            self.end()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def begin(self) -> None:
        """Nobody begins anything from now on."""
        self._host.drains.append(self)
        for blk in self._above:
            self._held.enter_context(blk.quiesced())
        for job in reversed(self._host.jobs):
            self.meets(job)

    def meets(self, job: BlockJob) -> None:
        """Let a job pause if the section concerns it."""
        if self._concerns(job.nodes):
            self._jobs.append(job)
            job.pause()

    async def settled(
        self, but: BlockJob | None = None, *, deadline_ns: int | None = None
    ) -> bool:
        """Wait until all that had begun has ended; the job `but` is who wants it so.

        Not beyond a deadline; whether it has ended.
        """
        all_have = True
        for blk in self._above:
            all_have &= await Until(blk.quiet, deadline_ns)
            # Who has the section may flush the nodes, which have to know that there is something.
            blk.publish_traces()
        for job in list(self._jobs):
            if job is not but:
                all_have &= await Until(job.quiescent, deadline_ns)
        return all_have

    def jobs_are_quiescent(self) -> bool:
        """Whether the jobs have paused."""
        return all(job.quiescent() for job in self._jobs)

    def jobs_go_on(self) -> bool:
        """After `end`: whether the jobs have noticed it."""
        return all(job.entry_taken() for job in self._jobs)

    def end(self) -> None:
        """All go on."""
        self._host.drains.remove(self)
        self._held.close()
        for job in self._jobs:
            job.resume()

    async def leave(self) -> None:
        """`end`, and wait until the jobs have noticed it."""
        self.end()
        await self.noticed()

    async def noticed(self) -> None:
        """After `end`: wait until the jobs go on, as in QEMU, which enters them."""
        await Until(self.jobs_go_on)

    @contextmanager
    def guests_held(self) -> Iterator[None]:
        """New requests of the drives wait meanwhile; jobs go on."""
        with ExitStack() as stack:
            for blk in self._above:
                stack.enter_context(blk.quiesced())
            yield

    async def settled_beside_others(self, clock: Clock) -> None:
        """Drain everything for a moment, as QEMU does, but wait for these nodes only.

        What works elsewhere comes to rest as far as that is soon done: a
        server that hangs under another drive concerns nobody here.
        """
        everything = Drain(self._host, self._host.graph.nodes.values())
        everything.begin()
        with ExitStack() as all_held:
            all_held.callback(everything.end)
            self.begin()
            try:
                if not await everything.settled(deadline_ns=clock.monotonic_ns() + PATIENCE_NS):
                    all_held.close()
                    await self.settled()
            finally:
                self.end()
        await everything.noticed()
        await self.noticed()

    def _concerns(self, users: Collection[BlockNode]) -> bool:
        return any(
            not self._nodes.isdisjoint(self._host.graph.subtree(node)) for node in users
        )
