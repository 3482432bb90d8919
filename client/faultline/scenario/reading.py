# SPDX-License-Identifier: MIT
"""From the text of a scenario file to a scenario; no I/O.

What makes no sense is a ScenarioError, one line with file, line and field, and with the
name that was probably meant.  `FIELDS` are all members of a file, `verbs.VERBS` all
steps; docs/scenarios.md describes each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from faultline.names import right_names
from faultline.scenario.members import node, rule
from faultline.scenario.scalars import count, seconds, shortened, size
from faultline.scenario.steps import WITHIN_S, Never, Scenario
from faultline.scenario.tree import FILES, SET, parsed
from faultline.scenario.values import Value
from faultline.scenario.verbs import StepReader, pattern, patterns
from faultline.schema import RunState

MACHINE = (
    *("drives", "blockdevs", "devices", "prelaunch", "job-error-check", "qemu", "seed", "name"),
    *("record", "record-data", "allow-backing", "x-sticky-io-status", "threads"),
)
"""Members that are those of a file of `faultline serve --config`."""

FIELDS = (
    *("about", SET, FILES, *MACHINE, "faults", "timeout", "before", "steps", "at-end"),
    *("never", "allow", "ends", "linger"),
)
"""The members of a file."""

STATES = get_args(RunState)


def read(
    text: str, file: str, given: Mapping[str, str] | None = None, directory: str = "."
) -> Scenario:
    """Return the scenario that a file's text describes; raises ScenarioError.

    `given` are variables that replace the file's; `directory` is where its scratch files will be.
    """
    root = parsed(text, file, given or {}, directory)
    return _File(root, given or {}).scenario()


class _File:
    """The members of a file, on their way to a scenario."""

    def __init__(self, root: Value, given: Mapping[str, str]) -> None:
        self._root = root
        self._given = given
        self._members = root.mapping("a mapping, with steps")
        for name, value in self._members.items():
            if name not in FIELDS:
                value.wrong(f"there is no such member{right_names(name, FIELDS)}")
        self._steps = StepReader(self._one("timeout", seconds, WITHIN_S))

    def _one(self, name: str, read: Callable[[Value], Any], default: Any) -> Any:
        value = self._members.get(name)
        return default if value is None else read(value)

    def scenario(self) -> Scenario:
        if "steps" not in self._members:
            self._root.wrong("it has no steps")
        file = self._root.file
        return Scenario(
            name=re.sub(r"\.ya?ml$", "", file.rpartition("/")[2]),
            file=file,
            about=" ".join(self._one("about", lambda value: value.word("a text"), "").split()),
            variables={**self._one(SET, _texts, {}), **self._given},
            files=self._one(FILES, _files, {}),
            machine=self._machine(),
            lines=self._lines(),
            faults=self._one("faults", _faults, ()),
            never=self._one("never", self._nevers, ()),
            before=self._one("before", self._steps.steps, ()),
            steps=self._steps.steps(self._members["steps"]),
            at_end=self._one("at-end", self._steps.steps, ()),
            allow=self._one("allow", patterns, ()),
            ends=self._one("ends", _state, "running"),
            linger_s=self._one("linger", seconds, 0.0),
        )

    def _machine(self) -> dict[str, Any]:
        found = {name: self._members[name].plain() for name in MACHINE if name in self._members}
        if "blockdevs" in found:
            found["blockdevs"] = [node(item) for item in self._members["blockdevs"].items("nodes")]
        return found

    def _lines(self) -> dict[str, int]:
        lines = {}
        for name in (*MACHINE, "faults"):
            if name in self._members:
                value = self._members[name]
                lines[name] = value.line
                if isinstance(value.data, list):
                    lines |= {item.field: item.line for item in value.data}
        return lines

    def _nevers(self, value: Value) -> tuple[Never, ...]:
        items = value.data if isinstance(value.data, list) else [value]
        found = []
        for item in items:
            limit, data = 0, item.data
            if isinstance(data, dict) and "more-than" in data:
                limit = count(data["more-than"])
                rest = {name: member for name, member in data.items() if name != "more-than"}
                item = Value(rest, item.file, item.line, item.field)
            one = pattern(item)
            text = shortened(f"never: {one}")
            found.append(
                Never(line=item.line, field=item.field, text=text, pattern=one, more_than=limit)
            )
        return tuple(found)


def _files(value: Value) -> dict[str, int]:
    found = {}
    for name, member in value.mapping("a mapping from names to sizes").items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            member.wrong("this can be no name of a file")
        found[name] = size(member)
    return found


def _faults(value: Value) -> tuple[Mapping[str, Any], ...] | str:
    """Return rules, or the name of a file of rules."""
    if value.text is not None:
        return value.word("a list of rules, or the name of a file of rules")
    return tuple(map(rule, value.items("rules")))


def _texts(value: Value) -> dict[str, str]:
    return {name: member.text or "" for name, member in value.mapping("a mapping").items()}


def _state(value: Value) -> str | None:
    state = value.word("a run state, or any")
    if state == "any":
        return None
    if state not in STATES:
        value.wrong(f"there is no run state '{state}'{right_names(state, (*STATES, 'any'))}")
    return state
