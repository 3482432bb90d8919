# SPDX-License-Identifier: MIT
"""What becomes of one job, learned from its events and from looking at it now and then.

Nothing here talks to a machine or looks at a clock.  Looking tells where the
job is.  It does not tell how a job ended that is gone by then, which most are:
they dismiss themselves.  The events do.
"""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from errno import ECANCELED
from typing import Any

from blockcore.cli.job_list import PAUSED, Job

EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
"""What a `JobWatch` has to be told of."""

RATE_WINDOW_S = 10.0
RATE_MIN_S = 1.0


class Need(StrEnum):
    """What a job waits for, from somebody; the value is the option of `wait` that ends there."""

    STOPPED = "stopped"
    """An error has paused it; to be resumed."""
    READY = "ready"
    """A copy has caught up; to be completed."""
    PENDING = "pending"
    """It has auto-finalize=false; to be finalized."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: `status` is completed, failed or cancelled."""

    status: str
    error: str | None = None


class JobWatch:
    """One job, until it is over.

    `job` is how it was when last seen, None before the first `look`.
    """

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.job: Job | None = None
        self._ending: Ending | None = None
        self._aborting = self._over = False
        self._operation: str | None = None
        self._told: Need | None = None

    @property
    def found(self) -> bool:
        """Whether there has been such a job."""
        return self.job is not None or self._over

    @property
    def ending(self) -> Ending | None:
        """How it ended, once it holds nothing any more that it was asked to let go."""
        return self._ending if self._over else None

    @property
    def need(self) -> Need | None:
        """What it waits for; None when it works, has ended, or was paused by somebody."""
        job = self.job
        if job is None or self._over:
            return None
        if job.stopped:
            return Need.STOPPED
        if job.status in ("ready", "standby"):
            return Need.READY
        if job.status == "pending" and job.auto_finalize is False:
            return Need.PENDING
        return None

    def take_event(self, event: Mapping[str, Any]) -> bool:
        """Whether it makes another look worth while."""
        name, data = event["event"], event["data"]
        if self.id not in (data.get("device"), data.get("id")) or self._over:
            return False
        if name == "BLOCK_JOB_ERROR":
            if data["action"] == "stop":
                self._operation = data["operation"]
            # With on-error=ignore there are thousands of them.
            return False
        if name == "JOB_STATUS_CHANGE":
            self._take_status(data["status"])
            return True
        error = data.get("error")
        if name == "BLOCK_JOB_CANCELLED":
            self._ending = Ending("cancelled")
        else:
            self._ending = Ending("completed") if error is None else Ending("failed", error)
        if self.job is not None:
            self.job = replace(self.job, current=data["offset"], total=data["len"])
        return False

    def _take_status(self, status: str) -> None:
        if status not in PAUSED and self._told is Need.STOPPED:
            # Somebody has resumed it.  The next stop is news, even if nobody looked between.
            self._told = self._operation = None
        self._aborting |= status == "aborting"
        if status == "null":
            self._end(None)

    def look(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Take what `query_jobs` has told after the events taken so far."""
        if self._over:
            # Another job may have got the name meanwhile.
            return
        found = next((Job.of(job) for job in jobs if job["id"] == self.id), None)
        if found is not None:
            self.job = found
        if self.job is not None and (found is None or found.status == "concluded"):
            self._end(None if found is None else found.error)

    def lost(self) -> None:
        """There will be no events any more, and nothing to look at."""
        self._over = self._ending is not None

    def _end(self, error: str | None) -> None:
        """Over; jobs that are not block jobs, and those never started, have no event for it."""
        self._over = True
        if self._ending is not None:
            return
        if error == os.strerror(ECANCELED):
            self._ending = Ending("cancelled")
        elif error is not None or self._aborting:
            self._ending = Ending("failed", error)
        else:
            self._ending = Ending("completed")

    def news(self) -> str | None:
        """`advice`, unless it was told already."""
        if self.need is self._told:
            return None
        self._told = self.need
        return self.advice()

    def advice(self) -> str | None:
        """What the job waits for, and what helps; None if it waits for nobody."""
        if self.need is None or self.job is None:
            return None
        name = shlex.quote(self.id)
        if self.need is Need.STOPPED:
            cause = "an error" if self._operation is None else f"a {self._operation} error"
            return (
                f"{self.id}: stopped by {cause}, io-status {self.job.io_status};"
                f" 'faultline job resume {name}' lets it try again"
            )
        if self.need is Need.READY:
            return f"{self.id}: ready; 'faultline job complete {name}' ends it"
        return f"{self.id}: pending; 'faultline job finalize {name}' ends it"


class Rate:
    """How fast a job has been of late, not counting pauses."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, now_s: float, job: Job) -> None:
        """The job as it was at that time of a monotonic clock."""
        samples = self._samples
        if job.status != "running" or (samples and job.current < samples[-1][1]):
            samples.clear()
        samples.append((now_s, job.current))
        while len(samples) > 2 and samples[1][0] <= now_s - RATE_WINDOW_S:
            samples.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """None as long as there is too little to judge by."""
        if not self._samples:
            return None
        (begin_s, begin), (end_s, end) = self._samples[0], self._samples[-1]
        if end_s - begin_s < RATE_MIN_S:
            return None
        return (end - begin) / (end_s - begin_s)

    def left_s(self, job: Job) -> float | None:
        """Seconds to the end of what is known to be left; None if that cannot be said."""
        rate = self.bytes_per_s
        if not rate or job.status != "running":
            return None
        return max(job.total - job.current, 0) / rate
