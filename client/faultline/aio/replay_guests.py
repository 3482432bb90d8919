# SPDX-License-Identifier: MIT
"""The guests of a replayed machine, and what the recording has of their requests."""

from __future__ import annotations

import time
from collections.abc import Mapping

from faultline.aio.guest import Guest
from faultline.recording import Line, Recording
from faultline.replay_events import causes_of
from faultline.replay_report import Divergence, compare_done
from faultline.replay_steps import (
    OPENING,
    Request,
    attempts_of,
    ends_machine,
    requests_of,
)

SLICE_S = 0.05
"""How long something is waited for until requests are compared that have ended meanwhile, in s."""


class Guests:
    """The guests of a replay by the numbers of their connections, the same as recorded.

    `requests` and `attempts`, those to connect, are those of the recording.
    """

    def __init__(self, recording: Recording) -> None:
        self.requests = requests_of(recording)
        self.attempts = attempts_of(recording)
        self._guests: dict[int, Guest] = {}
        ends = (line.number for line in recording.lines if ends_machine(line))
        self._end = next(ends, len(recording.lines) + 2)

    def connect(self, attempt: Request, uri: str) -> None:
        """Begin to connect; raises MachineEnded."""
        guest = self._guests[attempt.connection] = Guest(uri)
        guest.connect()

    def submit(self, request: Request) -> None:
        """Send a request."""
        self._guests[request.connection].submit(request)

    async def wait(self, request: Request, timeout: float) -> bool:
        """Return whether a request has an answer, waiting up to `timeout` seconds for it.

        Raises Divergence as `compare_ended` does.
        """
        guest = self._guests[request.connection]
        deadline = time.monotonic() + timeout
        while not await guest.wait(request.number, min(timeout, SLICE_S)):
            timeout = deadline - time.monotonic()
            if timeout <= 0:
                return False
            self.compare_ended()
        return True

    def finish(self, line: Line, request: Request) -> None:
        """Compare the end of a request that has an answer, and forget it; raises Divergence."""
        guest = self._guests[request.connection]
        outcome = guest.take(request.number)
        if not (outcome.lost and guest.is_lost):
            compare_done(line, request, outcome)
        guest.is_lost = outcome.lost
        if line.kind == "refused":
            self.hang_up(request.connection)

    def compare_ended(self) -> None:
        """Raise the Divergence that `difference` returns, if there is one."""
        if (difference := self.difference()) is not None:
            raise difference

    def difference(self) -> Divergence | None:
        """Compare all requests that have an answer before the lines of their ends are reached.

        A request that ends otherwise is why what is waited for does not come.  Returns
        the difference whose line is first.
        """
        found: list[tuple[int, Divergence]] = []
        for connection, guest in self._guests.items():
            for number, outcome in guest.outcomes().items():
                request = self._recorded(connection, number)
                done = request.done
                if done is None or done.number >= self._end or "gone" in done.members:
                    continue
                if outcome.lost and number != OPENING:  # which may be due to another request
                    continue
                try:
                    compare_done(done, request, outcome)
                except Divergence as exc:
                    found.append((exc.line, exc))
        return min(found, key=lambda each: each[0])[1] if found else None

    def causes(self, event: Line) -> list[Request]:
        """Return the requests one of which causes a recorded event; none if that is unknown."""
        return causes_of(event, [*self.attempts.values(), *self.requests.values()])

    def is_open(self, request: Request) -> bool:
        """Return whether a request has no answer."""
        guest = self._guests.get(request.connection)
        if guest is None:
            return False
        guest.turn()
        return request.number in guest.open_requests()

    def in_flight(self) -> list[Request]:
        """Return the requests that have no answer."""
        return [
            self._recorded(connection, number)
            for connection, guest in self._guests.items()
            for number in guest.open_requests()
        ]

    def alike(self, request: Request) -> int:
        """Return how many requests like this one have no answer, itself among them."""
        return sum(one.is_like(request) for one in self.in_flight())

    async def leave(self, connection: int, timeout: float) -> None:
        """Disconnect a guest in order."""
        await self._guests.pop(connection).leave(timeout)

    def hang_up(self, connection: int) -> None:
        """Close the connection of a guest without a word."""
        self._guests.pop(connection).hang_up()

    def close(self) -> None:
        """Close all connections."""
        for guest in self._guests.values():
            guest.hang_up()

    def _recorded(self, connection: int, number: int) -> Request:
        table: Mapping[int, Request] = self.requests
        if number == OPENING:
            table, number = self.attempts, connection
        return table[number]
