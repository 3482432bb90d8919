# SPDX-License-Identifier: MIT
"""A lock between coroutines, taken in the order in which they ask (QEMU's CoMutex)."""

from __future__ import annotations

from blockcore.bql.effects import Until


class Lock:
    """A lock that a coroutine of the core holds across awaits.

    Use ``await lock.free()``, then ``with lock.held():``, without an await in
    between: what runs between two awaits is atomic under the big lock, so no
    other coroutine can take the lock there.
    """

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = False

    def is_free(self) -> bool:
        """Return whether no coroutine holds the lock; a condition for `Until`."""
        return not self.taken

    async def free(self) -> None:
        """Wait until no coroutine holds the lock."""
        if self.taken:
            await Until(self.is_free)

    def held(self) -> Lock:
        """Return a context that holds the lock, which must be free."""
        return self

    def __enter__(self) -> None:
        assert not self.taken
        self.taken = True

    def __exit__(self, *_: object) -> None:
        self.taken = False
