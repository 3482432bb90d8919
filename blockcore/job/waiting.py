# SPDX-License-Identifier: MIT
"""Where the work of a job waits: for the end of a pause or of a sleep, or for something to do.

A job that nobody lets go on waits in `_entry` and nowhere else, and `enter`
wakes it there, as job_enter does in QEMU.
"""

from __future__ import annotations

from blockcore.bql.effects import Call, Until

STEPS_PER_BREATH = 32
"""A job that never has to wait for a disk lets others go first once in so many steps."""


class Waiting:
    """`busy`: the work does not wait here.  `paused`, `sleeping`: that is what it waits for."""

    def __init__(self) -> None:
        self.busy = False
        self.paused = False
        self.sleeping = False
        self._entered = False
        self._steps = 0

    def is_idle(self) -> bool:
        """Whether the work does nothing, and is not about to."""
        return not (self.busy or self._entered)

    def is_noticed(self) -> bool:
        """Whether the work has noticed the last `enter`, if it waits for one at all."""
        return self.busy or not self._entered

    def enter(self) -> None:
        """Let the work go on when it has its turn."""
        self._entered = True

    async def pause(self) -> None:
        """Wait for `enter`, as somebody who is paused."""
        self.paused = True
        await self._entry(None)
        self.paused = False

    async def sleep(self, deadline_ns: int) -> None:
        """Wait for `enter`, or until the deadline."""
        self.sleeping = True
        await self._entry(deadline_ns)
        self.sleeping = False

    async def wait(self) -> None:
        """Wait for `enter` (job_do_yield)."""
        await self._entry(None)

    async def breathe(self) -> None:
        """Let others go first, now and then."""
        self._steps += 1
        if self._steps % STEPS_PER_BREATH == 0:
            await Call(_breathe)

    async def _entry(self, deadline_ns: int | None) -> None:
        self.busy = self._entered = False
        await Until(self._is_entered, deadline_ns)
        self.busy, self._entered = True, False

    def _is_entered(self) -> bool:
        return self._entered


def _breathe() -> None:
    """To wait for this lets the lock go."""
