# SPDX-License-Identifier: MIT
"""What a kind of job does: the work, and the steps of its end (QEMU's JobDriver).

`run` is the work.  After it, `prepare` may still fail; then come `commit` or
`abort`, and `clean`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from blockcore.qapi.names import JobType

J = TypeVar("J", contravariant=True)
"""The job that a driver works for."""


class JobDriver(Generic[J]):
    """The steps of one job; a kind overrides those that it has.

    A job has its driver.  The driver gets the job with each call, and does not keep
    it: two objects that refer to each other wait for Python's collector.
    """

    type: JobType

    async def run(self, job: J) -> None:
        """Do the work; raise OSError or QmpError if it fails."""
        raise NotImplementedError

    async def prepare(self, job: J) -> None:
        """Do those last steps of a successful job that can fail: by OSError or QmpError."""

    async def commit(self, job: J) -> None:
        """Settle a job that has succeeded, as all jobs of its transaction have."""

    async def abort(self, job: J) -> None:
        """Settle a job that has failed or was cancelled."""

    async def clean(self, job: J) -> None:
        """Give back everything, after `commit` and after `abort`."""

    async def pause(self, job: J) -> None:
        """Come to rest, before the job counts as paused."""

    def cancel(self, job: J, force: bool) -> bool:
        """Return whether to cancel at once; False: finish what was begun.

        `force` is what the client wants.
        """
        return True

    def complete(self, job: J) -> bool:
        """Bring a ready job to its end, as the user wants.

        Return False if the job cannot be completed now, or raise QmpError with a reason.
        """
        return False
