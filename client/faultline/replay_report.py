# SPDX-License-Identifier: MIT
"""What a replay has found: the first difference, with both sides."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from faultline.errors import FaultlineError
from faultline.recording import Line
from faultline.replay_events import EventPool, comparable
from faultline.replay_steps import OPENING, Request

SHOWN = 5
"""The most events that are shown of those that the recording does not have."""


class Divergence(FaultlineError):
    """The first difference between a recording and its replay.

    `line` is its number in the recording, `what` the thing that differs; `recorded` and
    `replayed` are the two sides.
    """

    def __init__(self, line: int, what: str, recorded: str, replayed: str) -> None:
        self.line = line
        self.what = what
        self.recorded = recorded
        self.replayed = replayed
        super().__init__(f"line {line}: {what}: recorded {recorded}, replayed {replayed}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request has ended for its client: `number` is an errno, 0 for success.

    `digest` is that of what a read has read.  `lost` says that the server hung up instead.
    That of an attempt to connect is ECONNREFUSED if the server has refused it.
    """

    number: int = 0
    digest: int | None = None
    lost: bool = False


def errno_text(number: int) -> str:
    """Return an errno as text.

    >>> errno_text(28), errno_text(0)
    ('ENOSPC (No space left on device)', 'success')
    """
    if not number:
        return "success"
    return f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"


def compare_done(line: Line, request: Request, outcome: Outcome) -> None:
    """Raise Divergence unless a request has ended as in the recording."""
    if request.number == OPENING:
        _compare_opening(line, request, outcome)
        return
    recorded = int(line.members.get("errno", 0))
    what = f"the end of {request}"
    if outcome.lost:
        # A rule, or the loss of power, hangs up on the client, who sees nothing of the errno.
        if not recorded:
            raise Divergence(line.number, what, errno_text(recorded), "the server has hung up")
        return
    if outcome.number != recorded:
        raise Divergence(line.number, what, errno_text(recorded), errno_text(outcome.number))
    digest = line.members.get("digest")
    if request.compares and digest is not None and digest != outcome.digest:
        raise Divergence(
            line.number, f"what {request} has read", f"digest {digest}", f"digest {outcome.digest}"
        )


def _compare_opening(line: Line, attempt: Request, outcome: Outcome) -> None:
    hung_up, refused, connected = "the server has hung up", "a refusal", "a connection"
    if line.kind == "connect":
        recorded = connected
    else:
        recorded = hung_up if line.members.get("hung-up") else refused
    replayed = hung_up if outcome.lost else refused if outcome.number else connected
    if recorded != replayed:
        raise Divergence(line.number, f"the opening of {attempt}", recorded, replayed)


def compare_reply(line: Line, command: str, error: str | None) -> None:
    """Raise Divergence unless a command has ended as in the recording; `error` is its message."""
    recorded = line.members.get("error")
    if recorded != error:
        raise Divergence(
            line.number, f"the reply to {command}", recorded or "success", error or "success"
        )


def missing_event(line: Line, pool: EventPool, seconds: float) -> Divergence:
    """Return the difference for an event that has not come in `seconds`."""
    name = line.value
    recorded = _event(name, comparable(name, line.members.get("data")))
    like = pool.like(name)
    found = f"nothing like it within {seconds:.0f} s" if like is None else _event(name, like)
    return Divergence(line.number, f"event {name}", recorded, found)


def not_caused(line: Line, request: Request) -> Divergence:
    """Return the difference for an event that `request` should have caused, which is over."""
    name = line.value
    recorded = _event(name, comparable(name, line.members.get("data")))
    return Divergence(line.number, f"event {name}", recorded, f"none: {request} is over without it")


def surplus_event(line: int, pool: EventPool) -> None:
    """Raise Divergence if the new machine has sent events that the recording does not have."""
    if pool.rest:
        shown = "; ".join(_event(*event) for event in pool.rest[:SHOWN])
        raise Divergence(line, "events until here", "no others", shown)


def by_place(requests: Iterable[Request]) -> dict[tuple[int, int], Request]:
    """Return requests by their connection, and how many of it came before."""
    counts: dict[int, int] = {}
    found = {}
    for request in requests:
        place = counts.get(request.connection, 0)
        counts[request.connection] = place + 1
        found[request.connection, place] = request
    return found


def compare_rules(
    recorded: Iterable[Request], replayed: Iterable[Request], until: int | None
) -> bool:
    """Compare which rules have hit the requests that had ended by the line `until`.

    Raise Divergence for the first request with others.  Return whether all of those
    have ended in the replay as well, as far as their clients were there.
    """
    again = by_place(replayed)
    ended = [
        (place, request, request.done)
        for place, request in by_place(recorded).items()
        if request.done is not None and (until is None or request.done.number <= until)
    ]
    is_complete = True
    for place, request, done in sorted(ended, key=lambda each: each[2].number):
        other = again[place].done if place in again else None
        if other is None:
            is_complete &= "gone" in done.members
        elif (was := done.members.get("rules", [])) != (now := other.members.get("rules", [])):
            what = f"the rules that have hit {request}"
            raise Divergence(done.number, what, _ids(was), _ids(now))
    return is_complete


def _ids(rules: Iterable[str]) -> str:
    return ", ".join(rules) or "none"


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"{name} {json.dumps(data)}" if data else name
