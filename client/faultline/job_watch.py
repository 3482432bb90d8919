# SPDX-License-Identifier: MIT
"""The life of one job, as its events and occasional looks at it show it; no I/O, no clock.

A look (query-jobs) shows how far the job is.  It cannot show how a job ended
that is gone, and most jobs are gone at once, because they dismiss themselves.
Events show how such a job ended.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from errno import ECANCELED
from typing import Any

from faultline.events import Event, Journal
from faultline.job_info import PAUSED, JobInfo

EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
"""The events that a `JobWatch` takes."""

RATE_WINDOW_S = 10.0
"""The time over which a rate is measured, in seconds; longer is steadier, shorter more current."""
RATE_MIN_S = 1.0
"""The shortest time from which a rate is computed, in seconds."""


class Need(StrEnum):
    """What a job waits for a user to do; values are the options of `job wait` that end there."""

    STOPPED = "stopped"
    """To be resumed: an I/O error has paused the job."""
    READY = "ready"
    """To be completed: the copy has caught up with its source."""
    PENDING = "pending"
    """To be finalized: the job has auto-finalize=false."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: `status` is completed, failed or cancelled, `error` the reason."""

    status: str
    error: str | None = None


class JobWatch:
    """One job, until it is over.

    `job` is the job as last seen; None until a `look` has found it.  `operation`
    is the kind of I/O, read or write, whose error has stopped the job, if known;
    `resumed` is how often the job has begun or gone on to run.
    """

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.job: JobInfo | None = None
        self._ending: Ending | None = None
        self._aborting = self._over = False
        self.operation: str | None = None
        self.resumed = 0

    @property
    def found(self) -> bool:
        """Whether the job exists or has existed."""
        return self.job is not None or self._over

    @property
    def ending(self) -> Ending | None:
        """How the job ended; None until it is over and has released its nodes.

        BLOCK_JOB_COMPLETED comes earlier than that, with the result.
        """
        return self._ending if self._over else None

    @property
    def need(self) -> Need | None:
        """What the job waits for; None if it works, has ended, or was paused by a user."""
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

    def take_event(self, event: Event) -> bool:
        """Take an event, of any job; return whether another look is worth while."""
        name, data = event.name, event.data
        if self.id not in (data.get("device"), data.get("id")) or self._over:
            return False
        if name not in EVENTS:
            return False
        if name == "BLOCK_JOB_ERROR":
            if data["action"] == "stop":
                self.operation = data["operation"]
            # No look: with on-error=ignore there may be thousands of these events.
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
        if status not in PAUSED:
            # A user has resumed it.
            self.operation = None
            self.resumed += 1
        self._aborting |= status == "aborting"
        if status == "null":
            self._end(None)

    def look(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Take the list that `query_jobs` has returned after all events taken so far."""
        if self._over:
            # A new job may have the name by now.
            return
        found = next((JobInfo.of(job) for job in jobs if job["id"] == self.id), None)
        if found is not None:
            self.job = found
        if self.job is not None and (found is None or found.status == "concluded"):
            self._end(None if found is None else found.error)

    def lost(self) -> None:
        """Take the loss of the connection: no events or looks will follow.

        If the result is known, the job counts as over.
        """
        self._over = self._ending is not None

    def _end(self, error: str | None) -> None:
        """Note that the job is over; `error` is its error as seen by a look.

        An event has usually told the result already (`take_event`).  Jobs that are
        no block jobs, and jobs that never started, have no such event: for them
        the error, or the status "aborting" before, decides.
        """
        self._over = True
        if self._ending is not None:
            return
        if error == os.strerror(ECANCELED):
            self._ending = Ending("cancelled")
        elif error is not None or self._aborting:
            self._ending = Ending("failed", error)
        else:
            self._ending = Ending("completed")


class JobLife:
    """The events of a job in a journal, passed to its watch as they come.

    They begin with the last job of that id that was created, so that of an id that
    is used again only the present life counts.
    """

    def __init__(self, journal: Journal, job_id: str) -> None:
        self.watch = JobWatch(job_id)
        self._journal = journal
        self._next = _beginning(journal, job_id)
        self._stirred = False

    def take(self) -> None:
        """Pass on the events that have come."""
        for event in self._journal.since(self._next):
            self._stirred |= self.watch.take_event(event)
        self._next = self._journal.count

    def stirred(self) -> bool | None:
        """Return True, once, if an event makes a look worth while; None if not."""
        self.take()
        stirred, self._stirred = self._stirred, False
        return stirred or None


def _beginning(journal: Journal, job_id: str) -> int:
    """Return the number of the event with which the present life of a job begins."""
    number = journal.count
    for event in reversed(journal.events):
        number -= 1
        if event.name == "JOB_STATUS_CHANGE" and event["id"] == job_id:
            if event["status"] == "created":
                return number
    return journal.first


class Rate:
    """The recent speed of a job, pauses not counted."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, now_s: float, job: JobInfo) -> None:
        """Take the job as it was at a time of a monotonic clock, in seconds."""
        samples = self._samples
        if job.status != "running" or (samples and job.current < samples[-1][1]):
            samples.clear()
        samples.append((now_s, job.current))
        while len(samples) > 2 and samples[1][0] <= now_s - RATE_WINDOW_S:
            samples.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes per second; None if the samples cover less than `RATE_MIN_S`."""
        if not self._samples:
            return None
        (begin_s, begin), (end_s, end) = self._samples[0], self._samples[-1]
        if end_s - begin_s < RATE_MIN_S:
            return None
        return (end - begin) / (end_s - begin_s)

    def left_s(self, job: JobInfo) -> float | None:
        """Return how long the known rest of the job will take, in seconds; None if unknown."""
        rate = self.bytes_per_s
        if not rate or job.status != "running":
            return None
        return max(job.total - job.current, 0) / rate
