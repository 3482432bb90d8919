# SPDX-License-Identifier: MIT
"""The play of a scenario: moves, and the verdict, with a machine that is a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from faultline.errors import CommandError, MachineEnded
from faultline.events import Event, Journal
from faultline.scenario.moves import COMMAND, Execute, Start, Until
from faultline.scenario.play import Play
from faultline.scenario.reading import read
from faultline.scenario.report import verdict

Answer = Callable[["World"], Any]


class World:
    """A machine that answers as it is told, and whose time passes only while it is waited for.

    `later` are what happens, each at a time in seconds.
    """

    def __init__(
        self,
        text: str,
        *,
        command: str = "none",
        answers: Mapping[str, Any] | None = None,
        later: Mapping[Any, Callable[[World], None]] | None = None,
    ) -> None:
        self.now = 0.0
        self.journal = Journal()
        self.answers: dict[str, Any] = {"query-status": {"status": "running"}, **(answers or {})}
        self.asked: list[str] = []
        self.started: list[str] = []
        self.asked_before: dict[str, int] = {}
        self._later = sorted((later or {}).items())
        self.playing = Play(read(text, "a.yaml"), self.journal, lambda: self.now, command)

    def event(self, name: str, **data: Any) -> None:
        self.journal.add(Event(name, data, self.now))

    def play(self) -> Play:
        moves = self.playing.moves()
        outcome = None
        try:
            while True:
                move = moves.send(outcome)
                try:
                    outcome = self._made(move)
                except MachineEnded as lost:
                    outcome = self._made(moves.throw(lost))
        except StopIteration:
            return self.playing

    def _made(self, move: Execute | Until | Start) -> Any:
        match move:
            case Execute():
                self.asked.append(move.command)
                answer = self.answers.get(move.command, {})
                answer = answer(self) if callable(answer) else answer
                if isinstance(answer, MachineEnded):
                    raise answer
                return answer
            case Start():
                self.started.append(move.name)
                self.asked_before[move.name] = len(self.asked)
                return None
            case Until():
                return self._until(move)

    def _until(self, move: Until) -> Any:
        deadline = self.now + move.timeout_s
        while (found := move.look()) is None:
            if not self._later or self._later[0][0] > deadline:
                assert move.timeout_s < 1e5, "it would wait for ever"
                self.now = deadline
                return None
            at, happen = self._later.pop(0)
            self.now = max(self.now, at)
            happen(self)
        return found


def comes(name: str, **data: Any) -> Callable[[World], None]:
    return lambda world: world.event(name, **data)


def ends(status: int, name: str = COMMAND) -> Callable[[World], None]:
    return lambda world: world.playing.ended(name, status)


def what(world: World) -> str:
    failure = world.play().failure
    return "passed" if failure is None else failure.what


def refused(text: str) -> CommandError:
    return CommandError("cont", {"class": "GenericError", "desc": text})


WAIT = "steps: [{wait: STOP, within: 2s}]"
RESUMES = {1: comes("STOP"), 2: comes("RESUME")}
JOB = {
    "id": "j", "type": "mirror", "status": "running", "current-progress": 0, "total-progress": 8
}  # fmt: skip


def job(status: str, **members: Any) -> dict[str, Any]:
    return {"query-jobs": [{**JOB, "status": status, **members}], "query-block-jobs": []}


CASES: dict[str, tuple[World, str]] = {
    "an event in time": (World(WAIT, later={1: comes("STOP")}), "passed"),
    "an event too late": (World(WAIT, later={3: comes("STOP")}), "no STOP came within 2 s"),
    "in order": (World("steps: [{wait: STOP}, {wait: RESUME}]", later=RESUMES), "passed"),
    "out of order": (
        World("{allow: STOP, steps: [{wait: RESUME}, {wait: STOP}]}", later=RESUMES),
        "no STOP came within 30 s",
    ),
    "all in any order": (
        World("steps: [{wait-all: [RESUME, STOP]}]", later=RESUMES),
        "passed",
    ),
    "not all": (
        World("steps: [{wait-all: [RESUME, RESET, STOP, SHUTDOWN]}]", later=RESUMES),
        "no RESET and no SHUTDOWN came within 30 s",
    ),
    "any": (World("steps: [{wait-any: [RESUME, STOP]}]", later={1: comes("STOP")}), "passed"),
    "no other members": (
        World(
            "steps: [{wait: {event: BLOCK_IO_ERROR, device: vda}}]",
            later={1: comes("BLOCK_IO_ERROR", device="vdb")},
        ),
        "no BLOCK_IO_ERROR device=vda came within 30 s",
    ),
    "a stop that nobody waits for": (
        World("steps: [{wait: RESUME}]", later=RESUMES),
        "STOP came, and no step waits for it",
    ),
    "a stop that is allowed": (
        World("{allow: [STOP], steps: [{wait: RESUME}]}", later=RESUMES),
        "passed",
    ),
    "never": (
        World("{never: STOP, steps: [{wait: RESUME}]}", later=RESUMES),
        "STOP came, and must not (line 1)",
    ),
    "never during a pause": (
        World("{never: STOP, steps: [after: 5s]}", later=RESUMES),
        "STOP came, and must not (line 1)",
    ),
    "never too often": (
        World("{never: {event: RESUME, more-than: 1}, steps: [after: 5s]}",
              later={1: comes("RESUME"), 2: comes("RESUME")}),
        "RESUME came 2 times, more than 1, and must not (line 1)",
    ),
    "never, once it is said": (
        World("steps: [{wait: RESUME}, {never: RESUME}, {after: 5s}]",
              later={1: comes("RESUME")}),
        "passed",
    ),
    "never again, once it is said": (
        World("steps: [{wait: RESUME}, {never: RESUME}, {after: 5s}]",
              later={1: comes("RESUME"), 2: comes("RESUME")}),
        "RESUME came, and must not (line 1)",
    ),
    "never, until the end of some steps": (
        World("steps: [{never: RESUME, during: [after: 1s]}, {wait: RESUME}]",
              later={2: comes("RESUME")}),
        "passed",
    ),
    "never, before the end of some steps": (
        World("steps: [{never: RESUME, during: [after: 3s]}, {wait: RESUME}]",
              later={2: comes("RESUME")}),
        "RESUME came, and must not (line 1)",
    ),
    "as often as is repeated": (
        World("steps: [{repeat: 2, steps: [{wait: STOP}, {wait: RESUME}]}]",
              later={1: comes("STOP"), 2: comes("RESUME"), 3: comes("STOP"), 4: comes("RESUME")}),
        "passed",
    ),
    "a command that is refused": (
        World("steps: [cont]", answers={"cont": refused("No")}),
        "cont was refused: No",
    ),
    "a command that has to be refused": (
        World("steps: [{cont: , error: be}]", answers={"cont": refused("It cannot be")}),
        "passed",
    ),
    "a command that is not refused": (
        World("steps: [{cont: , error: be}]"),
        "cont was not refused",
    ),
    "a command that is refused otherwise": (
        World("steps: [{cont: , error: be}]", answers={"cont": refused("No")}),
        "cont was refused otherwise: No",
    ),
    "what a command returns": (
        World("steps: [{query-status: , returns: {status: paused}}]"),
        "query-status: status is running, not paused",
    ),
    "what is expected": (
        World("steps: [{expect: {command: query-status, returns: {status: running}}}]"),
        "passed",
    ),
    "what is not as expected": (
        World("steps: [{expect: {command: query-jobs, returns: []}}]",
              answers={"query-jobs": [1]}),
        "query-jobs: it is [1], not []",
    ),
    "what is as expected later": (
        World("steps: [{expect: {command: query-jobs, returns: []}, within: 1s}]",
              answers={"query-jobs": lambda world: [1] if world.now < 0.7 else []}),
        "passed",
    ),
    "what is as expected too late": (
        World("steps: [{expect: {command: query-jobs, returns: []}, within: 500ms}]",
              answers={"query-jobs": lambda world: [1] if world.now < 0.7 else []}),
        "query-jobs: it is [1], not [], within 0.5 s",
    ),
    "hits": (
        World("steps: [{hits: {id: f, hits: 2}}]",
              answers={"x-fault-wait": {"hits": 2, "timed-out": False}}),
        "passed",
    ),
    "a rule that hits no more": (
        World("steps: [{hits: {id: f, hits: 2}}]",
              answers={"x-fault-wait": {"hits": 1, "timed-out": False}}),
        "rule f has hit 1, not 2, and hits no more",
    ),
    "a job that is ready": (
        World("steps: [{job: {id: j, until: ready}}]", answers=job("ready")),
        "passed",
    ),
    "a job that does not become ready": (
        World("steps: [{job: {id: j, until: ready}, within: 1s}]", answers=job("running")),
        "job j is running, not ready within 1 s",
    ),
    "a job that there is not": (
        World("steps: [{job: {id: j}, within: 1s}]",
              answers={"query-jobs": [], "query-block-jobs": []}),
        "job j is not there, not completed within 1 s",
    ),
    "a job that fails": (
        World("steps: [{job: {id: j}}]", answers=job("concluded", error="No space")),
        "job j has failed: No space, and was not completed",
    ),
    "a job that fails as it has to": (
        World("steps: [{job: {id: j, until: failed, error: space}}]",
              answers=job("concluded", error="No space")),
        "passed",
    ),
    "a job that fails otherwise": (
        World("steps: [{job: {id: j, until: failed, error: time}}]",
              answers=job("concluded", error="No space")),
        "job j has failed otherwise: No space",
    ),
    "a job that ends somehow": (
        World("steps: [{job: {id: j, until: ended}}]",
              answers=job("concluded", error="Operation canceled")),
        "passed",
    ),
    "a guest that ends": (
        World("steps: [{run: sleep 1}, {done: sleep}]", later={1: ends(0, "sleep")}),
        "passed",
    ),
    "a guest that fails": (
        World("steps: [{run: sleep 1}, {done: sleep}]", later={1: ends(3, "sleep")}),
        "sleep has ended with status 3, not 0",
    ),
    "a guest that may fail": (
        World("steps: [{run: sleep 1}, {done: sleep, status: any}]", later={1: ends(3, "sleep")}),
        "passed",
    ),
    "a guest that hangs": (
        World("steps: [{run: sleep 1}, {done: sleep, within: 2s}]"),
        "sleep did not end within 2 s",
    ),
    "the command ends last": (
        World(WAIT, command="ends", later={1: comes("STOP"), 5: ends(0)}),
        "passed",
    ),
    "the command ends too early": (
        World(WAIT, command="ends", later={1: ends(0)}),
        "no STOP came; the command had ended with status 0",
    ),
    "the command ends, and it is waited a little": (
        World(f"linger: 1s\n{WAIT}", command="ends", later={1: ends(0), 1.5: comes("STOP")}),
        "passed",
    ),
    "the command ends, and it is waited in vain": (
        World(f"linger: 1s\n{WAIT}", command="ends", later={0.5: ends(0), 1.8: comes("STOP")}),
        "no STOP came; the command had ended with status 0",
    ),
    "the command has ended, and a guest goes on": (
        World("steps: [{run: sleep 1}, {wait: STOP}, {done: sleep}]", command="ends",
              later={1: ends(0), 2: comes("STOP"), 3: ends(0, "sleep")}),
        "passed",
    ),
    "the command has failed, and a guest hangs": (
        World("steps: [{run: sleep 1}, {wait: STOP}]", command="ends", later={1: ends(1)}),
        "no STOP came; the command had ended with status 1",
    ),
    "an expectation at the end": (
        World("{steps: [], at-end: [{expect: {command: query-jobs, returns: []}}]}",
              command="ends", later={1: ends(0)}, answers={"query-jobs": [1]}),
        "query-jobs: it is [1], not []",
    ),
    "a service that ends": (
        World(WAIT, command="stays", later={1: ends(0), 1.5: comes("STOP")}),
        "the command has ended with status 0, and should have stayed",
    ),
    "a service that stays": (
        World(WAIT, command="stays", later={1.5: comes("STOP")}),
        "passed",
    ),
    "a machine that stays paused": (
        World("steps: []", answers={"query-status": {"status": "paused"}}),
        "at the end the machine is paused, not running",
    ),
    "a machine that shall be paused": (
        World("{steps: [], ends: paused}", answers={"query-status": {"status": "paused"}}),
        "passed",
    ),
    "a machine that may be anything": (
        World("{steps: [], ends: any}", answers={"query-status": {"status": "paused"}}),
        "passed",
    ),
    "a machine that has ended": (
        World("steps: [cont]", answers={"cont": MachineEnded("the machine has ended")}),
        "the machine has ended",
    ),
    "a machine that has to end": (
        World("{steps: [], ends: shutdown}", answers={"query-status": MachineEnded("ended")}),
        "passed",
    ),
    "a machine that ends before it has to": (
        World("{steps: [cont], ends: shutdown}", answers={"cont": MachineEnded("ended")}),
        "ended",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    world, wanted = CASES[name]
    assert what(world) == wanted


def test_the_command_is_started_after_the_steps_before_it() -> None:
    world = World(
        "{before: [{run: fill}, {done: fill}], steps: [{run: guest}]}",
        command="stays",
        later={1: ends(0, "fill")},
    )
    assert world.play().failure is None
    assert world.started == ["fill", COMMAND, "guest"]


AT_ONCE = {
    "a rule, and a command": ("[{fault: {node-name: vda}}, stop, {wait: STOP}]", 2),
    "a command after a while": ("[stop, {cont: , after: 1s}, {wait: STOP}]", 1),
    "an expectation": ("[{expect: {command: query-status, returns: {}}}, stop]", 0),
    "steps that are repeated": ("[{repeat: 2, steps: [stop]}]", 0),
}
"""The steps of a file, and how many of its commands are done before the command begins."""


@pytest.mark.parametrize("name", AT_ONCE)
def test_the_command_is_started_at_the_first_step_that_waits(name: str) -> None:
    text, number = AT_ONCE[name]
    answers = {"x-fault-add": {"id": "f"}}
    world = World(f"{{steps: {text}, ends: any}}", command="stays", answers=answers)
    world.play()
    assert world.asked_before[COMMAND] == number


def test_a_step_begins_after_its_time() -> None:
    world = World("steps: [{cont: , after: 2s}]", answers={"cont": lambda world: world.now})
    assert world.play().failure is None
    assert (world.asked[0], world.now) == ("cont", 2.0)


def test_the_report_of_a_failure() -> None:
    world = World(
        "steps:\n- stop\n- repeat: 2\n  steps:\n  - wait: STOP\n    note: it stops\n",
        command="ends",
        later={1: comes("STOP"), 2: comes("RESUME"), 3: ends(4)},
    )
    playing = world.play()
    assert verdict(playing, began=0.0, took_s=3.0, command="sh x").splitlines() == [
        "a: failed: no STOP came; the command had ended with status 4",
        "  a.yaml, line 5, steps[1].steps[0] (turn 2 of 2): it stops (wait: STOP)",
        "  passed before it: 2 steps, the last of them in line 5: it stops (wait: STOP)",
        "  the machine is running",
        "  1 event since what was waited for last:",
        "      2.000 RESUME",
        "  the command, sh x, had ended with status 4",
    ]


def test_the_report_of_a_play_that_is_cut_off() -> None:
    world = World("steps: [{wait: STOP}]", command="ends")
    next(world.playing.moves())
    world.playing.cut_off("not over within 5 s")
    assert verdict(world.playing, began=0.0, took_s=5.0, command="sh x").splitlines() == [
        "a: failed: not over within 5 s",
        "  a.yaml: before the first step",
        "  no event has come",
        "  the command, sh x, still ran",
    ]


def test_the_reports_of_what_has_passed() -> None:
    world = World(WAIT, later={1: comes("STOP")})
    assert verdict(world.play(), began=0.0, took_s=1.0, command=None) == (
        "a: passed, 1 step in 1.0 s"
    )
    world = World(WAIT, command="ends", later={1: comes("STOP"), 2: ends(7)})
    assert verdict(world.play(), began=0.0, took_s=1.0, command="x") == (
        "a: all steps passed, but the command, x, had ended with status 7"
    )
