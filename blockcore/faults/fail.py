# SPDX-License-Identifier: MIT
"""The kind of fault that fails a request with an errno, before it reaches the driver."""

from __future__ import annotations

import errno
from typing import Annotated

from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.errno_types import KNOWN_ERRNO
from blockcore.qapi.errnos import failure
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(FaultOptions):
    """Options of a rule that fails requests with `errno`.

    With errno 0 or a negative one, the request goes to the driver, and later
    rules of the list are not asked.  A negative errno counts as a hit and uses
    up the rule's `count`; 0 does not.  This is what blkdebug does
    (`tests/golden/7.2/blkdebug-cli.json`).
    """

    errno: Annotated[int, KNOWN_ERRNO] = errno.EIO

    @property
    def lets_go(self) -> bool:
        return self.errno == 0

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        if self.errno <= 0:
            return await go(request)
        raise failure(self.errno)
