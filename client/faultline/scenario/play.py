# SPDX-License-Identifier: MIT
"""The play of a scenario: what is done next, and what has come of it; no I/O.

`Play.moves` is a generator of moves, which a player makes: it sends back what a command
returned, or what was found.  Steps take events in their order: each looks for its event
behind the one that was waited for last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from faultline.errors import CommandError, FaultlineError, MachineEnded
from faultline.events import Event, Journal
from faultline.job_info import merge
from faultline.job_watch import JobLife
from faultline.scenario import steps as kinds
from faultline.scenario.matching import difference
from faultline.scenario.moves import COMMAND, Broken, Execute, Move, Moves, Over, Start, Until
from faultline.scenario.steps import Scenario, Step
from faultline.scenario.watching import Awaited, Watch, job_is_there, job_state

ASK_AGAIN_S = 0.1
"""How long an answer that is not as expected yet is left alone, if no event comes, in seconds."""

FOREVER_S = 1e6
"""How long the end of the command is waited for: without a deadline of its own."""

UNASKED = "STOP"
"""The event that a step has to wait for, or that the scenario has to allow."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What was not as it should be: in which step, or None at the end, and what came instead.

    `events` are those since what was waited for last; `state` is the run state then.
    """

    step: Step | None
    what: str
    events: Sequence[Event] = ()
    state: str | None = None
    turns: str = ""


class Play:
    """One play of a scenario, on a connection whose events are in `journal`.

    `command` is "none", "ends" if there is one that ends by itself, or "stays" if it
    has to be there until the end.  `clock` returns seconds.  `done` are the steps that
    have passed, `rules` the ids of the rules that they have added; `at_end` is whether
    all before the end of the command have.
    """

    def __init__(
        self,
        scenario: Scenario,
        journal: Journal,
        clock: Callable[[], float],
        command: str = "none",
    ) -> None:
        self.scenario = scenario
        self.done: list[Step] = []
        self.rules: list[str] = []
        self.failure: Failure | None = None
        self.at_end = False
        self._journal = journal
        self._clock = clock
        self._command = command
        self._status: dict[str, int] = {}
        self._running: set[str] = set()
        self._mark = self._began = journal.count
        self._watches = [Watch(journal, never, journal.count) for never in scenario.never]
        self._turns: list[str] = []
        self._step: Step | None = None
        self._over_s: float | None = None

    @property
    def status(self) -> int | None:
        """The exit status of the command; None while it runs, or if there is none."""
        return self._status.get(COMMAND)

    def ended(self, name: str, status: int) -> None:
        """Take the end of a program: of a `Start`, or of the `COMMAND`.

        All events that came before have to be in the journal.
        """
        self._running.discard(name)
        self._status[name] = status

    def moves(self) -> Moves:
        """Play the scenario: yield what is to be done, until it is over; then see `failure`.

        A MachineEnded is thrown in if the machine has ended.
        """
        try:
            yield from self._all(self.scenario.before)
            # Otherwise the command could be past what a rule at the beginning is for.
            at_once = tuple(takewhile(_is_at_once, self.scenario.steps))
            yield from self._all(at_once)
            if self._command != "none":
                yield Start(COMMAND)
            yield from self._all(self.scenario.steps[len(at_once) :])
            yield from self._end()
        except Broken as exc:
            yield from self._fail(str(exc))
        except MachineEnded as exc:
            if self._step is not None or self.scenario.ends != "shutdown":
                self.failure = self._failure(str(exc), None)

    def cut_off(self, what: str) -> None:
        """Take the end of a play that is not played further; `what` is why."""
        self.failure = self._failure(what, None)

    def _fail(self, what: str) -> Moves:
        failure = self._failure(what, None)
        try:
            status = yield Execute("query-status")
        except MachineEnded:
            status = None
        state = status["status"] if isinstance(status, Mapping) else None
        self.failure = Failure(failure.step, what, failure.events, state, failure.turns)

    def _failure(self, what: str, state: str | None) -> Failure:
        events = self._journal.since(self._mark)
        return Failure(self._step, what, events, state, ", ".join(self._turns))

    def _end(self) -> Moves:
        """Wait for the end of the command; see how it has left the machine."""
        self._step, self.at_end = None, True
        if self._command == "ends":
            yield from self._until(lambda: self.status, FOREVER_S)
        yield from self._all(self.scenario.at_end)
        self._step = None
        status = yield Execute("query-status")
        self._check()
        self._check_unasked()
        wanted = self.scenario.ends
        if wanted is not None and status["status"] != wanted:
            raise Broken(f"at the end the machine is {status['status']}, not {wanted}")

    def _check_unasked(self) -> None:
        for _, event in self._journal.untaken(self._began):
            allowed = any(pattern.fits(event) for pattern in self.scenario.allow)
            if event.name == UNASKED and not allowed:
                raise Broken(f"{event} came, and no step waits for it")

    def _all(self, steps: Sequence[Step]) -> Moves:
        for step in steps:
            self._step = step
            if step.after_s:
                yield Until(self._violated, step.after_s)
                self._check()
            yield from self._play(step)
            self._check()
            self.done.append(step)

    def _play(self, step: Step) -> Moves:
        match step:
            case kinds.Wait():
                yield from self._wait(step)
            case kinds.Command():
                yield from self._run_command(step)
            case kinds.Expect():
                yield from self._expect(step)
            case kinds.Hits():
                yield from self._hits(step)
            case kinds.AwaitJob():
                yield from self._job(step)
            case kinds.Never():
                yield from self._never(step)
            case kinds.Repeat():
                yield from self._repeat(step)
            case kinds.Run():
                self._status.pop(step.name, None)
                self._running.add(step.name)
                yield Start(step.name, step.shell)
            case kinds.Done():
                yield from self._done(step)

    # What every step looks at.

    def _check(self) -> None:
        """Raise Broken if something has come that must not."""
        what = self._violated()
        if what is not None:
            raise Broken(what)

    def _violated(self) -> str | None:
        """Return what must not be, as text; None if there is nothing of that kind."""
        for watch in self._watches:
            what = watch.violation()
            if what is not None:
                return what
        if self._command == "stays" and self.status is not None:
            return f"the command has ended with status {self.status}, and should have stayed"
        return None

    def _is_over(self) -> bool:
        """Return whether the command has ended, and nothing else can bring what is waited for.

        After a success that is so once the programs of the scenario have ended as well.
        """
        if self._command != "ends" or self.status is None:
            return False
        return self.status != 0 or not self._running

    def _until(self, look: Callable[[], Any], timeout_s: float) -> Generator[Move, Any, Any]:
        """Return what `look` finds; None after `timeout_s`.

        Raises Broken, and Over if the command has ended before; the scenario's
        `linger_s` is waited from then on.
        """

        def looked(patient: bool) -> Any:
            violation = self._violated()
            if violation is not None:
                return Broken(violation)
            found = look()
            if found is not None:
                return [found]
            return None if patient or not self._is_over() else Over()

        came = yield Until(lambda: looked(False), timeout_s)
        if isinstance(came, Over):
            if self._over_s is None:
                self._over_s = self._clock()
            left_s = self._over_s + self.scenario.linger_s - self._clock()
            if left_s <= 0:
                raise came
            came = yield Until(lambda: looked(True), min(timeout_s, left_s))
            if came is None:
                raise Over
        if isinstance(came, Broken):
            raise came
        return None if came is None else came[0]

    def _awaited(
        self, look: Callable[[], Any], timeout_s: float, missing: Callable[[], str]
    ) -> Generator[Move, Any, Any]:
        """Return what `look` finds; raises Broken with what was `missing`, and why."""
        try:
            found = yield from self._until(look, timeout_s)
        except Over:
            raise Broken(f"{missing()}; the command had ended with status {self.status}") from None
        if found is None:
            raise Broken(f"{missing()} within {timeout_s:g} s")
        return found

    # The steps.

    def _wait(self, step: kinds.Wait) -> Moves:
        wanted = Awaited(self._journal, step.patterns, self._mark, step.any)
        self._mark = yield from self._awaited(
            wanted.look, step.within_s, lambda: f"no {wanted.missing()} came"
        )

    def _run_command(self, step: kinds.Command) -> Moves:
        outcome = yield Execute(step.command, step.arguments)
        if step.error is not None:
            if not isinstance(outcome, CommandError):
                raise Broken(f"{step.command} was not refused")
            if step.error not in outcome.text:
                raise Broken(f"{step.command} was refused otherwise: {outcome.text}")
        elif isinstance(outcome, FaultlineError):
            raise Broken(_refused(outcome))
        elif step.command == "x-fault-add":
            self.rules.append(outcome["id"])
        if step.returns is not None:
            found = difference(step.returns, outcome)
            if found is not None:
                raise Broken(f"{step.command}: {found}")

    def _expect(self, step: kinds.Expect) -> Moves:
        deadline = self._clock() + (step.within_s or 0)
        over = False
        while True:
            seen = self._journal.count
            outcome = yield Execute(step.command, step.arguments)
            if isinstance(outcome, FaultlineError):
                raise Broken(_refused(outcome))
            found = difference(step.returns, outcome)
            if found is None:
                return
            what = f"{step.command}: {found}"
            left_s = deadline - self._clock()
            if step.within_s is None:
                raise Broken(what)
            if over:
                raise Broken(f"{what}; the command had ended with status {self.status}")
            if left_s <= 0:
                raise Broken(f"{what}, within {step.within_s:g} s")
            try:
                yield from self._until(
                    lambda seen=seen: self._journal.count > seen or None,  # type: ignore[misc]
                    min(left_s, ASK_AGAIN_S),
                )
            except Over:
                over = True

    def _hits(self, step: kinds.Hits) -> Moves:
        deadline = self._clock() + step.within_s
        while True:
            over = self._is_over()
            left_s = max(min(deadline - self._clock(), ASK_AGAIN_S), 0)
            members = {"id": step.id, "hits": step.hits, "timeout-ms": int(left_s * 1000)}
            outcome = yield Execute("x-fault-wait", members)
            if isinstance(outcome, FaultlineError):
                raise Broken(_refused(outcome))
            if outcome["hits"] >= step.hits:
                return
            what = f"rule {step.id} has hit {outcome['hits']}, not {step.hits}"
            if not outcome["timed-out"]:
                raise Broken(f"{what}, and hits no more")
            self._check()
            if over:
                raise Broken(f"{what}; the command had ended with status {self.status}")
            if left_s <= 0:
                raise Broken(f"{what}, within {step.within_s:g} s")

    def _job(self, step: kinds.AwaitJob) -> Moves:
        life = JobLife(self._journal, step.id)
        deadline = self._clock() + step.within_s
        while True:
            jobs = yield Execute("query-jobs")
            block_jobs = yield Execute("query-block-jobs")
            for outcome in (jobs, block_jobs):
                if isinstance(outcome, FaultlineError):
                    raise Broken(_refused(outcome))
            life.take()
            life.watch.look(merge(jobs, block_jobs))
            if job_is_there(life.watch, step):
                return
            yield from self._awaited(
                life.stirred,
                max(deadline - self._clock(), 0),
                lambda: f"job {step.id} {job_state(life.watch)}, not {step.until}",
            )

    def _never(self, step: kinds.Never) -> Moves:
        watch = Watch(self._journal, step, self._journal.count)
        self._watches.append(watch)
        if step.during is not None:
            yield from self._all(step.during)
            self._step = step
            self._check()
            self._watches.remove(watch)

    def _repeat(self, step: kinds.Repeat) -> Moves:
        for turn in range(step.times):
            self._turns.append(f"turn {turn + 1} of {step.times}")
            yield from self._all(step.steps)
            self._turns.pop()

    def _done(self, step: kinds.Done) -> Moves:
        status = yield from self._awaited(
            lambda: self._status.get(step.name), step.within_s, lambda: f"{step.name} did not end"
        )
        if step.status is not None and status != step.status:
            raise Broken(f"{step.name} has ended with status {status}, not {step.status}")


def _is_at_once(step: Step) -> bool:
    """Return whether a step changes something, and waits for nothing."""
    return isinstance(step, kinds.Command) and not step.after_s


def _refused(error: FaultlineError) -> str:
    return (
        f"{error.command} was refused: {error.text}"
        if isinstance(error, CommandError)
        else str(error)
    )
