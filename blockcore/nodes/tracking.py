"""Requests of one node that may not pass each other: QEMU's tracked requests.

A request that is *serialising* waits for those under way that overlap it, and
later ones that overlap it wait for its end; all others go side by side.  What
counts as overlapping is, for a serialising request, its range rounded out to
an alignment (`bdrv_make_request_serialising`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockcore.effects import Until


class TrackedRequest:
    """One request under way: the bytes from `start` to before `end`."""

    __slots__ = ("end", "serialising", "start", "waiting")

    def __init__(self, offset: int, length: int) -> None:
        self.start = offset
        self.end = offset + length
        self.serialising = False
        self.waiting = False


class RequestTracker:
    """The requests under way at a node."""

    def __init__(self) -> None:
        self._requests: list[TrackedRequest] = []
        self._serialising = 0

    @contextmanager
    def tracked(self, offset: int, length: int) -> Iterator[TrackedRequest]:
        """A request from its beginning to its end."""
        request = TrackedRequest(offset, length)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)
            self._serialising -= request.serialising

    async def serialise(self, request: TrackedRequest, align: int) -> None:
        """Let the request be alone with what it touches, rounded out to `align` bytes."""
        request.start -= request.start % align
        request.end += -request.end % align
        self._serialising += not request.serialising
        request.serialising = True
        await self.settled(request)

    async def settled(self, request: TrackedRequest) -> None:
        """Wait until the request may go on (bdrv_wait_serialising_requests).

        One that is waiting itself is not waited for: it looks again, and then
        finds this one.
        """
        if not self._serialising:
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
