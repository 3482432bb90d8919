# SPDX-License-Identifier: MIT
"""A job: work that goes on beside the guest, and can be paused (QEMU's `job.c`).

What a kind of job has to do is in its `job_driver`, where its work waits in
`waiting`, its last steps are in `job_txn`.  Here are its life up to the last
steps, and what users may ask of it.  What they ask takes effect when the work
comes to its next pause point.

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
    """What a job needs of its machine.

    `jobs` are all jobs, the newest first.  Changes of the graph take turns by
    `changing`.
    """

    changing: Changing
    jobs: list[Any]


class Progress:
    """How far a job is, and of how much, in bytes (ProgressMeter); `total` is an estimate."""

    __slots__ = ("current", "total")

    def __init__(self) -> None:
        self.current = 0
        self.total = 0

    def set_remaining(self, nbytes: int) -> None:
        self.total = self.current + nbytes

    def increase_remaining(self, nbytes: int) -> None:
        self.total += nbytes

    def update(self, nbytes: int) -> None:
        """Count `nbytes` more as done."""
        self.current += nbytes


class Completion(Protocol):
    """What a job needs of its transaction (`job_txn.JobTxn`)."""

    aborting: bool
    finalizing: bool

    def add(self, job: Job) -> None:
        """Make the job a part of the transaction."""

    def remove(self, job: Job) -> None:
        """Part with a job that is over."""

    async def completed(self, job: Job) -> None:
        """Take note that the job's own work has ended, well or not."""

    async def abort(self, job: Job) -> None:
        """End a job that is cancelled after its work has ended."""


class Job:
    """One job from `created` to `null`; `driver` is what its kind does.

    `error` is the OSError or QmpError that the job has ended with.  `pause_count`
    is the number of reasons to pause; it starts with one, which the start of the
    work takes away.  `user_paused`: one of the reasons is the user's, or an error,
    which only a user can resume from.  `is_cancelled`: the job is to end at once.
    `cancel_requested`: it is to end, perhaps only after it has finished what it
    began.
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
        """The nodes that the job works on."""
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
        """The text of `error` for a user; None without an error."""
        if isinstance(self.error, OSError):
            return reason_of(self.error)
        return None if self.error is None else self.error.desc

    def quiescent(self) -> bool:
        """Return whether the job does nothing, and begins nothing as long as it is paused."""
        return self.is_completed or self._waiting.is_idle()

    def start(self) -> None:
        """Let the work begin (job_start); it goes at once as far as it can.

        Do nothing if the job, or another one of its transaction, was cancelled since it
        was created: whoever has cancelled it ends it.  In QEMU no command comes between.
        Here the command that creates a job may wait before it starts the job.
        """
        assert not self.started
        if self.txn.aborting:
            return
        self.on_start()
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
        # QEMU completes a job in a bottom half (job_exit), which runs after the jobs that were
        # entered before it: what they say comes first.
        await Until(self._others_have_moved)
        await self.txn.completed(self)

    def _others_have_moved(self) -> bool:
        """Return whether all jobs that have been entered have noticed it."""
        return all(job.entry_taken() for job in self.host.jobs)

    def entry_taken(self) -> bool:
        """Return whether the work has noticed the last `enter`, if it waits for one at all."""
        return self._waiting.is_noticed()

    async def pause_point(self) -> None:
        """Pause here if there is a reason to, until there is none or the job is cancelled."""
        if self._may_pass():
            return
        # This may wait for requests under way: the reason may be gone afterwards.
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
        """Wait for `delay_ns`, or until `enter`; then comes a pause point (job_sleep_ns).

        Without a delay other work still gets its turn now and then.
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
        """Wait until `enter`; then comes a pause point (job_yield)."""
        if self.is_cancelled:
            return
        if not self.should_pause:
            await self._waiting.wait()
        await self.pause_point()

    async def become_ready(self) -> None:
        """Say that source and target are in sync for the first time (job_transition_to_ready)."""
        self.go_to(JobStatus.READY)
        self.emit_ready()

    def enter(self) -> None:
        """Wake the work if it waits (job_enter); if not, nothing happens.

        A job that has to pause stays paused.  QEMU has no such case: no command can
        come while a section is drained.
        """
        if self.busy or not self.started or self._work_ended:
            return
        if not self._waiting.paused or self._may_pass():
            self._waiting.enter()

    def pause(self) -> None:
        """Add a reason to pause (job_pause)."""
        self.pause_count += 1
        if not self._waiting.paused:
            self.enter()

    def resume(self) -> None:
        """Take away a reason to pause; go on if there is none left (job_resume)."""
        assert self.pause_count > 0
        self.pause_count -= 1
        if not self.pause_count:
            self.enter()

    def go_to(self, status: JobStatus) -> None:
        """Change the status, and send JOB_STATUS_CHANGE (job_state_transition)."""
        check_transition(self.status, status)
        if status is self.status:
            return
        self.status = status
        self.host.emit(JobStatusChange(id=self.id, status=status))

    def check_verb(self, verb: JobVerb) -> None:
        """Raise QmpError if the job does not take the verb in its state (job_apply_verb)."""
        check_verb(self.id, self.status, verb)

    def user_pause(self) -> None:
        """Pause for the user (job_user_pause); raise QmpError if that is impossible."""
        self.check_verb(JobVerb.PAUSE)
        if self.user_paused:
            raise QmpError("Job is already paused")
        self.user_paused = True
        self.pause()

    def user_resume(self) -> None:
        """Take away the user's pause, which may be an error's; raise QmpError if there is none.

        (job_user_resume.)
        """
        if not self.user_paused:
            raise QmpError("Can't resume a job that was not paused")
        self.check_verb(JobVerb.RESUME)
        self.on_user_resume()
        self.user_paused = False
        self.resume()

    def user_complete(self) -> None:
        """Let a ready job come to its end (job_complete); raise QmpError if it cannot."""
        self.check_verb(JobVerb.COMPLETE)
        if self.cancel_requested or not self.driver.complete(self):
            raise QmpError(f"The active block job '{self.id}' cannot be completed")
        if not self._waiting.paused:
            self.enter()

    async def cancel(self, force: bool = True) -> None:
        """Cancel in any state (job_cancel); without `force` a ready job finishes what it began."""
        self.request_cancel(force)
        # Where there is no work that could notice it, the job is ended from here.
        if not self.started:
            await self.txn.completed(self)
        elif self._work_ended:
            if self.is_cancelled:
                await self.txn.abort(self)
        else:
            self.enter()

    def request_cancel(self, force: bool) -> None:
        """Mark the job as cancelled, but do not wake it (job_cancel_async)."""
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
        """End a job that could not be created completely (job_early_fail).

        It may have been cancelled meanwhile.
        """
        self.txn.remove(self)
        if self.status is JobStatus.ABORTING:
            self.go_to(JobStatus.CONCLUDED)
        self.dismiss()

    def on_start(self) -> None:
        """Take note that the work is about to begin."""

    def on_user_resume(self) -> None:
        """Take note that the user wants the job to go on."""

    def emit_ready(self) -> None:
        """Send the event that the job is ready."""

    def emit_pending(self) -> None:
        """Send the event that the job waits to be finalized."""

    def emit_completed(self) -> None:
        """Send the event that the job has ended, with `error` or without."""

    def emit_cancelled(self) -> None:
        """Send the event that the job was cancelled."""


def check_job_id(host: JobHost, job_id: str) -> None:
    """Raise QmpError unless a new job may have the id (job_create)."""
    if not well_formed_id(job_id):
        raise QmpError(f"Invalid job ID '{job_id}'")
    if any(other.id == job_id for other in host.jobs):
        raise QmpError(f"Job ID '{job_id}' already in use")
