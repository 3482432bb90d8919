# SPDX-License-Identifier: MIT
"""A job: something long that goes on beside the guest, and can be paused (QEMU's `job.c`).

What a kind of job has to do is in its `job_driver`, where its work waits in
`waiting`, its last steps are in `job_txn`; here are its life up to there, and
what users may want of it.  What they want takes effect when the work comes to
its next pause point.

All of it runs under the big lock.
"""

from __future__ import annotations

from typing import Any, Protocol

from blockcore.bql.effects import Until, kept
from blockcore.job.job_driver import JobDriver
from blockcore.job.options import JobOptions
from blockcore.job.waiting import Waiting
from blockcore.nodes.graph.changing import Changing
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.events import JobStatusChange
from blockcore.qapi.keyval import well_formed_id
from blockcore.qapi.names import JobStatus, JobType, JobVerb, QmpError
from blockcore.rules.host import Clocked, Emits, Spawns
from blockcore.rules.job_status import COMPLETED, READY, check_transition, check_verb


class JobHost(Clocked, Emits, Spawns, Protocol):
    """What a job needs of its machine: `jobs`, the newest first; who has a part of `changing`
    may change that of the graph."""

    changing: Changing
    jobs: list[Any]


class Progress:
    """How far a job is, and of how much, in bytes; the estimate may grow (ProgressMeter)."""

    __slots__ = ("current", "total")

    def __init__(self) -> None:
        self.current = 0
        self.total = 0

    def set_remaining(self, nbytes: int) -> None:
        self.total = self.current + nbytes

    def increase_remaining(self, nbytes: int) -> None:
        self.total += nbytes

    def update(self, nbytes: int) -> None:
        """So much more is done."""
        self.current += nbytes


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


class Job:
    """One job from `created` to `null`; `driver` is what its kind does.

    `error` is what it ended with, an OSError or a QmpError.  `pause_count` is
    how many want it to pause; it starts with one, whom the start of the work
    takes away.  `user_paused`: the user is one of them, or an error in his
    name.  `is_cancelled` is to end at once, `cancel_requested` perhaps only
    once what was begun is finished.
    """

    def __init__(
        self,
        host: JobHost,
        driver: JobDriver[Any],
        txn: Completion,
        job_id: str,
        options: JobOptions,
    ) -> None:
        check_job_id(host, job_id)
        self.host = host
        self.driver = driver
        self.txn = txn
        self.id = job_id
        self.auto_finalize = options.auto_finalize
        self.auto_dismiss = options.auto_dismiss
        self.status = JobStatus.UNDEFINED
        self.progress = Progress()
        self.error: OSError | QmpError | None = None
        self.pause_count = 1
        self.user_paused = False
        self.is_cancelled = False
        self.cancel_requested = False
        self.started = False
        self._waiting = Waiting()
        self._work_ended = False
        txn.add(self)
        host.jobs.insert(0, self)
        self.go_to(JobStatus.CREATED)

    @property
    def type(self) -> JobType:
        return self.driver.type

    @property
    def nodes(self) -> list[BlockNode]:
        """What the job works on."""
        return []

    @property
    def busy(self) -> bool:
        """Whether the work does something right now."""
        return self._waiting.busy

    @property
    def is_sleeping(self) -> bool:
        """Whether the work waits for time to pass."""
        return self._waiting.sleeping

    @property
    def is_ready(self) -> bool:
        return self.status in READY

    @property
    def is_completed(self) -> bool:
        return self.status in COMPLETED

    @property
    def should_pause(self) -> bool:
        return self.pause_count > 0

    @property
    def error_text(self) -> str | None:
        """What `error` says to a user."""
        if isinstance(self.error, OSError):
            return reason_of(self.error)
        return None if self.error is None else self.error.desc

    def quiescent(self) -> bool:
        """Whether it does nothing, and will not begin to as long as it is paused."""
        return self.is_completed or self._waiting.is_idle()

    def start(self) -> None:
        """Let the work begin (job_start); it goes at once as far as it can."""
        assert not self.started
        self.pause_count -= 1
        self.started = self._waiting.busy = True
        self.go_to(JobStatus.RUNNING)
        self.host.spawn(self._main())

    async def _main(self) -> None:
        try:
            await self.pause_point()
            await self.driver.run(self)
        except (OSError, QmpError) as exc:
            self.error = kept(exc)
        self._work_ended = True
        self._waiting.busy = False
        await Until(self._others_have_moved)
        await self.txn.completed(self)

    def _others_have_moved(self) -> bool:
        """Whether all jobs that have been entered go on: job_exit is a bottom half in QEMU."""
        return all(job.entry_taken() for job in self.host.jobs)

    def entry_taken(self) -> bool:
        """Whether the work has noticed the last `enter`, if it waits for one at all."""
        return self._waiting.is_noticed()

    async def pause_point(self) -> None:
        """Pause here if somebody wants that, until nobody does or the job is cancelled."""
        if self._may_pass():
            return
        await self.driver.pause(self)
        if self._may_pass():
            return
        before = self.status
        self.go_to(JobStatus.STANDBY if before is JobStatus.READY else JobStatus.PAUSED)
        await self._waiting.pause()
        self.go_to(before)

    def _may_pass(self) -> bool:
        return not self.should_pause or self.is_cancelled

    async def sleep(self, delay_ns: int) -> None:
        """Wait so long, or until somebody enters the job; then comes a pause point.

        Without a delay others still get their turn.
        """
        if self.is_cancelled:
            return
        if not self.should_pause:
            if delay_ns > 0:
                await self._waiting.sleep(self.host.clock.monotonic_ns() + delay_ns)
            else:
                await self._waiting.breathe()
        await self.pause_point()

    async def wait(self) -> None:
        """Wait until somebody enters the job; then comes a pause point (job_yield)."""
        if self.is_cancelled:
            return
        if not self.should_pause:
            await self._waiting.wait()
        await self.pause_point()

    async def become_ready(self) -> None:
        """Source and target are in sync for the first time."""
        self.go_to(JobStatus.READY)
        self.emit_ready()

    def enter(self) -> None:
        """Wake the work if it waits (job_enter); if not, nothing happens.

        One that has to pause goes on pausing, unlike in QEMU, where nobody
        can ask for anything while a section is drained.
        """
        if self.busy or not self.started or self._work_ended:
            return
        if not self._waiting.paused or self._may_pass():
            self._waiting.enter()

    def pause(self) -> None:
        """One more who wants the job to pause."""
        self.pause_count += 1
        if not self._waiting.paused:
            self.enter()

    def resume(self) -> None:
        """One less who wants that."""
        assert self.pause_count > 0
        self.pause_count -= 1
        if not self.pause_count:
            self.enter()

    def go_to(self, status: JobStatus) -> None:
        """Change the status, and say so (job_state_transition)."""
        check_transition(self.status, status)
        if status is self.status:
            return
        self.status = status
        self.host.emit(JobStatusChange(id=self.id, status=status))

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
        if self.cancel_requested or not self.driver.complete(self):
            raise QmpError(f"The active block job '{self.id}' cannot be completed")
        if not self._waiting.paused:
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
        force = self.driver.cancel(self, force)
        if self.user_paused:
            self.on_user_resume()
            self.user_paused = False
            self.pause_count -= 1
        if force or not self._work_ended:
            self.cancel_requested = True
            self.is_cancelled |= force

    def dismiss(self) -> None:
        """Forget a concluded job (job_do_dismiss)."""
        self.host.jobs.remove(self)
        self.go_to(JobStatus.NULL)

    def fail_early(self) -> None:
        """A job that could not even be created comes to its end (job_early_fail)."""
        self.txn.remove(self)
        self.dismiss()

    def on_user_resume(self) -> None:
        """The user wants it to go on."""

    def emit_ready(self) -> None:
        """Say that the job is ready."""

    def emit_pending(self) -> None:
        """Say that it waits to be finalized."""

    def emit_completed(self) -> None:
        """Say that it has ended, with `error` or without."""

    def emit_cancelled(self) -> None:
        """Say that it was cancelled."""


def check_job_id(host: JobHost, job_id: str) -> None:
    """QmpError unless a new job may have the id."""
    if not well_formed_id(job_id):
        raise QmpError(f"Invalid job ID '{job_id}'")
    if any(other.id == job_id for other in host.jobs):
        raise QmpError(f"Job ID '{job_id}' already in use")
