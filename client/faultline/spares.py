# SPDX-License-Identifier: MIT
"""Machines that are loaded and wait for their drives, so that a test need not wait for them.

One spare is kept for this process once a first machine has been started; taking
it starts the next one.  Spares end with this process, however it ends.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress

from faultline.errors import StartFailed
from faultline.process import Process

GRACE_S = 10.0
"""The time that spares have to end, in seconds, when this process ends."""


class Spares:
    """The spares of this process; `wanted` is their number, 0 for none."""

    def __init__(self, wanted: int = 1) -> None:
        self.wanted = wanted
        self._ready: list[Process] = []
        self._lock = threading.Lock()

    def take(self) -> Process | None:
        """Return a spare, and start the next one; None if there is none."""
        with self._lock:
            taken = None
            while self._ready and taken is None:
                spare = self._ready.pop(0)
                if spare.status is None:
                    taken = spare
                else:
                    spare.closed()
            return taken

    def refill(self) -> None:
        """Start spares until there are as many as wanted; returns before they are loaded."""
        with self._lock:
            while len(self._ready) < self.wanted:
                with suppress(StartFailed):
                    self._ready.append(Process((), standby=True))
                    continue
                return

    def end(self) -> None:
        """End all spares, and wait for them."""
        with self._lock:
            ready, self._ready = self._ready, []
        for spare in ready:
            spare.terminate()
        for spare in ready:
            if not spare.ends_within(GRACE_S):
                spare.kill()
            spare.closed()

    def forked(self) -> None:
        """Forget the spares, in a child of this process: they are the parent's."""
        self._lock = threading.Lock()
        for spare in self._ready:
            spare.abandoned()
        self._ready = []


spares = Spares()
atexit.register(spares.end)
os.register_at_fork(after_in_child=spares.forked)


def keep_spares(number: int) -> None:
    """Keep so many started machines in store, 1 unless told; 0 for none.

    >>> keep_spares(2)
    >>> keep_spares(1)
    """
    spares.wanted = number
    if number == 0:
        spares.end()
