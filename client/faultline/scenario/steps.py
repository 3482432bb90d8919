# SPDX-License-Identifier: MIT
"""A scenario: the machine, its rules, what must not happen, and the steps of its timeline.

Times are in seconds.  `reading` makes these of a file, `play` plays them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from faultline.events import Pattern

WITHIN_S = 30.0
"""How long a step waits, if neither it nor its file says how long, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a timeline: the line and the field where it is in its file, and how it reads.

    It begins `after_s` after the end of the one before it.
    """

    line: int
    field: str
    text: str
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Step):
    """Nothing, for `after_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(Step):
    """Events that have to come within `within_s`: all of them, in any order, or one of them."""

    patterns: tuple[Pattern, ...]
    any: bool = False
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Step):
    """A command; `returns` is what its answer has to have, `error` what its refusal has to say.

    Without `error` it must not be refused.
    """

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    returns: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect(Step):
    """A query whose answer has to be so now, or at some time within `within_s`."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    returns: Any = None
    within_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits(Step):
    """A rule that has to hit so many requests, counted from when it was made."""

    id: str
    hits: int
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitJob(Step):
    """A job, there already or not, that has to come to where it is awaited (`JOB_STATES`).

    `error` is what the error of one that has failed has to say.
    """

    id: str
    until: str
    error: str | None = None
    within_s: float


JOB_STATES = ("ready", "pending", "stopped", "completed", "failed", "cancelled", "ended")
"""Where a job can be awaited: "stopped" is by an error, "ended" however it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Never(Step):
    """An event that must not come `more_than` so many times from now on.

    With `during` only until the end of these steps, else until the end of the scenario.
    """

    pattern: Pattern
    more_than: int = 0
    during: tuple[Step, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Step):
    """Steps that are played `times` times."""

    times: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Step):
    """A shell command that is started, and goes on beside the next steps."""

    name: str
    shell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Step):
    """The end of a shell command; `status` is what its exit status has to be, None for any."""

    name: str
    status: int | None = 0
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that a file says.

    `machine` has the members that are those of a file of `faultline serve --config`,
    and `lines` the line of each, and of each element of its lists (``drives[0]``).
    `faults` are rules, or the name of a file of rules.  `files` are scratch files, with
    their sizes in bytes.  The command that is tested is started after the steps of
    `before`, and after those at the beginning of `steps` that are commands; it has
    ended before those of `at_end`.  `allow` are events that may come though no step
    waits for them; `ends` is the run state at the end, None for any.
    """

    name: str
    file: str
    about: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] | str = ()
    before: tuple[Step, ...] = ()
    steps: tuple[Step, ...]
    at_end: tuple[Step, ...] = ()
    never: tuple[Never, ...] = ()
    allow: tuple[Pattern, ...] = ()
    ends: str | None = "running"
    linger_s: float = 0.0

    def commands(self) -> Iterator[Command]:
        """Yield the commands of all steps, in the order of the file."""
        yield from _commands((*self.before, *self.steps, *self.at_end))


def _commands(steps: Iterable[Step]) -> Iterator[Command]:
    for step in steps:
        if isinstance(step, Command):
            yield step
        elif isinstance(step, Repeat):
            yield from _commands(step.steps)
        elif isinstance(step, Never):
            yield from _commands(step.during or ())
