# SPDX-License-Identifier: MIT
"""A request fails with an errno, and does not reach the driver."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Annotated

from blockcore.bql.clock import Clock
from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.qapi.errnos import KNOWN_ERRNO, failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(FaultOptions):
    """`errno` by number or name.

    0 lets the request through, and hides the rules behind this one; so does a negative one,
    which blkdebug counts as a hit (as `tests/golden/7.2/blkdebug-cli.json` has it)."""

    errno: Annotated[int, KNOWN_ERRNO] = errno.EIO

    @property
    def lets_go(self) -> bool:
        return self.errno == 0

    async def carry_out(self, request: Request, go: Go[R], clock: Clock) -> R:
        if self.errno <= 0:
            return await go(request)
        raise failure(self.errno)
