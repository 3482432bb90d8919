# SPDX-License-Identifier: MIT
"""What a kind of job has: the work, and the steps of its end (QEMU's JobDriver).

`run` is the work.  After it, `prepare` may still fail; then come `commit` or
`abort`, and `clean`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from blockcore.nodes.graph.changing import Changing
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import JobType, QmpError
from blockcore.rules.host import Clocked, Emits, Spawns


class JobHost(Clocked, Emits, Spawns, Protocol):
    """What a job needs of its machine: `jobs`, the newest first; who has a part of `changing`
    may change that of the graph."""

    changing: Changing
    jobs: list[Any]


class Progress:
    """How far a job is, and of how much, in bytes; the estimate may grow."""

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


class JobDriver:
    """The steps of one job, and what happens where a kind does not have one.

    `error` is what the job ended with.
    """

    type: ClassVar[JobType]

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.progress = Progress()
        self.error: OSError | QmpError | None = None

    @property
    def nodes(self) -> list[BlockNode]:
        """What the job works on."""
        return []

    async def run(self) -> None:
        """The work; raises OSError or QmpError if it has failed."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """What can fail of the end of a job that has succeeded so far."""

    async def commit(self) -> None:
        """The job has succeeded, and all of its transaction."""

    async def abort(self) -> None:
        """The job has failed or was cancelled."""

    async def clean(self) -> None:
        """Give back everything, after either."""

    async def on_pause(self) -> None:
        """Come to rest, before the job counts as paused."""

    def on_user_resume(self) -> None:
        """The user wants it to go on."""

    def on_cancel(self, force: bool) -> bool:
        """Whether to cancel at once (True), or to finish what was begun."""
        return True

    def on_complete(self) -> None:
        """The user wants a ready job to come to its end; QmpError if it has none."""
        raise not_completable(self.id)

    def emit_ready(self) -> None:
        """Say that the job is ready, in the words of its kind."""

    def emit_pending(self) -> None:
        """Say that it waits to be finalized."""

    def emit_completed(self) -> None:
        """Say that it has ended, with `error` or without."""

    def emit_cancelled(self) -> None:
        """Say that it was cancelled."""


def not_completable(job_id: str) -> QmpError:
    """What a user hears who wants to complete a job that has nothing to complete."""
    return QmpError(f"The active block job '{job_id}' cannot be completed")
