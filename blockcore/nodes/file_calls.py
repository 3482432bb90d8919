# SPDX-License-Identifier: MIT
"""Threads for the system calls on each file system, which may never return.

If a server or a disk is gone, it keeps all threads that are in calls for it.  So
each file system has threads of its own, and each file gets only some of them: if
a single file hangs, other files of its file system go on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from blockcore.bql.effects import COPYING, Lane, LaneCall

THREADS: Final = 4
"""Threads of a file system, and calls for one file at a time.

More would let more requests of one file run side by side, and leave more threads
behind at each file system that hangs.
"""

SHARE: Final = 2
"""Calls for one file that the file system's threads take; the file's own threads take the rest."""

PATIENCE_NS: Final = 200_000_000
"""How long a question may take, in ns, before further questions go unanswered (`FileCalls.ask`).

Long enough for a busy disk, short enough that queries seldom wait behind a dead one.
"""


class FileSystem:
    """The state that files of one file system share.

    `asking` has the time (monotonic, ns) at which each unanswered question was asked.
    """

    def __init__(self, device: int) -> None:
        self._copying: WeakKeyDictionary[FileSystem, Lane] = WeakKeyDictionary()
        self.lane = Lane(f"files {os.major(device)}:{os.minor(device)}", THREADS)
        self.asking: dict[object, int] = {}

    def copying_to(self, other: FileSystem) -> Lane:
        """Return the lane of copies from this file system to files of `other`."""
        lane = self._copying.get(other)
        if lane is None:
            name = f"{COPYING.name} to {other.lane.name}"
            lane = self._copying[other] = Lane(name, COPYING.threads, busy=True)
        return lane


_known: WeakValueDictionary[int, FileSystem] = WeakValueDictionary()


def file_system_of(status: os.stat_result) -> FileSystem:
    """Return the file system of an open file; a block device counts as one of its own.

    Called under the big lock, because `_known` has no lock.
    """
    device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    found = _known.get(device)
    if found is None:
        found = _known[device] = FileSystem(device)
    return found


class FileCalls:
    """The calls for one file."""

    def __init__(self, name: str, system: FileSystem) -> None:
        self.system = system
        self._own = Lane(f"file {name}", THREADS - SHARE)
        self._shared = 0

    async def __call__(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Perform a call that may take any time, and return its result."""
        if self._shared >= SHARE:
            return await LaneCall(self._own, fn, *args)
        self._shared += 1
        try:
            return await LaneCall(self.system.lane, fn, *args)
        finally:
            self._shared -= 1

    async def ask(self, now_ns: int, fn: Callable[..., Any], *args: Any) -> Any:
        """Perform a call whose answer is not essential.

        Returns None without a call if another question to this file system has
        waited for more than `PATIENCE_NS`: the file system seems to hang.
        """
        asking = self.system.asking
        if any(since + PATIENCE_NS < now_ns for since in asking.values()):
            return None
        question = object()
        asking[question] = now_ns
        try:
            return await self(fn, *args)
        finally:
            del asking[question]


def existing(paths: Iterable[str]) -> frozenset[str]:
    """Return those paths at which there is a file, of whatever kind; a call."""
    return frozenset(path for path in paths if os.path.exists(path))
