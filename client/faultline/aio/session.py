# SPDX-License-Identifier: MIT
"""A session with a machine: commands, and events that are waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from faultline.aio.channel import Channel
from faultline.aio.commands import Commands
from faultline.errors import MachineEnded
from faultline.events import Event, Journal, Pattern, Wanted, WantedAny
from faultline.names import check_name
from faultline.schema import EVENTS

T = TypeVar("T")


class Session(Commands):
    """What is said on a control socket, whoever has started the machine.

    `timeout` is the deadline of every call that is not given one, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._channel: Channel | None = None
        self._events: list[Event] = []
        self._known_events = frozenset(EVENTS)

    def _connection(self) -> Channel:
        """Return the connection; raises MachineEnded if it was closed."""
        if self._channel is None:
            raise MachineEnded("the machine was closed")
        return self._channel

    async def _hang_up(self) -> None:
        """Close the connection; the events that came stay."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
            self._events = channel.journal.events

    async def _end(self, lost: MachineEnded, before: str) -> MachineEnded:
        """Return the error for a connection that was lost before something."""
        return MachineEnded(f"{lost} before {before}")

    @property
    def journal(self) -> Journal:
        """The events of this connection, with what was waited for."""
        return self._connection().journal

    @property
    def events(self) -> list[Event]:
        """All events since the machine was started or connected to, waited for or not."""
        if self._channel is None:
            return self._events
        return self._channel.journal.events

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Run any QMP command, and return its value as it came.

        Raises CommandError for an error reply, TimedOut, and MachineEnded.

        >>> async with Machine() as m:
        ...     await m.execute("block_resize", {"device": "vda", "size": 2 << 30})
        {}
        """
        limit = self.timeout if timeout is None else timeout
        try:
            return await self._connection().execute(command, arguments or {}, limit)
        except MachineEnded as exc:
            raise await self._end(exc, f"{command} was answered") from None

    async def _run(
        self, command: str, members: Mapping[str, Any], timeout: float | None
    ) -> Any:
        given = {name: value for name, value in members.items() if value is not None}
        return await self.execute(command, given, timeout=timeout)

    async def wait_event(
        self,
        name: str | Pattern,
        /,
        *,
        timeout: float | None = None,
        since: int = 0,
        **members: Any,
    ) -> Event:
        """Return the first event of a kind that no wait has returned, waiting for it if need be.

        `members` are those that the event's data must have, with ``_`` for ``-``; a
        value that is callable is asked whether the member's value will do.
        `since` is a `mark`: events before it do not count.  Raises TimedOut, whose
        message has the events that came instead.

        >>> async with Machine() as m:
        ...     await m.stop()
        ...     print((await m.wait_event("STOP", timeout=10)).name)
        STOP
        """
        return (await self._events_in_order([Pattern.of(name, **members)], timeout, since))[0]

    async def expect(
        self, *patterns: str | Pattern, timeout: float | None = None, since: int = 0
    ) -> list[Event]:
        """Return one event for each pattern, that came in this order; others may be between them.

        >>> from faultline import event
        >>> async with Machine() as m:
        ...     await m.stop()
        ...     await m.cont()
        ...     [str(e) for e in await m.expect("STOP", event("RESUME"), timeout=10)]
        ['STOP', 'RESUME']
        """
        return await self._events_in_order([Pattern.of(p) for p in patterns], timeout, since)

    async def wait_any(
        self, *patterns: str | Pattern, timeout: float | None = None, since: int = 0
    ) -> Event:
        """Return the first event of any of these kinds that no wait has returned.

        >>> async with Machine() as m:
        ...     await m.stop()
        ...     print((await m.wait_any("RESUME", "STOP", timeout=10)).name)
        STOP
        """
        kinds = [Pattern.of(p) for p in patterns]
        for kind in kinds:
            await self._check_event(kind.name)
        wanted = WantedAny(self.journal, kinds, since)
        return await self.wait_until(wanted.look, timeout, wanted.in_vain, wanted.missing)

    def mark(self) -> int:
        """Return the number of events so far, for `since`: to wait only for what comes later."""
        return self.journal.count

    async def _events_in_order(
        self, patterns: Sequence[Pattern], timeout: float | None, since: int
    ) -> list[Event]:
        for pattern in patterns:
            await self._check_event(pattern.name)
        wanted = Wanted(self.journal, patterns, since)
        return await self.wait_until(wanted.look, timeout, wanted.in_vain, wanted.missing)

    async def _check_event(self, name: str) -> None:
        """Raise ValueError for the name of an event that the machine does not have."""
        if name not in self._known_events:
            schema = await self.execute("query-qmp-schema")
            self._known_events = frozenset(
                entity["name"] for entity in schema if entity["meta-type"] == "event"
            )
        check_name(name, self._known_events)

    async def wait_until(
        self,
        look: Callable[[], T | None],
        timeout: float | None,
        in_vain: Callable[[float], str],
        missing: Callable[[], str],
    ) -> T:
        """Return what `look` returns once that is not None; it is asked when something has come.

        After `timeout` seconds it raises TimedOut with the text that `in_vain`
        makes of the deadline; if the machine ends first, MachineEnded with what
        was `missing`.
        """
        limit = self.timeout if timeout is None else timeout
        try:
            return await self._connection().wait(look, limit, lambda: in_vain(limit))
        except MachineEnded as exc:
            raise await self._end(exc, f"{missing()} came") from None
