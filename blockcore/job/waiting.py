# SPDX-License-Identifier: MIT
"""Where the work of a job waits: for the end of a pause or of a sleep, or for something to do.

The work waits in `_entry` and nowhere else, and `enter` wakes it there, as
job_enter does in QEMU.
"""

from __future__ import annotations

from blockcore.bql.effects import Call, Until

STEPS_PER_BREATH = 32
"""The number of steps without a wait after which a job lets other work go first.

A job that never has to wait for a disk would keep the big lock.  Fewer steps
cost a job more changes of thread, more steps make guests wait longer.
"""


class Waiting:
    """The state of a job's work: at work, or what it waits for.

    `busy`: the work does not wait here.  `paused`, `sleeping`: what it waits for.
    """

    def __init__(self) -> None:
        self.busy = False
        self.paused = False
        self.sleeping = False
        self._entered = False
        self._steps = 0

    def is_idle(self) -> bool:
        """Return whether the work does nothing, and is not about to."""
        return not (self.busy or self._entered)

    def is_noticed(self) -> bool:
        """Return whether the work has noticed the last `enter`, if it waits for one at all."""
        return self.busy or not self._entered

    def enter(self) -> None:
        """Let the work go on when it has its turn."""
        self._entered = True

    async def pause(self) -> None:
        """Wait for `enter`, in the state `paused`."""
        self.paused = True
        await self._entry(None)
        self.paused = False

    async def sleep(self, deadline_ns: int) -> None:
        """Wait for `enter`, or until the deadline of the monotonic clock."""
        self.sleeping = True
        await self._entry(deadline_ns)
        self.sleeping = False

    async def wait(self) -> None:
        """Wait for `enter` (job_do_yield)."""
        await self._entry(None)

    async def breathe(self) -> None:
        """Let other work go first, once in `STEPS_PER_BREATH` calls."""
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
    """Do nothing: a coroutine that waits for this call lets the big lock go."""
