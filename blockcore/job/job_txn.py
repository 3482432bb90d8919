# SPDX-License-Identifier: MIT
"""Jobs that succeed or fail together: QEMU's JobTxn.

Every job is in a transaction, most in one of their own.  When the work of all
its jobs has succeeded, the jobs are finalized together; when one fails, the
others are cancelled.  The last steps of a job, from the end of its work on, are
here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from blockcore.bql.effects import Until, kept
from blockcore.job.job import Job, JobHost
from blockcore.nodes.graph.changing import Turn
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import JobStatus, QmpError


class JobTxn:
    """The jobs that belong together, the newest first.

    `aborting`: one of them has failed or was cancelled, and all are to end; none
    starts any more.  `finalizing`: the last steps of a job are under way, and no
    command may interfere (`commands.jobs.find_job` waits).
    """

    def __init__(self, host: JobHost) -> None:
        self.jobs: list[Job] = []
        self.finalizing = False
        self.aborting = False
        self._host = host

    def add(self, job: Job) -> None:
        self.jobs.insert(0, job)

    def remove(self, job: Job) -> None:
        self.jobs.remove(job)

    async def completed(self, job: Job) -> None:
        """Go on after the work of a job has ended (job_completed); it may be the last one."""
        _update_result(job)
        if job.error is not None:
            await self.abort(job)
            return
        job.go_to(JobStatus.WAITING)
        if not all(other.is_completed for other in self.jobs):
            return
        for other in list(self.jobs):
            other.go_to(JobStatus.PENDING)
            if not other.auto_finalize:
                other.emit_pending()
        if all(other.auto_finalize for other in self.jobs):
            await self.finalize()

    async def finalize(self) -> None:
        """Take the last steps of all jobs (job_do_finalize), unless one is cancelled before."""
        async with self._undisturbed():
            with self._last_steps():
                await self._finalize()

    async def _finalize(self) -> None:
        # While this waited for its turn with the graph, a job may have been cancelled.
        if self.aborting:
            return
        for job in list(self.jobs):
            if not await _try_prepare(job):
                self._cancel_others(job)
                await self._finalize_all()
                return
        for job in list(self.jobs):
            await _finalize_single(job)

    async def abort(self, job: Job) -> None:
        """Cancel the others because a job has failed, and end all of them, the newest first.

        (job_completed_txn_abort.)  Do nothing if another job has failed before: its
        end includes that of this job.
        """
        if self.aborting:
            return
        self._cancel_others(job)
        while self.jobs:
            other = self.jobs[0]
            # One that was created since then (`Job.start`).
            if other is not job and not other.is_cancelled:
                other.request_cancel(True)
            if other.started and not other.is_completed:
                other.enter()
                await Until(partial(_is_completed, other))
            async with self._undisturbed():
                with self._last_steps():
                    # The command that has created it may have given it up, in an earlier turn.
                    if other in self.jobs:
                        await _finalize_single(other)

    async def roll_back(self) -> None:
        """Cancel and end all jobs because the command that has created them fails.

        None of them has started; some may be cancelled already.  The caller has its
        turn with the graph (`_undisturbed` would wait for it).
        """
        self.aborting = True
        for job in self.jobs:
            if not job.is_cancelled:
                job.request_cancel(True)
        await self._finalize_all()

    def _undisturbed(self) -> Turn:
        """Return a context in which no command changes the graph around the jobs' nodes.

        The nodes are those of now: the last steps give them up on the way.
        """
        nodes = [node for job in self.jobs for node in job.nodes]
        return self._host.changing.part(lambda: nodes)

    @contextmanager
    def _last_steps(self) -> Iterator[None]:
        """Keep commands from the jobs inside the context."""
        self.finalizing = True
        try:
            yield
        finally:
            self.finalizing = False

    def _cancel_others(self, job: Job) -> None:
        self.aborting = True
        for other in self.jobs:
            if other is not job:
                other.request_cancel(True)

    async def _finalize_all(self) -> None:
        while self.jobs:
            await _finalize_single(self.jobs[0])


def _is_completed(job: Job) -> bool:
    return job.is_completed


def _update_result(job: Job) -> None:
    """Make a cancelled job a failed one, and a failed one aborting (job_update_rc)."""
    if job.error is None and job.is_cancelled:
        job.error = failure(errno.ECANCELED)
    if job.error is not None:
        job.go_to(JobStatus.ABORTING)


async def _try_prepare(job: Job) -> bool:
    """Call `prepare`, whose failure is the job's; return whether the job is still good."""
    try:
        await job.driver.prepare(job)
    except (OSError, QmpError) as exc:
        job.error = kept(exc)
    _update_result(job)
    return job.error is None


async def _finalize_single(job: Job) -> None:
    """Take the last steps of one job, send the event, conclude it (job_finalize_single)."""
    _update_result(job)
    if job.error is None:
        await job.driver.commit(job)
    else:
        await job.driver.abort(job)
    await job.driver.clean(job)
    if job.started:
        if job.is_cancelled:
            job.emit_cancelled()
        else:
            job.emit_completed()
    job.txn.remove(job)
    job.go_to(JobStatus.CONCLUDED)
    if job.auto_dismiss or not job.started:
        job.dismiss()
