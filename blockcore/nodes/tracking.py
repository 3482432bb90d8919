# SPDX-License-Identifier: MIT
"""Tracked requests of one node: requests that must not overlap in time, as in QEMU.

A *serialising* request waits until requests under way that overlap it have ended,
and later requests that overlap it wait for its end.  All other requests run side
by side.  The range of a serialising request is rounded out to an alignment first
(`bdrv_make_request_serialising`).
"""

from __future__ import annotations

from blockcore.bql.effects import Until
from blockcore.rules.ranges import align_down, align_up


class TrackedRequest:
    """A request under way, as a context: the bytes from `start` up to, not including, `end`."""

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
        """The number of serialising requests under way."""

    def tracked(self, offset: int, length: int) -> TrackedRequest:
        """Return a request, as a context to enter when it begins."""
        return TrackedRequest(self, offset, length)

    def begin(self, request: TrackedRequest) -> None:
        """Enter a request, without waiting for others."""
        self._requests.append(request)

    def end(self, request: TrackedRequest) -> None:
        """Remove a request; requests that wait for it go on."""
        self._requests.remove(request)
        self.serialising -= request.serialising

    async def serialise(self, request: TrackedRequest, align: int) -> None:
        """Make a request serialising, with its range rounded out to `align`, and wait.

        On return no other request overlaps it.
        """
        request.start = align_down(request.start, align)
        request.end = align_up(request.end, align)
        self.serialising += not request.serialising
        request.serialising = True
        await self.settled(request)

    async def settled(self, request: TrackedRequest) -> None:
        """Wait until a request may go on (bdrv_wait_serialising_requests).

        Requests that are waiting themselves are not waited for, which would be a
        deadlock: they look again afterwards, and find this request.
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
