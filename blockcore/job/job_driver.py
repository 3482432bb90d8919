# SPDX-License-Identifier: MIT
"""What a kind of job has: the work, and the steps of its end (QEMU's JobDriver).

`run` is the work.  After it, `prepare` may still fail; then come `commit` or
`abort`, and `clean`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from blockcore.qapi.names import JobType

J = TypeVar("J", contravariant=True)
"""The job that a driver works for."""


class JobDriver(Generic[J]):
    """The steps of one job, and what happens where a kind does not have one.

    A job has its driver; the driver is told of the job each time, and does not
    keep it: what refers to each other waits for Python's collector.
    """

    type: JobType

    async def run(self, job: J) -> None:
        """The work; raises OSError or QmpError if it has failed."""
        raise NotImplementedError

    async def prepare(self, job: J) -> None:
        """What can fail of the end of a job that has succeeded so far: OSError or QmpError."""

    async def commit(self, job: J) -> None:
        """The job has succeeded, and all of its transaction."""

    async def abort(self, job: J) -> None:
        """The job has failed or was cancelled."""

    async def clean(self, job: J) -> None:
        """Give back everything, after either."""

    async def pause(self, job: J) -> None:
        """Come to rest, before the job counts as paused."""

    def cancel(self, job: J, force: bool) -> bool:
        """Whether to cancel at once (True), or to finish what was begun."""
        return True

    def complete(self, job: J) -> bool:
        """Come to an end, as the user wants; False if there is none to come to now, or QmpError."""
        return False
