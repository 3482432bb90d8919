# SPDX-License-Identifier: MIT
"""A job: something long that goes on beside the guest, and can be paused (QEMU's `job.c`).

What a kind of job has to do is in `job_driver`, how its work is made to wait in
`job_coroutine`; here are what users may want of it, and its end.  What they
want takes effect when the work comes to its next pause point.

All of it runs under the big lock.
"""

from __future__ import annotations

import errno
from typing import Protocol

from blockcore.bql.effects import Until, kept
from blockcore.job.job_coroutine import JobCoroutine
from blockcore.job.job_driver import JobHost, not_completable
from blockcore.qapi.errnos import failure, reason_of
from blockcore.qapi.keyval import well_formed_id
from blockcore.qapi.names import JobStatus, JobVerb, QmpError
from blockcore.rules.job_status import check_verb


class Completion(Protocol):
    """What a job needs of its transaction (`job_txn.JobTxn`)."""

    finalizing: bool

    def add(self, job: Job) -> None:
        """The job is part of it from now on."""

    def remove(self, job: Job) -> None:
        """The job is over."""

    async def completed(self, job: Job) -> None:
        """The job's own work has ended, well or not."""

    async def abort(self, job: Job) -> None:
        """The job is cancelled after its work has ended."""


class Job(JobCoroutine):
    """One job from `created` to `null`.

    `error` is what it ended with, an OSError or a QmpError.  `user_paused`: the
    user is one of those who want it to pause, or an error in his name.
    """

    def __init__(
        self,
        host: JobHost,
        txn: Completion,
        job_id: str,
        *,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        check_job_id(host, job_id)
        super().__init__(host, job_id)
        self.txn = txn
        self.auto_finalize = auto_finalize
        self.auto_dismiss = auto_dismiss
        self.user_paused = False
        self.cancel_requested = False
        txn.add(self)
        host.jobs.insert(0, self)
        self._go_to(JobStatus.CREATED)

    @property
    def error_text(self) -> str | None:
        """What `error` says to a user."""
        if isinstance(self.error, OSError):
            return reason_of(self.error)
        return None if self.error is None else self.error.desc

    def start(self) -> None:
        """Let the work begin (job_start); it goes at once as far as it can."""
        assert not self.started
        self.pause_count -= 1
        self.started = self.busy = True
        self._go_to(JobStatus.RUNNING)
        self._host.spawn(self._main())

    async def _main(self) -> None:
        try:
            await self.pause_point()
            await self.run()
        except (OSError, QmpError) as exc:
            self.error = kept(exc)
        self._work_ended = True
        self.busy = False
        await Until(self._others_have_moved)
        await self.txn.completed(self)

    def _others_have_moved(self) -> bool:
        """Whether all jobs that have been entered go on: job_exit is a bottom half in QEMU."""
        return all(job.entry_taken() for job in self._host.jobs)

    def check_verb(self, verb: JobVerb) -> None:
        """QmpError if the job does not take the verb in its present state."""
        check_verb(self.id, self.status, verb)

    def user_pause(self) -> None:
        """QmpError if the user has paused it already, or it cannot be paused."""
        self.check_verb(JobVerb.PAUSE)
        if self.user_paused:
            raise QmpError("Job is already paused")
        self.user_paused = True
        self.pause()

    def user_resume(self) -> None:
        """Take the user's pause away, which may also be an error's; QmpError if there is none."""
        if not self.user_paused:
            raise QmpError("Can't resume a job that was not paused")
        self.check_verb(JobVerb.RESUME)
        self.on_user_resume()
        self.user_paused = False
        self.resume()

    def user_complete(self) -> None:
        """Let a ready job come to its end; QmpError if it cannot."""
        self.check_verb(JobVerb.COMPLETE)
        if self.cancel_requested:
            raise not_completable(self.id)
        self.on_complete()
        if not self._paused:
            self.enter()

    async def cancel(self, force: bool = True) -> None:
        """Cancel in any state; without `force` a ready job finishes, and no more than that."""
        self.request_cancel(force)
        if not self.started:
            await self.txn.completed(self)
        elif self._work_ended:
            if self.is_cancelled:
                await self.txn.abort(self)
        else:
            self.enter()

    def request_cancel(self, force: bool) -> None:
        """The part of `cancel` that does not wake the job (job_cancel_async)."""
        force = self.on_cancel(force)
        if self.user_paused:
            self.on_user_resume()
            self.user_paused = False
            self.pause_count -= 1
        if force or not self._work_ended:
            self.cancel_requested = True
            self.is_cancelled |= force

    def dismiss(self) -> None:
        """Forget a concluded job (job_do_dismiss)."""
        self._host.jobs.remove(self)
        self._go_to(JobStatus.NULL)

    def fail_early(self) -> None:
        """A job that could not even be created comes to its end (job_early_fail)."""
        self.txn.remove(self)
        self.dismiss()

    def update_result(self) -> None:
        """What was cancelled has failed; what has failed is aborting (job_update_rc)."""
        if self.error is None and self.is_cancelled:
            self.error = failure(errno.ECANCELED)
        if self.error is not None:
            self._go_to(JobStatus.ABORTING)

    def wait_for_others(self) -> None:
        """The work is done, but perhaps not that of the others of the transaction."""
        self._go_to(JobStatus.WAITING)

    def become_pending(self) -> None:
        """All others are done as well."""
        self._go_to(JobStatus.PENDING)
        if not self.auto_finalize:
            self.emit_pending()

    async def try_prepare(self) -> bool:
        """`prepare`, whose failure is the job's; whether it has gone well."""
        try:
            await self.prepare()
        except (OSError, QmpError) as exc:
            self.error = kept(exc)
        self.update_result()
        return self.error is None

    async def finalize_single(self) -> None:
        """The last steps, the event, and the end (job_finalize_single)."""
        self.update_result()
        if self.error is None:
            await self.commit()
        else:
            await self.abort()
        await self.clean()
        if self.started:
            if self.is_cancelled:
                self.emit_cancelled()
            else:
                self.emit_completed()
        self.txn.remove(self)
        self._go_to(JobStatus.CONCLUDED)
        if self.auto_dismiss or not self.started:
            self.dismiss()


def check_job_id(host: JobHost, job_id: str) -> None:
    """QmpError unless a new job may have the id."""
    if not well_formed_id(job_id):
        raise QmpError(f"Invalid job ID '{job_id}'")
    if any(other.id == job_id for other in host.jobs):
        raise QmpError(f"Job ID '{job_id}' already in use")
