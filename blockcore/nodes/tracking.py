# SPDX-License-Identifier: MIT
"""Requests of one node that may not pass each other: QEMU's tracked requests.

A request that is *serialising* waits for those under way that overlap it, and
later ones that overlap it wait for its end; all others go side by side.  What
counts as overlapping is, for a serialising request, its range rounded out to
an alignment (`bdrv_make_request_serialising`).
"""

from __future__ import annotations

from blockcore.bql.effects import Until
from blockcore.rules.ranges import align_down, align_up


class TrackedRequest:
    """One request under way, as a context: the bytes from `start` to before `end`."""

    __slots__ = ("_tracker", "end", "serialising", "start", "waiting")

    def __init__(self, tracker: RequestTracker, offset: int, length: int) -> None:
        self.start = offset
        self.end = offset + length
        self.serialising = False
        self.waiting = False
        self._tracker = tracker

    def __enter__(self) -> TrackedRequest:
        self._tracker.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._tracker.end(self)


class RequestTracker:
    """The requests under way at a node."""

    def __init__(self) -> None:
        self._requests: list[TrackedRequest] = []
        self.serialising = 0
        """How many of them are."""

    def tracked(self, offset: int, length: int) -> TrackedRequest:
        """A request, to be entered at its beginning and left at its end."""
        return TrackedRequest(self, offset, length)

    def begin(self, request: TrackedRequest) -> None:
        self._requests.append(request)

    def end(self, request: TrackedRequest) -> None:
        self._requests.remove(request)
        self.serialising -= request.serialising

    async def serialise(self, request: TrackedRequest, align: int) -> None:
        """Let the request be alone with what it touches, rounded out to `align` bytes."""
        request.start = align_down(request.start, align)
        request.end = align_up(request.end, align)
        self.serialising += not request.serialising
        request.serialising = True
        await self.settled(request)

    async def settled(self, request: TrackedRequest) -> None:
        """Wait until the request may go on (bdrv_wait_serialising_requests).

        One that is waiting itself is not waited for: it looks again, and then
        finds this one.
        """
        if not self.serialising:
            return

        def free() -> bool:
            return not self._meets(request)

        while not free():
            request.waiting = True
            try:
                await Until(free)
            finally:
                request.waiting = False

    def _meets(self, request: TrackedRequest) -> bool:
        return any(
            other.start < request.end
            and request.start < other.end
            and (other.serialising or request.serialising)
            and other is not request
            and not other.waiting
            for other in self._requests
        )
