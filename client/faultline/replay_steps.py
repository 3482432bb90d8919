# SPDX-License-Identifier: MIT
"""The steps of a replay, and what is compared in each; without I/O.

Requests go to the new machine one after the other, in the order in which they came: the next
one when the one before it is over, or seen to wait where it waited then.  So
everything that is counted, such as the touches of a block, is counted in the same
order, and outcomes repeat.  What had ended before something came has to have ended
again by then.

Where the order of the first run is not known, its outcome is not compared: the
data of a read beside an overlapping write, and of what two such writes have left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from faultline.ranges import Ranges
from faultline.recording import BadRecording, Line, Recording

CHANGING = frozenset({"write", "write-zeroes", "discard"})
"""The kinds of request that change data."""

BEGINNING = frozenset({"connecting", "connect", "disconnect", "request", "command"})
"""The kinds of lines that the player makes happen; `connect` if there is no `connecting`."""

TIMED = frozenset({"not-before-ms", "not-after-ms", "up-ms", "down-ms"})
"""Members of rules whose hits depend on the time."""


OPENING = 0
"""The number of a connection's attempt to connect among its requests, which begin with 1."""


@dataclass(slots=True)
class Request:
    """A recorded request, or an attempt to connect: that of the number `OPENING`.

    `compares` is whether what it reads can be compared.
    """

    line: int
    number: int
    connection: int
    drive: str
    members: Mapping[str, Any]
    compares: bool = True
    is_contested: bool = False
    done: Line | None = None

    @property
    def iotype(self) -> str:
        """The kind of request, as `x-fault-add` calls it."""
        return str(self.members["iotype"])

    @property
    def start(self) -> int:
        """The offset of its first byte."""
        return int(self.members["offset"])

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + int(self.members["length"])

    @property
    def changes(self) -> bool:
        """Whether it changes data."""
        return self.iotype in CHANGING

    def overlaps(self, other: Request) -> bool:
        """Return whether both are on the same bytes of one drive."""
        return self.drive == other.drive and self.start < other.end and other.start < self.end

    def is_like(self, other: Request) -> bool:
        """Return whether a machine that is asked for its requests shows both alike."""
        return (self.connection, self.iotype, self.start, self.end) == (
            *(other.connection, other.iotype, other.start, other.end),
        )

    def __str__(self) -> str:
        if self.number == OPENING:
            return f"connection {self.connection} to {self.drive}"
        length = self.end - self.start
        where = "" if self.iotype == "flush" else f" of {length} bytes at {self.start}"
        return f"request {self.number} ({self.iotype}{where}, connection {self.connection})"


@dataclass(frozen=True, slots=True)
class Step:
    """What the player has to do for a line: `kind` is the line's, or one of these.

    connecting  begin to connect, also for a `connect` of a release that did not record that
    settle      see that the request is over, or waits in the machine
    hang-up     close a connection without regard for its requests
    """

    line: Line
    kind: str
    request: Request | None = None

    def __str__(self) -> str:
        value = self.line.value
        if self.request is not None and self.request.number == OPENING:
            return str(self.request)
        if self.request is not None:
            return f"{self.kind} of {self.request}"
        if self.kind == "command":
            return f"command {value}, {command_of(self.line)}"
        return f"{self.kind} {value}"


def command_of(line: Line) -> str:
    """Return the name of a recorded command."""
    return str(line.members.get("execute", line.members.get("exec-oob")))


@dataclass(slots=True)
class _Known:
    """Which bytes of each drive the replayed machine is known to have as the first one had."""

    has_data: bool
    unknown: dict[str, Ranges] = field(default_factory=dict)
    open: dict[int, Request] = field(default_factory=dict)

    def begin(self, request: Request) -> None:
        for other in self.open.values():
            if (request.changes or other.changes) and request.overlaps(other):
                request.is_contested = other.is_contested = True
        self.open[request.number] = request

    def end(self, request: Request, done: Line) -> None:
        request.done = done
        del self.open[request.number]
        unknown = self.unknown[request.drive]
        hit = "rules" in done.members
        failed = "errno" in done.members or "gone" in done.members
        if not request.changes:
            is_known = not unknown.touches(request.start, request.end)
            request.compares = self.has_data and is_known and not request.is_contested
        elif request.is_contested or (failed and not hit) or request.iotype == "discard":
            unknown.add(request.start, request.end)
        elif not hit:
            unknown.remove(request.start, request.end)


def requests_of(recording: Recording) -> dict[int, Request]:
    """Return all requests by their numbers, without those that were withdrawn.

    Raises BadRecording for a line about a connection or request that there is not.
    """
    header = recording.header
    known = _Known(header.get("data", True))
    complete = all("contents" in file for file in header["files"])
    for drive in header["drives"]:
        known.unknown[drive["id"]] = unknown = Ranges()
        if not complete:
            unknown.add(0, 1 << 63)
    drives: dict[int, str] = {}
    requests: dict[int, Request] = {}
    for line in recording.lines:
        try:
            if line.kind == "connect":
                drives[line.value] = line.members["drive"]
                if line.members["drive"] not in known.unknown:  # an export that came later
                    known.unknown[line.members["drive"]] = unknown = Ranges()
                    unknown.add(0, 0 if complete else 1 << 63)
            elif line.kind == "request":
                connection = line.members["connection"]
                request = Request(
                    line.number, line.value, connection, drives[connection], line.members
                )
                assert request.iotype and request.start <= request.end
                known.begin(request)
                requests[line.value] = request
            elif line.kind == "withdrawn":
                del known.open[line.value], requests[line.value]
            elif line.kind == "done":
                known.end(requests[line.value], line)
        except (KeyError, TypeError, ValueError, AssertionError):
            raise BadRecording(
                f"{recording.name}:{line.number}: there is no such request or connection"
                if line.kind != "request"
                else f"{recording.name}:{line.number}: this is no request of a guest"
            ) from None
    return requests


def attempts_of(recording: Recording) -> dict[int, Request]:
    """Return the attempts to connect by the numbers of their connections.

    Raises BadRecording for the end of one that has not begun.
    """
    attempts: dict[int, Request] = {}
    for line in recording.lines:
        if line.kind not in ("connecting", "connect", "refused"):
            continue
        try:
            if line.kind == "connecting" or (line.kind == "connect" and line.value not in attempts):
                members = {"iotype": "connect", "offset": 0, "length": 0}
                attempts[line.value] = Request(
                    line.number, OPENING, line.value, line.members["drive"], members
                )
            if line.kind != "connecting":
                attempts[line.value].done = line
        except KeyError:
            raise BadRecording(
                f"{recording.name}:{line.number}: there is no such attempt to connect, or no drive"
            ) from None
    return attempts


def has_times(command: Line) -> bool:
    """Return whether a recorded command adds or changes a rule that depends on the time."""
    return any(member in str(command.members.get("arguments", "")) for member in TIMED)


def is_timed(recording: Recording) -> bool:
    """Return whether rules depend on the time, so that lines have to come at their times."""
    keys = [value for key, value in recording.header["keys"] if key == "fault"]
    texts = [*keys, *(str(line.members.get("arguments", "")) for line in recording.lines)]
    texts += [value for key, value in recording.header["keys"] if "=retry" in value]
    return any(member in text for member in (*TIMED, "=retry") for text in texts)


def depth(requests: Iterable[Request]) -> int:
    """Return the most requests of one connection that were in flight at a time."""
    changes: dict[int, list[tuple[int, int]]] = {}
    for request in requests:
        marks = changes.setdefault(request.connection, [])
        marks.append((request.line, 1))
        if request.done is not None:
            marks.append((request.done.number, -1))
    most = 0
    for marks in changes.values():
        now = 0
        for _, change in sorted(marks):
            now += change
            most = max(most, now)
    return most


def steps(recording: Recording, until: int | None = None) -> Iterator[Step]:
    """Yield the steps of a replay up to the line `until`, or to the end of the machine.

    Raises BadRecording as `requests_of` does.
    """
    requests, attempts = requests_of(recording), attempts_of(recording)
    lines = [line for line in recording.lines if until is None or line.number <= until]
    following = _following(lines, attempts)
    files = _files_before(lines, requests, attempts)
    gone: set[int] = set()
    for line in lines:
        if ends_machine(line):
            return
        yield from (Step(file, "file") for file in files.get(line.number, ()))
        if line.kind in ("connecting", "connect", "refused"):
            yield from _attempt(line, attempts[line.value], following[line.number])
        elif line.kind in ("request", "done"):
            request = requests.get(line.value)
            if request is None or request.connection in gone:
                continue
            if "gone" in line.members:
                gone.add(request.connection)
                yield Step(line, "hang-up", request)
                continue
            yield Step(line, line.kind, request)
            if line.kind == "request" and _outlasts(request, following[line.number]):
                yield Step(line, "settle", request)
        elif line.kind == "disconnect" and line.value in gone:
            continue
        elif line.kind in ("disconnect", "command", "reply", "event"):
            yield Step(line, line.kind)


def _attempt(line: Line, attempt: Request, following: int) -> Iterator[Step]:
    """Yield the steps for a line about an attempt to connect."""
    if line.number == attempt.line:
        yield Step(line, "connecting", attempt)
    if line.kind == "connecting":
        if _outlasts(attempt, following):
            yield Step(line, "settle", attempt)
    else:
        is_gone = "gone" in line.members
        yield Step(line, "hang-up" if is_gone else str(line.kind), attempt)


def _files_before(
    lines: list[Line], requests: Mapping[int, Request], attempts: Mapping[int, Request]
) -> dict[int, list[Line]]:
    """Return the lines about files that rules look for, each by the line that it has to precede.

    That is the line of the request that has found the file so; or the command before,
    because of which requests try again or jobs begin.
    """
    found: dict[int, list[Line]] = {}
    latest: dict[str, int] = {}
    command: Line | None = None
    for line in lines:
        if line.kind == "command":
            command = line
        elif line.kind in BEGINNING:
            command = None
        if line.kind != "file":
            continue
        asker = requests.get(line.members.get("for-request", 0))
        asker = asker or attempts.get(line.members.get("for-connecting", 0))
        place = line.number if command is None else command.number
        if asker is not None and latest.get(line.value, 0) < asker.line:
            place = asker.line
        else:
            command = None  # a later change is one that nothing here has caused
        latest[line.value] = line.number
        found.setdefault(place, []).append(line)
    return found


def _following(lines: list[Line], attempts: Mapping[int, Request]) -> dict[int, int]:
    """Return for each line the next one that the player makes happen, or the one behind all."""
    found: dict[int, int] = {}
    following = lines[-1].number + 1 if lines else 0
    for line in reversed(lines):
        found[line.number] = following
        if line.kind == "connect" and attempts[line.value].line != line.number:
            continue
        if line.kind in BEGINNING or "gone" in line.members or ends_machine(line):
            following = line.number
    return found


def _outlasts(request: Request, following: int) -> bool:
    """Return whether a request has not ended before the line `following` happens."""
    done = request.done
    return done is None or done.number >= following


def ends_machine(line: Line) -> bool:
    """Return whether the machine ends with a line: what follows was not in a guest's hands."""
    if line.kind == "command":
        return command_of(line) == "quit"
    return line.kind == "end" or (line.kind == "event" and line.value == "SHUTDOWN")
