# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/jobs.py.
"""A job of a machine."""

from __future__ import annotations

from time import monotonic
from typing import Any

from faultline.errors import JobFailed, JobStopped, MachineEnded
from faultline.job_info import JobInfo, merge
from faultline.job_watch import Ending, JobLife, JobWatch, Need
from faultline.sizes import Size, in_bytes
from faultline.sync.session import Session


class Job:
    """The job of an id; `wait` and the other methods say what becomes of it.

    >>> with Machine(Drive(size="1M")) as m:
    ...     m.drive_mirror(device="vda", sync="full", target="copy.img",
    ...                          format="raw", job_id="m0")
    ...     job = m.job("m0")
    ...     job.wait("ready")
    ...     job.complete()
    ...     job.wait()
    """

    def __init__(self, session: Session, id: str) -> None:
        self._session = session
        self.id = id

    def info(self) -> JobInfo:
        """Return the job as queries have it; raises LookupError if there is none of that id."""
        for job in query_jobs(self._session):
            if job["id"] == self.id:
                return JobInfo.of(job)
        raise LookupError(f"there is no job {self.id}")

    def progress(self) -> float:
        """Return how much of the job is done, from 0 to 1; raises LookupError if it is gone."""
        job = self.info()
        return job.current / job.total if job.total else 0.0

    def wait(self, until: str = "end", *, timeout: float | None = None) -> None:
        """Wait until the job has ended, or is "ready", "pending" or "stopped" (by an error).

        A job that has ended before the call counts.  Raises JobFailed if it ends
        with an error or is cancelled, JobStopped if an error stops it while
        something else is awaited, LookupError if there never was such a job,
        ValueError for another word, and TimedOut.
        """
        need = None if until == "end" else Need(until)
        limit = self._session.timeout if timeout is None else timeout
        life = JobLife(self._session.journal, self.id)
        deadline = monotonic() + limit
        self._look(life)
        if not life.watch.found:
            raise LookupError(f"there is no job {self.id}, and none has ended")
        while not _is_there(life.watch, need):
            self._session.wait_until(
                life.stirred,
                deadline - monotonic(),
                lambda _: f"job {self.id} {_state(life.watch)}, not {until} within {limit:g} s",
                lambda: f"job {self.id} was at its {until}",
            )
            self._look(life)

    def _look(self, life: JobLife) -> None:
        """Ask for the job, and let its watch know, after the events that came before the reply."""
        try:
            jobs = query_jobs(self._session)
        except MachineEnded:
            life.take()
            life.watch.lost()
            if life.watch.ending is None:
                raise
            return
        life.take()
        life.watch.look(jobs)

    def pause(self) -> None:
        """Pause the job, until `resume`."""
        self._do("pause")

    def resume(self) -> None:
        """Let the job go on, after `pause` or after an error."""
        self._do("resume")

    def cancel(self, *, force: bool = False) -> None:
        """Cancel the job; `force`: at once, even if it is ready, paused or hangs."""
        self._session.execute("block-job-cancel", {"device": self.id, "force": force})

    def complete(self) -> None:
        """Let a job that is ready end."""
        self._do("complete")

    def finalize(self) -> None:
        """Let a job that is pending end."""
        self._do("finalize")

    def dismiss(self) -> None:
        """Forget a job that has concluded."""
        self._do("dismiss")

    def set_speed(self, speed: Size) -> None:
        """Limit the job to so many bytes a second; 0 is no limit."""
        members = {"device": self.id, "speed": in_bytes(speed)}
        self._session.execute("block-job-set-speed", members)

    def _do(self, verb: str) -> None:
        self._session.execute(f"job-{verb}", {"id": self.id})


def query_jobs(session: Session) -> list[dict[str, Any]]:
    """Return all jobs: the members of JobInfo, and those that BlockJobInfo adds.

    Two commands are needed, so a job may come or go between them.
    """
    jobs = session.execute("query-jobs")
    return merge(jobs, session.execute("query-block-jobs"))


def _is_there(watch: JobWatch, need: Need | None) -> bool:
    """Return whether a job has come to where it is awaited; raises JobFailed, JobStopped."""
    ending = watch.ending
    if ending is not None:
        if ending.status != "completed":
            raise JobFailed(watch.id, None if ending.status == "cancelled" else _why(ending))
        return True
    if need is not None and watch.need is need:
        return True
    if watch.need is Need.STOPPED and watch.job is not None:
        raise JobStopped(watch.id, str(watch.job.io_status))
    return False


def _why(ending: Ending) -> str:
    return ending.error or "it has ended without a reason"


def _state(watch: JobWatch) -> str:
    return "has ended" if watch.job is None else f"is {watch.job.status}"
