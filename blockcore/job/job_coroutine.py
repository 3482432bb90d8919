# SPDX-License-Identifier: MIT
"""The coroutine of a job, and the ways of making it wait: pauses, sleeps, and their ends.

A job that nobody lets go on waits in `_yield` and nowhere else, and `enter`
wakes it there, as job_enter does in QEMU.
"""

from __future__ import annotations

from blockcore.bql.effects import Call, Until
from blockcore.job.job_driver import JobDriver, JobHost
from blockcore.qapi.events import JobStatusChange
from blockcore.qapi.names import JobStatus
from blockcore.rules.job_status import COMPLETED, READY, check_transition

STEPS_PER_BREATH = 32
"""A job that never has to wait for a disk lets others go first once in so many steps."""


class JobCoroutine(JobDriver):
    """The state of the work: where it is, and who wants it to pause.

    `pause_count` is how many want that; it starts with one, whom the start of
    the work takes away.  `is_cancelled` is to end at once.
    """

    def __init__(self, host: JobHost, job_id: str) -> None:
        super().__init__(job_id)
        self.status = JobStatus.UNDEFINED
        self.pause_count = 1
        self.busy = False
        self.is_cancelled = False
        self.started = False
        self._host = host
        self._paused = False
        self._work_ended = False
        self._entered = False
        self._sleeping = False
        self._steps = 0

    @property
    def is_ready(self) -> bool:
        return self.status in READY

    @property
    def is_completed(self) -> bool:
        return self.status in COMPLETED

    @property
    def should_pause(self) -> bool:
        return self.pause_count > 0

    def quiescent(self) -> bool:
        """Whether it does nothing, and will not begin to as long as it is paused."""
        return self.is_completed or not (self.busy or self._entered)

    def entry_taken(self) -> bool:
        """Whether the work has noticed the last `enter`, if it waits for one at all."""
        return self.busy or not self._entered

    async def pause_point(self) -> None:
        """Pause here if somebody wants that, until nobody does or the job is cancelled."""
        if self._may_pass():
            return
        await self.on_pause()
        if self._may_pass():
            return
        before = self.status
        ready = before is JobStatus.READY
        self._go_to(JobStatus.STANDBY if ready else JobStatus.PAUSED)
        self._paused = True
        await self._yield()
        self._paused = False
        self._go_to(before)

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
                self._sleeping = True
                await self._yield(self._host.clock.monotonic_ns() + delay_ns)
                self._sleeping = False
            else:
                await self._breathe()
        await self.pause_point()

    async def wait(self) -> None:
        """Wait until somebody enters the job; then comes a pause point (job_yield)."""
        if self.is_cancelled:
            return
        if not self.should_pause:
            await self._yield()
        await self.pause_point()

    async def become_ready(self) -> None:
        """Source and target are in sync for the first time."""
        self._go_to(JobStatus.READY)
        self.emit_ready()

    async def _yield(self, deadline_ns: int | None = None) -> None:
        self.busy = self._entered = False
        await Until(self._is_entered, deadline_ns)
        self.busy, self._entered = True, False

    def _is_entered(self) -> bool:
        return self._entered

    async def _breathe(self) -> None:
        self._steps += 1
        if self._steps % STEPS_PER_BREATH == 0:
            await Call(_breathe)

    def enter(self) -> None:
        """Wake the work if it waits (job_enter); if not, nothing happens.

        One that has to pause goes on pausing, unlike in QEMU, where nobody
        can ask for anything while a section is drained.
        """
        if self.busy or not self.started or self._work_ended:
            return
        if not self._paused or self._may_pass():
            self._entered = True

    def pause(self) -> None:
        """One more who wants the job to pause."""
        self.pause_count += 1
        if not self._paused:
            self.enter()

    def resume(self) -> None:
        """One less who wants that."""
        assert self.pause_count > 0
        self.pause_count -= 1
        if not self.pause_count:
            self.enter()

    def _go_to(self, status: JobStatus) -> None:
        check_transition(self.status, status)
        if status is self.status:
            return
        self.status = status
        self._host.emit(JobStatusChange(id=self.id, status=status))


def _breathe() -> None:
    """To wait for this lets the lock go."""
