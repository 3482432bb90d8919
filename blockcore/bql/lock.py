# SPDX-License-Identifier: MIT
"""A lock of coroutines: taken in the order in which they ask (QEMU's CoMutex)."""

from __future__ import annotations

from blockcore.bql.effects import Until


class Lock:
    """``await lock.free()``, then ``with lock.held():`` without an await in between."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = False

    def is_free(self) -> bool:
        return not self.taken

    async def free(self) -> None:
        """Wait until nobody has it."""
        if self.taken:
            await Until(self.is_free)

    def held(self) -> Lock:
        """Have it, as a context; nobody may."""
        return self

    def __enter__(self) -> None:
        assert not self.taken
        self.taken = True

    def __exit__(self, *_: object) -> None:
        self.taken = False
