# SPDX-License-Identifier: MIT
"""The kind of fault that keeps a request waiting."""

from __future__ import annotations

from typing import Annotated

from blockcore.bql.clock import NS_OF_MS
from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.errno_types import KNOWN_ERRNO
from blockcore.qapi.errnos import HungUp, failure
from blockcore.qapi.names import QmpError, UInt32
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang(FaultOptions):
    """Options of a rule whose requests wait: `hang_ms` milliseconds, or until they are released.

    x-fault-release releases them, and so does the rule's removal.  Then they
    fail with `errno`, or are carried out if that is 0.
    """

    hang_ms: UInt32 | None = None
    errno: Annotated[int, KNOWN_ERRNO] = 0

    def check(self) -> None:
        FaultOptions.check(self)
        if self.hang_ms == 0:
            raise QmpError("Parameter 'hang-ms' expects a value greater than zero")

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        state, deadline_ns = scene.state, None
        if self.hang_ms is not None:
            deadline_ns = scene.clock.monotonic_ns() + self.hang_ms * NS_OF_MS
        state.hanging += 1
        hold = state.hold
        hold.waiting += 1
        try:
            await scene.wait(hold, deadline_ns)
        finally:
            state.hanging -= 1
            hold.waiting -= 1
        if hold.lost:
            raise HungUp
        if self.errno > 0:
            raise failure(self.errno)
        return await go(request)
