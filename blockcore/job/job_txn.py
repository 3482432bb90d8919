# SPDX-License-Identifier: MIT
"""Jobs that succeed or fail together: QEMU's JobTxn.

Every job is in a transaction, most in one of their own.  When the work of all
its jobs has succeeded they are finalized together; when one fails, the others
are cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from blockcore.bql.effects import Until
from blockcore.job.job import Job
from blockcore.job.job_driver import JobHost
from blockcore.nodes.graph.changing import Turn


class JobTxn:
    """The jobs that belong together, the newest first.

    `finalizing`: the last steps are under way, and nobody may interfere.
    """

    def __init__(self, host: JobHost) -> None:
        self.jobs: list[Job] = []
        self.finalizing = False
        self._aborting = False
        self._host = host

    def add(self, job: Job) -> None:
        self.jobs.insert(0, job)

    def remove(self, job: Job) -> None:
        self.jobs.remove(job)

    async def completed(self, job: Job) -> None:
        """The work of a job has ended (job_completed); it may be the last one."""
        job.update_result()
        if job.error is not None:
            await self.abort(job)
            return
        job.wait_for_others()
        if not all(other.is_completed for other in self.jobs):
            return
        for other in list(self.jobs):
            other.become_pending()
        if all(other.auto_finalize for other in self.jobs):
            await self.finalize()

    async def finalize(self) -> None:
        """Take the last steps of all jobs (job_do_finalize), unless one is cancelled before."""
        async with self._undisturbed():
            with self._last_steps():
                await self._finalize()

    async def _finalize(self) -> None:
        if self._aborting:
            return
        for job in list(self.jobs):
            if not await job.try_prepare():
                self._cancel_others(job)
                await self._finalize_all()
                return
        for job in list(self.jobs):
            await job.finalize_single()

    async def abort(self, job: Job) -> None:
        """A job has failed: cancel the others, and end one after the other, the newest first.

        (job_completed_txn_abort.)  Nothing to do if another job has failed
        before, and its end includes this one's.
        """
        if self._aborting:
            return
        self._cancel_others(job)
        while self.jobs:
            other = self.jobs[0]
            if other.started and not other.is_completed:
                other.enter()
                await Until(partial(_is_completed, other))
            async with self._undisturbed():
                with self._last_steps():
                    await other.finalize_single()

    async def roll_back(self, job: Job) -> None:
        """The same for jobs that have not started, by a caller who changes the graph already."""
        if not self._aborting:
            job.request_cancel(True)
            self._cancel_others(job)
            await self._finalize_all()

    def _undisturbed(self) -> Turn:
        """As a context: nobody else changes the graph of the jobs.

        The nodes are those of now: who has this first gives them up.
        """
        nodes = [node for job in self.jobs for node in job.nodes]
        return self._host.changing.part(lambda: nodes)

    @contextmanager
    def _last_steps(self) -> Iterator[None]:
        """Nobody wants anything of the jobs meanwhile."""
        self.finalizing = True
        try:
            yield
        finally:
            self.finalizing = False

    def _cancel_others(self, job: Job) -> None:
        self._aborting = True
        for other in self.jobs:
            if other is not job:
                other.request_cancel(True)

    async def _finalize_all(self) -> None:
        while self.jobs:
            await self.jobs[0].finalize_single()


def _is_completed(job: Job) -> bool:
    return job.is_completed
