# SPDX-License-Identifier: MIT
"""The system calls for the files of one file system, which may never return.

A network's server that is gone, or a disk, keeps all threads that are in calls
for it.  So each file system has threads of its own, and no file more than
some of those: if it is one file that hangs, its neighbours go on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from blockcore.bql.effects import COPYING, Lane, LaneCall

THREADS: Final = 4
"""Of a file system; also how many calls there are for one file at a time."""

SHARE: Final = 2
"""Calls for one file that the threads of its file system are at; the others are for its own."""

PATIENCE_NS: Final = 200_000_000
"""So long a question may take before others do not ask it, too."""


class FileSystem:
    """What its files have in common; `asking` is since when who waits to be told something."""

    def __init__(self, device: int) -> None:
        self._copying: WeakKeyDictionary[FileSystem, Lane] = WeakKeyDictionary()
        self.lane = Lane(f"files {os.major(device)}:{os.minor(device)}", THREADS)
        self.asking: dict[object, int] = {}

    def copying_to(self, other: FileSystem) -> Lane:
        """The lane of what is copied to files of another file system, or of this one."""
        lane = self._copying.get(other)
        if lane is None:
            name = f"{COPYING.name} to {other.lane.name}"
            lane = self._copying[other] = Lane(name, COPYING.threads, busy=True)
        return lane


_known: WeakValueDictionary[int, FileSystem] = WeakValueDictionary()


def file_system_of(status: os.stat_result) -> FileSystem:
    """Of a block device it is that device.  Under the big lock."""
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
        """Perform a call that may take any time."""
        if self._shared >= SHARE:
            return await LaneCall(self._own, fn, *args)
        self._shared += 1
        try:
            return await LaneCall(self.system.lane, fn, *args)
        finally:
            self._shared -= 1

    async def ask(self, now_ns: int, fn: Callable[..., Any], *args: Any) -> Any:
        """The same for what is not needed: None if somebody waits for such an answer already."""
        asking = self.system.asking
        if any(since + PATIENCE_NS < now_ns for since in asking.values()):
            return None
        question = object()
        asking[question] = now_ns
        try:
            return await self(fn, *args)
        finally:
            del asking[question]
