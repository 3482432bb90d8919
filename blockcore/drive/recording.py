# SPDX-License-Identifier: MIT
"""The recording of what a machine is asked and does.

Lines are in the order of the big lock.  A request has two lines: one when it comes,
before anything is decided about it, and one when it ends.  Commands have two as
well, events one.  docs/recording.md describes all lines.  What writes them
(`process.recorder`) never keeps the machine waiting for a file that is slow; guests
wait before their next request instead, so that no line is lost (`Recording.room`).
"""

from __future__ import annotations

from collections.abc import Callable, Set
from itertools import count
from typing import Any, Protocol

from blockcore.bql.clock import Clock
from blockcore.bql.effects import Until
from blockcore.qapi.json.writer import pieces
from blockcore.qapi.names import FaultIOType, QmpError
from blockcore.qapi.record import dataclass

PATIENCE_NS = 10_000_000_000
"""How long requests wait for the recording's file before the recording ends, in ns.

A disk that is slow has guests as slow as itself; one that hangs does not hang them.
"""


class Lines(Protocol):
    """Where the lines of a recording go.

    `keeps_data` is whether the contents of writes go there, or only their digests.
    """

    keeps_data: bool

    def put(self, line: str, more: bytes = b"") -> None:
        """Take a line of JSON, without its closing ``}`` and its end; on any thread.

        `more` belongs between the line and its ``}``.
        """

    def has_room(self) -> bool:
        """Return whether guests need not wait for the file."""

    def contents(self, data: memoryview) -> bytes:
        """Return the contents of a write as JSON."""

    def digest(self, data: memoryview) -> int:
        """Return the digest of a request's contents."""

    def finish(self, last: str) -> None:
        """Write what is left, then a last line."""


@dataclass(slots=True)
class Entry:
    """A request, or an attempt to connect, whose second line is still to come.

    `rules` are those that have hit it.  `kind` is the member of its first line with its
    number.  `sought` are the files that it has looked for.
    """

    number: int
    rules: list[str]
    kind: str = "request"
    sought: Set[str] = frozenset()


class Recording:
    """The lines of one machine, from its start to its end or that of the recording.

    Nearly everything here needs the big lock.  `current` is the request whose coroutine
    runs now.  `on_end` is told once why the recording has ended early.
    """

    def __init__(self, lines: Lines, clock: Clock, on_end: Callable[[str], None]) -> None:
        self.current: Entry | None = None
        self.lines = lines
        self.ended = False
        self.last_member = ',"data":' if lines.keeps_data else ',"digest":'
        self._clock = clock
        self._on_end = on_end
        self._started_ns = clock.monotonic_ns()
        self._requests = count(1)
        self._commands = self._clients = 0
        self._files: dict[str, bool] = {}

    def room(self) -> bool:
        """Return whether a request may begin: the condition that guests wait for."""
        return self.ended or self.lines.has_room()

    async def admit(self) -> None:
        """Wait until the file takes lines; end the recording if it does not for too long."""
        if not await Until(self.room, self._clock.monotonic_ns() + PATIENCE_NS):
            self.give_up(f"the file took no lines for {PATIENCE_NS // 10**9} s")

    def give_up(self, reason: str) -> None:
        """End the recording before the machine ends; the last line says why."""
        if not self.ended:
            self.finish(reason)
            self._on_end(reason)

    def finish(self, reason: str) -> None:
        """Write a last line; nothing is recorded any more."""
        if not self.ended:
            self.ended = True
            self.lines.finish(self.last_line(reason))

    def last_line(self, reason: str) -> str:
        """Return the line that ends a recording."""
        ms = (self._clock.monotonic_ns() - self._started_ns) / 1e6
        return f'{{"ms":{ms:.3f},"end":{text_of(reason)}'

    def connecting(self, number: int, export: str, writable: bool) -> None:
        """Note that a guest is about to connect to a drive."""
        self._put(f'"connecting":{number}{_drive(export, writable)}')

    def connected(self, number: int, export: str, writable: bool, rules: list[str]) -> None:
        """Note that a guest has connected to a drive."""
        self._put(f'"connect":{number}{_drive(export, writable)}{rules_of(rules)}')

    def refused(self, number: int, rules: list[str], more: str = "") -> None:
        """Note that a guest has not got its connection; `more` are further members."""
        self._put(f'"refused":{number}{more}{rules_of(rules)}')

    def disconnected(self, number: int) -> None:
        """Note that a guest has gone."""
        self._put(f'"disconnect":{number}')

    def event(self, name: str, data: dict[str, Any]) -> None:
        """Note an event; `data` is in wire form."""
        self._put(f'"event":"{name}","data":{text_of(data)}')

    def new_client(self) -> int:
        """Return the number of a client of the control socket."""
        self._clients += 1
        return self._clients

    def command(self, client: int, name: str, arguments: dict[str, Any], oob: bool) -> int:
        """Note a command that is about to run, and return its number; arguments in wire form."""
        self._commands += 1
        verb = "exec-oob" if oob else "execute"
        given = f',"arguments":{text_of(arguments)}' if arguments else ""
        self._put(f'"command":{self._commands},"client":{client},"{verb}":"{name}"{given}')
        return self._commands

    def replied(self, number: int, error: QmpError | None) -> None:
        """Note that a command has ended."""
        told_error = "" if error is None else f',"error":{text_of(error.desc)}'
        self._put(f'"reply":{number}{told_error}')

    def fault(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Note that a rule has hit a node's request: in the line of the guest's request, if any."""
        if self.current is not None:
            self.current.rules.append(rule)
        else:
            place = f'"iotype":"{iotype}","offset":{offset},"length":{length}'
            self._put(f'"fault":{text_of(rule)},{place}')

    def sought(self, files: Set[str], present: Set[str]) -> None:
        """Note which files a node's request has looked for, if they were not as the last time.

        With the guest's request if it had not looked before: they were so when it came.
        """
        entry = self.current
        for file in sorted(files):
            exists = file in present
            if self._files.get(file) != exists:
                self._files[file] = exists
                is_first = entry is not None and file not in entry.sought
                asker = f',"for-{entry.kind}":{entry.number}' if entry and is_first else ""
                self._put(f'"file":{text_of(file)},"exists":{text_of(exists)}{asker}')
        if entry is not None:
            entry.sought |= files

    def written(self, data: memoryview) -> bytes:
        """Return the contents of a write, or their digest: the value of the last member."""
        if self.lines.keeps_data:
            return self.lines.contents(data)
        return b"%d" % self.lines.digest(data)

    def submitted(
        self,
        connection: int,
        iotype: FaultIOType,
        offset: int,
        length: int,
        flags: str = "",
        more: bytes = b"",
    ) -> int:
        """Note a request that has come, and return its number; without the lock as well.

        `flags` are further members, each with a comma before it; `more` is the value of the
        last one.
        """
        number = next(self._requests)
        if not self.ended:
            ms = (self._clock.monotonic_ns() - self._started_ns) / 1e6
            self.lines.put(
                f'{{"ms":{ms:.3f},"request":{number},"connection":{connection}'
                f',"iotype":"{iotype}","offset":{offset},"length":{length}{flags}',
                more,
            )
        return number

    def done(self, number: int, more: str = "") -> None:
        """Note that a request has ended; `more` are further members; without the lock as well."""
        self._put(f'"done":{number}{more}')

    def withdrawn(self, number: int) -> None:
        """Note that a request has not begun, and will come again; without the lock as well."""
        self._put(f'"withdrawn":{number}')

    def _put(self, members: str) -> None:
        if not self.ended:
            ms = (self._clock.monotonic_ns() - self._started_ns) / 1e6
            self.lines.put(f'{{"ms":{ms:.3f},{members}')


def _drive(export: str, writable: bool) -> str:
    return f',"drive":{text_of(export)}' + ("" if writable else ',"read-only":true')


def rules_of(rules: list[str]) -> str:
    """Return the member for the rules that have hit something; none if none has."""
    return f',"rules":{text_of(rules)}' if rules else ""


def text_of(value: Any) -> str:
    """Return a value as JSON."""
    return "".join(pieces(value))
