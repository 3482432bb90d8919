# SPDX-License-Identifier: MIT
"""The steps of a scenario file: what each is called, what may stand beside it, how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faultline.events import Pattern
from faultline.names import did_you_mean, right_names
from faultline.scenario import steps as kinds
from faultline.scenario.answers import check_answer
from faultline.scenario.matching import Like, shown, wanted
from faultline.scenario.members import (
    COMMANDS,
    check_event,
    check_event_member,
    command,
    is_command,
    rule,
)
from faultline.scenario.scalars import count, seconds, shortened
from faultline.scenario.steps import Step
from faultline.scenario.values import Value


class StepReader:
    """Reads the steps of one file; `within_s` is how long they wait unless they say."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.ran: set[str] = set()

    def steps(self, value: Value) -> tuple[Step, ...]:
        """Return the steps of a list."""
        return tuple(map(self.step, value.items("steps")))

    def step(self, value: Value) -> Step:
        """Return a step; a text alone is a command without arguments."""
        members = value.data
        if not isinstance(members, dict):
            word = value.word("a mapping, such as {wait: STOP}")
            empty = Value(None, value.file, value.line, value.field)
            members = {word: empty}
        found = [name for name in members if name in VERBS or is_command(name)]
        if not found and set(members) == {"after"}:
            return kinds.Pause(**self._common(value, members, "after", ()))
        self._check_verbs(value, members, found)
        name = found[0]
        verb = VERBS.get(name) or _COMMAND
        common = self._common(value, members, name, verb.modifiers)
        return verb.read(_Reading(self, name, members[name], members, value), common)

    def _check_verbs(self, value: Value, members: Mapping[str, Value], found: list[str]) -> None:
        if len(found) > 1:
            value.wrong(f"it is two steps, {found[0]} and {found[1]}: give each its own -")
        if not found:
            all_modifiers = {name for verb in VERBS.values() for name in verb.modifiers}
            name = next((name for name in members if name not in all_modifiers), "")
            place = members[name] if name in members and members[name].line else value
            hint = did_you_mean(name, VERBS) or did_you_mean(name, COMMANDS)
            steps = f"; steps are {', '.join(VERBS)}, and commands"
            place.wrong(f"there is no step '{name}'{hint or steps}")

    def _common(
        self,
        value: Value,
        members: Mapping[str, Value],
        verb: str,
        modifiers: tuple[str, ...],
    ) -> dict[str, Any]:
        """Return the members that all steps have, with all that stands beside the verb checked."""
        known = (*modifiers, *COMMON)
        for name, member in members.items():
            if name not in (verb, *known):
                member.wrong(f"{verb} has no '{name}' beside it{right_names(name, known)}")
        plain = {name: member.plain() for name, member in members.items() if name in (verb, *known)}
        for name in ("steps", "during"):
            if name in plain:
                plain[name] = "..."
        text = ", ".join(
            name if plain[name] is None else f"{name}: {shown(plain[name])}"
            for name in plain
            if name != "note"
        )
        if "note" in members:
            text = f"{members['note'].word('a text')} ({text})"
        after_s = seconds(members["after"]) if "after" in members else 0.0
        common = {"line": value.line, "field": value.field, "after_s": after_s}
        return {**common, "text": shortened(text)}


@dataclass(frozen=True, slots=True)
class _Reading:
    """One step: the name of its verb, that one's value, and what stands beside it."""

    file: StepReader
    name: str
    value: Value
    beside: Mapping[str, Value]
    whole: Value

    def within_s(self) -> float:
        """Return how long the step waits."""
        return seconds(self.beside["within"]) if "within" in self.beside else self.file.within_s

    def only(self, *names: str) -> dict[str, Value]:
        """Return the members of the value, which are some of these."""
        members = self.value.mapping(f"a mapping, with {', '.join(names)}")
        for name, member in members.items():
            if name not in names:
                member.wrong(f"{self.name} has no member '{name}'{right_names(name, names)}")
        return members

    def needed(self, members: Mapping[str, Value], name: str) -> Value:
        """Return a member that has to be there."""
        if name not in members:
            self.value.wrong(f"{self.name} needs '{name}'")
        return members[name]

    def outcome(self, command: str) -> dict[str, Any]:
        """Return what a command has to answer."""
        found: dict[str, Any] = {}
        if "returns" in self.beside:
            found["returns"] = self.answer(command, self.beside["returns"])
        if "error" in self.beside:
            found["error"] = self.beside["error"].word("a text that the error has")
        if len(found) == 2:
            self.beside["error"].wrong("a command that is refused returns nothing")
        return found


    def answer(self, command: str, value: Value) -> Any:
        """Return what the answer of a command has to have."""
        found = wanted(value)
        check_answer(command, value)
        return found


def _wait(step: _Reading, common: dict[str, Any]) -> Step:
    if isinstance(step.value.data, list):
        step.value.wrong("it is one event; wait-any and wait-all have several")
    return kinds.Wait(patterns=(pattern(step.value),), within_s=step.within_s(), **common)


def _wait_several(step: _Reading, common: dict[str, Any]) -> Step:
    if not step.value.items("events"):
        step.value.wrong("it has no event")
    found = patterns(step.value)
    is_any = step.name == "wait-any"
    return kinds.Wait(patterns=found, any=is_any, within_s=step.within_s(), **common)


def _expect(step: _Reading, common: dict[str, Any]) -> Step:
    members = step.only("command", "arguments", "returns")
    name, arguments = command(step.needed(members, "command"), members.get("arguments"))
    returns = step.answer(name, step.needed(members, "returns"))
    within_s = step.within_s() if "within" in step.beside else None
    return kinds.Expect(
        command=name, arguments=arguments, returns=returns, within_s=within_s, **common
    )


def _qmp(step: _Reading, common: dict[str, Any]) -> Step:
    if isinstance(step.value.data, dict):
        members = step.only("execute", "arguments")
        name, arguments = command(step.needed(members, "execute"), members.get("arguments"))
    else:
        name, arguments = command(step.value, None)
    return kinds.Command(command=name, arguments=arguments, **step.outcome(name), **common)


def _command(step: _Reading, common: dict[str, Any]) -> Step:
    typed = Value(step.name, step.value.file, step.value.line, step.value.field, step.name)
    if step.value.data is not None and not isinstance(step.value.data, dict):
        step.value.wrong(f"it is a mapping, with the arguments of {step.name}")
    name, arguments = command(typed, step.value)
    return kinds.Command(command=name, arguments=arguments, **step.outcome(name), **common)


def _fault(step: _Reading, common: dict[str, Any]) -> Step:
    members = rule(step.value)
    outcome = step.outcome("x-fault-add")
    return kinds.Command(command="x-fault-add", arguments=members, **outcome, **common)


def _of_rule(command: str) -> Callable[[_Reading, dict[str, Any]], Step]:
    def read(step: _Reading, common: dict[str, Any]) -> Step:
        arguments = {"id": step.value.word("the id of a rule")}
        return kinds.Command(command=command, arguments=arguments, **common)

    return read


def _hits(step: _Reading, common: dict[str, Any]) -> Step:
    members = step.only("id", "hits")
    id = step.needed(members, "id").word("the id of a rule")
    hits = count(members["hits"], 1) if "hits" in members else 1
    return kinds.Hits(id=id, hits=hits, within_s=step.within_s(), **common)


def _job(step: _Reading, common: dict[str, Any]) -> Step:
    members = step.only("id", "until", "error")
    until = "completed"
    if "until" in members:
        until = members["until"].word("a state of a job")
        if until not in kinds.JOB_STATES:
            hint = right_names(until, kinds.JOB_STATES)
            members["until"].wrong(f"no job is awaited until '{until}'{hint}")
    error = members["error"].word("a text that the error has") if "error" in members else None
    if error is not None and until != "failed":
        members["error"].wrong("only a job awaited until 'failed' has an error")
    id = step.needed(members, "id").word("the id of a job")
    return kinds.AwaitJob(id=id, until=until, error=error, within_s=step.within_s(), **common)


def _never(step: _Reading, common: dict[str, Any]) -> Step:
    more_than = count(step.beside["more-than"]) if "more-than" in step.beside else 0
    during = None
    if "during" in step.beside:
        during = step.file.steps(step.beside["during"])
    found = pattern(step.value)
    return kinds.Never(pattern=found, more_than=more_than, during=during, **common)


def _repeat(step: _Reading, common: dict[str, Any]) -> Step:
    times = count(step.value, 1)
    if "steps" not in step.beside:
        step.whole.wrong("repeat needs 'steps'")
    steps = step.file.steps(step.beside["steps"])
    return kinds.Repeat(times=times, steps=steps, **common)


def _run(step: _Reading, common: dict[str, Any]) -> Step:
    shell = step.value.word("a shell command")
    name = step.beside["name"].word("a name") if "name" in step.beside else shell.split()[0]
    step.file.ran.add(name)
    return kinds.Run(name=name, shell=shell, **common)


def _done(step: _Reading, common: dict[str, Any]) -> Step:
    name = step.value.word("the name of a command that was run")
    if name not in step.file.ran:
        step.value.wrong(f"no step before runs '{name}'{right_names(name, step.file.ran)}")
    status: int | None = 0
    if "status" in step.beside:
        status = None if step.beside["status"].text == "any" else count(step.beside["status"])
    return kinds.Done(name=name, status=status, within_s=step.within_s(), **common)


@dataclass(frozen=True, slots=True)
class Verb:
    """A kind of step: what may stand beside its name, and how it is read."""

    read: Callable[[_Reading, dict[str, Any]], Step]
    modifiers: tuple[str, ...] = ()


COMMON = ("after", "note")
"""What may stand beside every verb."""

VERBS = {
    "wait": Verb(_wait, ("within",)),
    "wait-any": Verb(_wait_several, ("within",)),
    "wait-all": Verb(_wait_several, ("within",)),
    "expect": Verb(_expect, ("within",)),
    "job": Verb(_job, ("within",)),
    "hits": Verb(_hits, ("within",)),
    "never": Verb(_never, ("more-than", "during")),
    "fault": Verb(_fault, ("error",)),
    "release": Verb(_of_rule("x-fault-release")),
    "remove": Verb(_of_rule("x-fault-remove")),
    "qmp": Verb(_qmp, ("returns", "error")),
    "repeat": Verb(_repeat, ("steps",)),
    "run": Verb(_run, ("name",)),
    "done": Verb(_done, ("status", "within")),
}
"""The kinds of steps, by their names; the name of a command is one, too."""

_COMMAND = Verb(_command, ("returns", "error"))


def pattern(value: Value) -> Pattern:
    """Return the events that a value stands for: a name, or a mapping with `event`."""
    if not isinstance(value.data, dict):
        return Pattern.of(check_event(value))
    members = dict(value.data)
    if "event" not in members:
        value.wrong("it has no 'event'")
    name = check_event(members.pop("event"))
    for member, one in members.items():
        check_event_member(name, member, one)
    return Pattern(name, {member: Like(wanted(one)) for member, one in members.items()})


def patterns(value: Value) -> tuple[Pattern, ...]:
    """Return the events of a list, or of one."""
    items = value.data if isinstance(value.data, list) else [value]
    return tuple(map(pattern, items))
