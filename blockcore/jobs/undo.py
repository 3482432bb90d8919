# SPDX-License-Identifier: MIT
"""What undoes the steps of a start that fails."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any


class Undo(AsyncExitStack):
    """Steps that a block of code has registered, taken in reverse order if an exception ends it.

    A block that has succeeded takes its steps back (`pop_all`).  At the end of the
    process a coroutine may be closed in the middle of the block: then no step is
    taken, because nobody performs what the steps await, and each would be cut short.
    """

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: Any,
    ) -> bool | None:
        if error is not None and not isinstance(error, Exception):
            return False
        return await super().__aexit__(kind, error, trace)
