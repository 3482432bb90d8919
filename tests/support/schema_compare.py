# SPDX-License-Identifier: MIT
"""Compare two answers of query-qmp-schema by what they say, not by how they number it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = list[dict[str, Any]]


def arguments_differ(ours: Schema, theirs: Schema, command: str) -> list[str]:
    """How the arguments of `command` (or the data of an event) differ; one line for each place.

    A line is ``path: difference``; the path names members as error messages
    do, with ``[]`` for an element, ``<case>`` for a variant of a union.
    """
    return list(_Comparison(ours, theirs).entities(command, "arg-type"))


def results_differ(ours: Schema, theirs: Schema, command: str) -> list[str]:
    """The same for what `command` returns."""
    return list(_Comparison(ours, theirs).entities(command, "ret-type"))


class _Comparison:
    def __init__(self, ours: Schema, theirs: Schema) -> None:
        self._ours = {entry["name"]: entry for entry in ours}
        self._theirs = {entry["name"]: entry for entry in theirs}
        self._seen: set[tuple[str, str]] = set()

    def entities(self, name: str, role: str) -> Iterator[str]:
        yield from self.types(self._ours[name][role], self._theirs[name][role], name)

    def types(self, our_name: str, their_name: str, path: str) -> Iterator[str]:
        if (our_name, their_name) in self._seen:
            return
        self._seen.add((our_name, their_name))
        ours, theirs = self._ours[our_name], self._theirs[their_name]
        kinds = ours["meta-type"], theirs["meta-type"]
        if kinds[0] != kinds[1]:
            yield f"{path}: {kinds[0]} here, {kinds[1]} there"
        elif kinds[0] == "builtin":
            if our_name != their_name:
                yield f"{path}: {our_name} here, {their_name} there"
        elif kinds[0] == "enum":
            yield from _sets(path, "value", set(ours["values"]), set(theirs["values"]))
        elif kinds[0] == "array":
            yield from self.types(ours["element-type"], theirs["element-type"], f"{path}[]")
        elif kinds[0] == "alternate":
            yield from self._alternates(ours, theirs, path)
        else:
            yield from self._objects(ours, theirs, path)

    def _objects(self, ours: Any, theirs: Any, path: str) -> Iterator[str]:
        our_members = {member["name"]: member for member in ours["members"]}
        their_members = {member["name"]: member for member in theirs["members"]}
        yield from _sets(path, "member", set(our_members), set(their_members))
        for name, member in our_members.items():
            if name in their_members:
                inner = f"{path}.{name}"
                if ("default" in member) != ("default" in their_members[name]):
                    yield f"{inner}: {'optional' if 'default' in member else 'mandatory'} here only"
                yield from self.types(member["type"], their_members[name]["type"], inner)
        if ours.get("tag") != theirs.get("tag"):
            yield f"{path}: tag {ours.get('tag')} here, {theirs.get('tag')} there"
        cases = {case["case"]: case["type"] for case in theirs.get("variants", [])}
        for case in ours.get("variants", []):
            if case["case"] not in cases:
                yield f"{path}: case {case['case']} here only"
            else:
                inner = f"{path}<{case['case']}>"
                yield from self.types(case["type"], cases[case["case"]], inner)

    def _alternates(self, ours: Any, theirs: Any, path: str) -> Iterator[str]:
        def by_form(schema: Any, entry: Any) -> dict[str, str]:
            types = [schema[member["type"]] for member in entry["members"]]
            return {_form(tp): tp["name"] for tp in types}

        our_forms, their_forms = by_form(self._ours, ours), by_form(self._theirs, theirs)
        yield from _sets(path, "choice", set(our_forms), set(their_forms))
        for form, name in our_forms.items():
            if form in their_forms:
                yield from self.types(name, their_forms[form], path)


def _form(entry: dict[str, Any]) -> str:
    return str(entry.get("json-type") or entry["meta-type"])


def _sets(path: str, what: str, ours: set[str], theirs: set[str]) -> Iterator[str]:
    for name in sorted(ours - theirs):
        yield f"{path}: {what} {name} here only"
    for name in sorted(theirs - ours):
        yield f"{path}: {what} {name} there only"
