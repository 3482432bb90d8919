# SPDX-License-Identifier: MIT
"""The events of a replay, and which requests cause them; without I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from faultline.recording import Line
from faultline.replay_steps import OPENING, Request

VARYING = frozenset({"offset", "len"})
"""Members of the events of block jobs that depend on how fast jobs were."""


def comparable(name: str, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the members of an event that repeat."""
    members = dict(data or {})
    if name.startswith("BLOCK_JOB_"):
        for member in VARYING:
            members.pop(member, None)
    return members


def causes_of(event: Line, requests: Iterable[Request]) -> list[Request]:
    """Return the requests one of which has caused a recorded event; none if that is unknown."""
    data = event.members.get("data") or {}
    under_way = [
        request
        for request in requests
        if request.line < event.number
        and (request.done is None or request.done.number > event.number)
    ]
    if event.value == "X_FAULT_TRIGGERED" and "connection" in data:
        return [one for one in under_way if one.connection == data["connection"]]
    if event.value != "BLOCK_IO_ERROR":
        return []
    asked = [one for one in under_way if one.number != OPENING]
    reads = data.get("operation") == "read"
    likely = [
        one
        for one in asked
        if one.drive == data.get("device") and (one.iotype == "read") == reads
    ]
    return likely or asked


class EventPool:
    """The events of the new machine that no line of the recording has been matched with.

    `recorded` are the lines of events that are to come.
    """

    def __init__(self, recorded: Iterable[Line] = ()) -> None:
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._to_come = Counter(
            _key(line.value, comparable(line.value, line.members.get("data"))) for line in recorded
        )

    def add(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Take an event that the machine has sent."""
        self._events.append((name, comparable(name, data)))

    def take(self, name: str, data: Mapping[str, Any] | None) -> bool:
        """Remove the first event that is equal; return whether there was one."""
        wanted = (name, comparable(name, data))
        if wanted not in self._events:
            return False
        self._events.remove(wanted)
        self._to_come[_key(*wanted)] -= 1
        return True

    def stray(self, name: str) -> dict[str, Any] | None:
        """Return the data of the first event of that name that no line to come is equal to."""
        left = Counter(self._to_come)
        for found, data in self._events:
            if found == name:
                key = _key(found, data)
                left[key] -= 1
                if left[key] < 0:
                    return data
        return None

    def like(self, name: str) -> dict[str, Any] | None:
        """Return the data of an event of that name, if there is one: of a stray one first."""
        stray = self.stray(name)
        if stray is not None:
            return stray
        return next((data for found, data in self._events if found == name), None)

    @property
    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """The events that nothing was matched with."""
        return list(self._events)


def _key(name: str, data: Mapping[str, Any]) -> str:
    return f"{name} {json.dumps(data, sort_keys=True)}"
