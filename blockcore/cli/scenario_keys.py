# SPDX-License-Identifier: MIT
"""The machine of a scenario file, as KEY=VALUE words of `serve`, and where each is in the file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from blockcore.bql.later import later
from blockcore.cli.config_file import machine_keys
from blockcore.process.temporary_drive import with_files
from blockcore.qapi.errors import QmpError
from blockcore.qapi.record import dataclass
from faultline.scenario.steps import Scenario

_server = later("blockcore.process.server:Server")


@dataclass(frozen=True, slots=True)
class ScenarioKeys:
    """The words, and for each the place in the file: ``late.yaml: line 7: drives[0]``.

    `rules` are words for all rules that the file or its steps add, which only `check` needs.
    """

    keys: tuple[str, ...]
    places: tuple[str, ...]
    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, scenario: Scenario) -> ScenarioKeys:
        """Return the keys of a scenario's machine; raises ClickException with the place."""
        members = {name: scenario.machine[name] for name in scenario.machine if name != "threads"}
        try:
            file = machine_keys(scenario.file, members)
        except click.ClickException as exc:
            raise click.ClickException(_with_line(exc.message, scenario)) from exc
        left = {key: iter(places) for key, places in file.places.items()}
        places = [_with_line(next(left[key.partition("=")[0]]), scenario) for key in file.keys]
        return cls(tuple(file.keys), tuple(places), tuple(_rules(scenario)))

    def check(self) -> None:
        """Raise ClickException, with the place, if the machine could not be started with them.

        Nothing is started, and no image opened; drives of a size get files, for a moment.
        Rules are checked for what makes no sense on any drive.
        """
        places: dict[str, list[str]] = {}
        for key, place in (*zip(self.keys, self.places, strict=True), *self.rules):
            places.setdefault(key.partition("=")[0], []).append(place)
        with tempfile.TemporaryDirectory() as directory:
            server = _server()({"FAULTLINE_PLACES": json.dumps(places)}, directory)
            try:
                keys = (*self.keys, *(key for key, _ in self.rules))
                for key in with_files(keys, Path(directory)):
                    server.config(*key.split("=", 1))
                server.config_complete()
            except QmpError as exc:
                raise click.ClickException(self.placed(str(exc))) from exc

    def placed(self, message: str) -> str:
        """Return an error of a machine's start, with the place for the key that it begins with."""
        for key, place in (*zip(self.keys, self.places, strict=True), *self.rules):
            if message.startswith(f"{key}: "):
                return f"{place}{message.removeprefix(key)}"
        return message


def _rules(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield a key for each rule, with its place; steps may use one id again and again."""
    ids = set()
    if not isinstance(scenario.faults, str):
        for at, rule in enumerate(scenario.faults):
            place = _with_line(f"{scenario.file}: faults[{at}]", scenario)
            if (id := rule.get("id")) in ids and id is not None:
                raise click.ClickException(f"{place}: there is a rule '{id}' before it")
            ids.add(id)
            yield _fault(rule), place
    for step in scenario.commands():
        if step.command == "x-fault-add" and step.error is None:
            yield _fault(step.arguments), f"{scenario.file}: line {step.line}: {step.field}"


def _fault(rule: Mapping[str, Any]) -> str:
    return f"fault={json.dumps({name: rule[name] for name in rule if name != 'id'})}"


def _with_line(text: str, scenario: Scenario) -> str:
    """Return a text that begins with a file and a field, with the line of the field between."""
    file, _, rest = text.partition(": ")
    name = rest.partition(":")[0].partition("].")[0]
    name = f"{name}]" if "[" in name and not name.endswith("]") else name
    line = scenario.lines.get(name) or scenario.lines.get(name.partition("[")[0])
    return text if line is None else f"{file}: line {line}: {rest}"
