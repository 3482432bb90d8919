# SPDX-License-Identifier: MIT
"""Several changes, all of them or none: the engine of QMP's `transaction`.

Every action is *prepared*, in order: it does what can fail, and registers what
the commit does and what undoes the preparation.  If an action fails, what the
earlier actions have registered for an abort happens in reverse order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from blockcore.job.job_txn import JobTxn
from blockcore.machine.drain import Drain, Drainable
from blockcore.nodes.node import BlockNode

T = TypeVar("T")

Step = Callable[[], Awaitable[None] | None]
"""A step of a commit or an abort, which does not fail; a coroutine function or a plain one."""


class ActionCompletionMode(StrEnum):
    """Whether the jobs of a transaction succeed and fail each for itself, or together."""

    INDIVIDUAL = "individual"
    GROUPED = "grouped"


class Transaction:
    """One transaction under way.

    `completion_mode` is for actions that start jobs.  Jobs that succeed or fail
    together share `job_txn`, else it is None.  With `newest_first` the commit
    takes the actions in reverse order.  `async with` keeps nodes drained that
    actions drain.
    """

    def __init__(
        self,
        completion_mode: ActionCompletionMode,
        job_txn: JobTxn | None = None,
        *,
        newest_first: bool = False,
    ) -> None:
        self.completion_mode = completion_mode
        self.job_txn = job_txn
        self._newest_first = newest_first
        self._commit: list[Step] = []
        self._abort: list[Step] = []
        self._drains: list[Drain] = []

    async def drain(self, host: Drainable, node: BlockNode) -> None:
        """Drain a node from now until the end of the transaction."""
        drain = Drain(host, [node])
        drain.begin()
        self._drains.append(drain)
        await drain.settled()

    async def __aenter__(self) -> None:
        """Begin the context, at whose end the nodes that actions have drained go on."""

    async def __aexit__(self, *_: object) -> None:
        drains = self._ordered(self._drains)
        for drain in drains:
            drain.end()
        for drain in drains:
            await drain.noticed()

    def on_commit(self, step: Step) -> None:
        """Register a step for the commit, when all actions have been prepared."""
        self._commit.append(step)

    def on_abort(self, step: Step) -> None:
        """Register a step that undoes what was prepared, if this action or a later one fails."""
        self._abort.append(step)

    async def commit(self) -> None:
        """Carry out what was registered with `on_commit`, in the order of the release."""
        for step in self._ordered(self._commit):
            await _take(step)

    def _ordered(self, registered: list[T]) -> list[T]:
        return registered[::-1] if self._newest_first else list(registered)

    async def abort(self) -> None:
        """Undo all preparations, the last one first."""
        for step in reversed(self._abort):
            await _take(step)


async def _take(step: Step) -> None:
    pending = step()
    if pending is not None:
        await pending
