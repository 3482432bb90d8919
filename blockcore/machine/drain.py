# SPDX-License-Identifier: MIT
"""Drained sections: no guest has a request at certain nodes, and no job works on them.

(bdrv_drained_begin.)  When a section begins, guests' new requests wait, and the
requests under way end.  The jobs on the nodes pause.  A job that is started
while the section lasts pauses before it begins.
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
"""How long a section of all nodes waits for requests and jobs to come to rest, in ns.

QEMU waits for them as long as it takes.  Here a server that hangs under one
drive must not hold up the others: a longer wait delays every stop and every
transaction by that much while a server hangs, a shorter one gives up on
requests that a busy host merely delays.
"""


class Drainable(Protocol):
    """What drained sections need of the machine."""

    backends: list[BlockBackend]
    clones: list[BlockBackend]
    graph: BlockGraph
    jobs: list[BlockJob]
    drains: list[Drain]


class Drain:
    """One drained section, around every drive and job that can reach one of `nodes`.

    `async with` begins the section, waits until it is settled, but not beyond
    `deadline_ns` (of the monotonic clock), and leaves the section at the end.
    A caller that needs the steps one by one calls `begin`, `settled`, and
    `leave` or `end`.
    """

    def __init__(
        self, host: Drainable, nodes: Iterable[BlockNode], deadline_ns: int | None = None
    ) -> None:
        self._host = host
        self._deadline_ns = deadline_ns
        self._nodes = frozenset(nodes)
        drives = (*host.backends, *host.clones)
        self._above = [blk for blk in drives if self._concerns([blk.root])]
        self._jobs: list[BlockJob] = []
        self._held = ExitStack()

    async def __aenter__(self) -> None:
        self.begin()
        try:
            await self.settled(deadline_ns=self._deadline_ns)
        except BaseException:
            self.end()
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Exception):
            await self.leave()
        else:
            # The process is ending.  A wait here would reach the caller as the RuntimeError of a
            # coroutine that does not close, which looks like a failure of the work in the section.
            self.end()

    def begin(self) -> None:
        """Begin the section: hold the drives' new requests, ask the jobs to pause.

        Requests that have begun go on; `settled` waits for them.
        """
        self._host.drains.append(self)
        for blk in self._above:
            self._held.enter_context(blk.quiesced())
        for job in reversed(self._host.jobs):
            self.meets(job)

    def meets(self, job: BlockJob) -> None:
        """Ask a job to pause if the section concerns one of its nodes.

        A job that starts calls this for every section under way (`BlockJob.start`).
        """
        if self._concerns(job.nodes):
            self._jobs.append(job)
            job.pause()

    async def settled(
        self, but: BlockJob | None = None, *, deadline_ns: int | None = None
    ) -> bool:
        """Wait until the requests have ended and the jobs have paused.

        Do not wait for the job `but`: it is the caller, and cannot pause while it
        waits.  Do not wait beyond `deadline_ns` (of the monotonic clock).  Return
        whether everything has come to rest.
        """
        all_have = True
        for blk in self._above:
            all_have &= await Until(blk.quiet, deadline_ns)
            # The owner of the section may flush the nodes.  They do not know yet of the writes on
            # the shortcut, and would see nothing to flush.
            blk.publish_traces()
        for job in list(self._jobs):
            if job is not but:
                all_have &= await Until(job.quiescent, deadline_ns)
        return all_have

    def jobs_are_quiescent(self) -> bool:
        """Return whether the jobs have paused."""
        return all(job.quiescent() for job in self._jobs)

    def jobs_go_on(self) -> bool:
        """Return whether the jobs have noticed the end of the section."""
        return all(job.entry_taken() for job in self._jobs)

    def end(self) -> None:
        """End the section: guests' requests and jobs go on.  Does not wait for the jobs."""
        self._host.drains.remove(self)
        self._held.close()
        for job in self._jobs:
            job.resume()

    async def leave(self) -> None:
        """End the section, and wait until the jobs have noticed it."""
        self.end()
        await self.noticed()

    async def noticed(self) -> None:
        """Wait, after `end`, until the jobs have gone on.

        QEMU enters the jobs when the section ends, so that their events come before
        the reply to the command that had the section.
        """
        await Until(self.jobs_go_on)

    @contextmanager
    def guests_held(self) -> Iterator[None]:
        """Hold new requests of the drives inside the context; jobs go on."""
        with ExitStack() as stack:
            for blk in self._above:
                stack.enter_context(blk.quiesced())
            yield

    async def settled_beside_others(self, clock: Clock) -> None:
        """Drain all nodes, as QEMU does, until the nodes of this section have come to rest.

        Requests and jobs elsewhere get `PATIENCE_NS` to come to rest.  If that is not
        enough, they go on, and only the nodes of this section are waited for: a
        server that hangs under another drive must not hold up the caller.
        """
        everything = Drain(self._host, self._host.graph.nodes.values())
        everything.begin()
        with ExitStack() as all_held:
            all_held.callback(everything.end)
            self.begin()
            try:
                if not await everything.settled(deadline_ns=clock.monotonic_ns() + PATIENCE_NS):
                    # Something hangs.  If it is elsewhere, the other nodes must not wait for it.
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
