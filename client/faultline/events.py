# SPDX-License-Identifier: MIT
"""The events of a machine: what happened, what was waited for, and in which order.

An event that comes before somebody waits for it is not lost, and one that a
wait has returned is not returned again: a wait takes the first event of its
kind that no wait has taken.  The journal keeps all of them to look at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

KEPT = 100_000
"""Events that a journal keeps; each takes about a kilobyte of memory."""

TOLD = 8
"""Events that the message of a wait in vain names, the last that came."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its name, its data, and when the machine sent it, in seconds since the epoch.

    >>> event = Event("STOP", {}, 1795220656.68)
    >>> event.name
    'STOP'
    >>> Event("JOB_STATUS_CHANGE", {"id": "m0", "status": "ready"})["status"]
    'ready'
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Event:
        """Make an event of its message on the wire."""
        stamp = message["timestamp"]
        when = stamp["seconds"] + stamp["microseconds"] / 1e6
        return cls(message["event"], message.get("data", {}), when)

    def message(self) -> dict[str, Any]:
        """Return the event as it is on the wire.

        >>> Event("STOP", {}, 1795220656.672058).message()
        {'timestamp': {'seconds': 1795220656, 'microseconds': 672058}, 'event': 'STOP'}
        """
        # Microseconds since the epoch are exact in a float until the year 2255.
        seconds, microseconds = divmod(round(self.time * 1e6), 1_000_000)
        stamp = {"seconds": seconds, "microseconds": microseconds}
        data = {"data": dict(self.data)} if self.data else {}
        return {"timestamp": stamp, "event": self.name, **data}

    def __getitem__(self, member: str) -> Any:
        return self.data[member]

    def get(self, member: str, default: Any = None) -> Any:
        """Return a member of the data, or `default` if the event has none of that name."""
        return self.data.get(member, default)

    def __str__(self) -> str:
        members = (f"{name}={_shown(value)}" for name, value in self.data.items())
        return " ".join((self.name, *members))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wanted(value: Any) -> str:
    """Return what a pattern wants of a member; a function has no text of its own."""
    if callable(value) and "__str__" not in vars(type(value)):
        return "..."
    return _shown(value)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of event: a name, and members that must have these values.

    A value that is callable is asked instead: it gets the member's value, and
    says whether that will do; messages have its text, if it has one of its own.
    Members are typed as in QMP or with ``_`` for ``-``.

    >>> error = Event("BLOCK_IO_ERROR", {"node-name": "disk", "action": "stop"})
    >>> Pattern.of("BLOCK_IO_ERROR", node_name="disk").fits(error)
    True
    >>> Pattern.of("BLOCK_IO_ERROR", action="report").fits(error)
    False
    >>> Pattern.of("BLOCK_IO_ERROR", action=lambda action: action != "ignore").fits(error)
    True
    """

    name: str
    members: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str | Pattern, /, **members: Any) -> Pattern:
        """Make a pattern of a name and members; a pattern gets these members added."""
        known = {} if isinstance(name, str) else dict(name.members)
        known |= {member.replace("_", "-"): value for member, value in members.items()}
        return cls(name if isinstance(name, str) else name.name, known)

    def fits(self, event: Event) -> bool:
        """Return whether an event is of this kind."""
        if event.name != self.name:
            return False
        for member, wanted in self.members.items():
            if member not in event.data:
                return False
            value = event.data[member]
            if not (wanted(value) if callable(wanted) else wanted == value):
                return False
        return True

    def __str__(self) -> str:
        members = (f"{name}={_wanted(value)}" for name, value in self.members.items())
        return " ".join((self.name, *members))


def event(name: str, /, **members: Any) -> Pattern:
    """Return the pattern of an event, for `Machine.expect`.

    >>> str(event("BLOCK_IO_ERROR", action="stop"))
    'BLOCK_IO_ERROR action=stop'
    """
    return Pattern.of(name, **members)


class Journal:
    """All events of a connection, in order; the last `kept` of them are kept.

    `count` is the number of all that came.  `heard` is called with each event
    when it comes.
    """

    def __init__(self, kept: int = KEPT, heard: Callable[[Event], object] | None = None) -> None:
        self.count = 0
        self._heard = heard
        self._events: deque[Event] = deque(maxlen=kept)
        self._taken: set[int] = set()
        # With the synchronous face, a thread adds what others look at.
        self._lock = Lock()

    def add(self, event: Event) -> None:
        """Take note of an event that has come."""
        with self._lock:
            self._taken.discard(self.count - (self._events.maxlen or 0))
            self._events.append(event)
            self.count += 1
        if self._heard is not None:
            self._heard(event)

    @property
    def events(self) -> list[Event]:
        """All events that are kept, taken or not."""
        return self.since(0)

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept."""
        return self.count - len(self._events)

    def since(self, number: int) -> list[Event]:
        """Return the events from a number on, taken or not."""
        with self._lock:
            return list(islice(self._events, max(number - self.first, 0), None))

    def untaken(self, start: int = 0) -> list[tuple[int, Event]]:
        """Return the events from number `start` on that no wait has taken, with their numbers."""
        with self._lock:
            first = max(start, self.first)
            events = islice(self._events, first - self.first, None)
            return [pair for pair in enumerate(events, first) if pair[0] not in self._taken]

    def take(self, numbers: Sequence[int]) -> None:
        """Mark events as taken."""
        with self._lock:
            self._taken.update(numbers)

    def told(self, start: int) -> str:
        """Return what came from number `start` on, as text: for the message of a wait in vain."""
        came = [str(event) for event in self.since(start)]
        if not came:
            return "no event came"
        missing = len(came) - TOLD
        more = f"{missing} more, then " if missing > 0 else ""
        return f"events that came: {more}{'; '.join(came[-TOLD:])}"


class Wanted:
    """Events that a wait wants, in their order; others may come between them.

    `look` is called when events may have come, and looks at each event once.
    """

    def __init__(self, journal: Journal, patterns: Sequence[Pattern], start: int = 0) -> None:
        self._journal = journal
        self._patterns = patterns
        self._next = self._since = start
        self._found: list[tuple[int, Event]] = []

    @property
    def end(self) -> int:
        """The number after the last event that was looked at: once found, after the last found."""
        return self._next

    def look(self) -> list[Event] | None:
        """Return the events, one for each pattern, and take them; None if one has not come yet."""
        for number, event in self._journal.untaken(self._next):
            self._next = number + 1
            if self._patterns[len(self._found)].fits(event):
                self._found.append((number, event))
                if len(self._found) == len(self._patterns):
                    self._journal.take([at for at, _ in self._found])
                    return [found for _, found in self._found]
        return None

    def missing(self) -> str:
        """Return what has not come yet, as text."""
        pattern = self._patterns[len(self._found)]
        after = f" after {self._found[-1][1]}" if self._found else ""
        return f"{pattern}{after}"

    def in_vain(self, timeout: float) -> str:
        """Return the message for a deadline that has passed."""
        told = self._journal.told(self._since)
        return f"no {self.missing()} within {timeout:g} s; {told}"


class WantedAny:
    """The first event of any of several kinds that no wait has taken; looked for as `Wanted`."""

    def __init__(self, journal: Journal, patterns: Sequence[Pattern], start: int = 0) -> None:
        self._journal = journal
        self._patterns = patterns
        self._next = self._since = start

    @property
    def end(self) -> int:
        """The number after the last event that was looked at: once found, after that one."""
        return self._next

    def look(self) -> Event | None:
        """Return the event, and take it; None if it has not come yet."""
        for number, event in self._journal.untaken(self._next):
            self._next = number + 1
            if any(pattern.fits(event) for pattern in self._patterns):
                self._journal.take([number])
                return event
        return None

    def missing(self) -> str:
        """Return what has not come yet, as text."""
        return " or ".join(map(str, self._patterns))

    def in_vain(self, timeout: float) -> str:
        """Return the message for a deadline that has passed."""
        told = self._journal.told(self._since)
        return f"no {self.missing()} within {timeout:g} s; {told}"
