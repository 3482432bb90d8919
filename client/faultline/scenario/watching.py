# SPDX-License-Identifier: MIT
"""Events and jobs that a step waits for, and events that must not come."""

from __future__ import annotations

from collections.abc import Sequence

from faultline.events import Journal, Pattern, Wanted, WantedAny
from faultline.job_watch import JobWatch
from faultline.scenario.moves import Broken
from faultline.scenario.steps import AwaitJob, Never


class Awaited:
    """Events behind event number `start`: one of several kinds, or one of each kind."""

    def __init__(
        self, journal: Journal, patterns: Sequence[Pattern], start: int, any: bool
    ) -> None:
        self._left: list[Wanted | WantedAny]
        if any:
            self._left = [WantedAny(journal, patterns, start)]
        else:
            self._left = [Wanted(journal, [pattern], start) for pattern in patterns]
        self._end = start

    def look(self) -> int | None:
        """Return the number after the last of the events, and take them; None if one is missing."""
        for wanted in list(self._left):
            if wanted.look() is not None:
                self._end = max(self._end, wanted.end)
                self._left.remove(wanted)
        return None if self._left else self._end

    def missing(self) -> str:
        """Return what has not come yet, as text."""
        return " and no ".join(wanted.missing() for wanted in self._left)


class Watch:
    """An event that must not come so often, from event number `start` on."""

    def __init__(self, journal: Journal, never: Never, start: int) -> None:
        self._journal = journal
        self._never = never
        self._next = start
        self._came = 0
        self._what: str | None = None

    def violation(self) -> str | None:
        """Return what has come that must not, as text; None if nothing has."""
        limit = self._never.more_than
        for event in self._journal.since(self._next):
            self._next += 1
            if self._never.pattern.fits(event):
                self._came += 1
                if self._came > limit and self._what is None:
                    times = f" {self._came} times, more than {limit}" if limit else ""
                    self._what = f"{event} came{times}, and must not (line {self._never.line})"
        return self._what


def job_is_there(watch: JobWatch, step: AwaitJob) -> bool:
    """Return whether a job is where it is awaited; raises Broken if it has ended otherwise."""
    ending = watch.ending
    if ending is None:
        return watch.need is not None and watch.need.value == step.until
    why = f": {ending.error}" if ending.error else ""
    if step.until not in (ending.status, "ended"):
        raise Broken(f"job {step.id} has {_ENDED[ending.status]}{why}, and was not {step.until}")
    if step.error is not None and step.error not in (ending.error or ""):
        raise Broken(f"job {step.id} has failed otherwise{why}")
    return True


_ENDED = {"completed": "completed", "failed": "failed", "cancelled": "been cancelled"}


def job_state(watch: JobWatch) -> str:
    """Return a clause with where a job is."""
    if watch.job is None:
        return "is not there"
    need = f", {watch.need.value}" if watch.need is not None else ""
    return f"is {watch.job.status}{need}"
