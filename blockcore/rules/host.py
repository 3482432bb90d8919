# SPDX-License-Identifier: MIT
"""What parts of the machine need of it, one capability each.

`machine.machine.Machine` has all of them; tests have stand-ins.  Each part asks
for those that it needs, which is what it may be used without a machine with.
Those that need a graph, drives or jobs besides say so where these are known:
`nodes.driver.NodeHost`, `job.job.JobHost`, `machine.drain.Drainable`.

Whoever keeps a machine by such a face calls it `_host`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from blockcore.bql.clock import Clock
from blockcore.qapi.events import Event
from blockcore.qapi.qemu import Release
from blockcore.rules.runstate import Vm


class Clocked(Protocol):
    """Has the time."""

    clock: Clock


class Emits(Protocol):
    """Tells clients."""

    def emit(self, event: Event) -> None:
        """Send an event to every client."""


class Spawns(Protocol):
    """`spawn` starts a coroutine of the core that nobody waits for."""

    spawn: Callable[[Coroutine[Any, Any, None]], None]


class Runs(Protocol):
    """Runs or is stopped."""

    vm: Vm


class HasRelease(Protocol):
    """Gives the answers of one release of QEMU."""

    qemu: Release


class Warns(Protocol):
    """Tells whoever runs the machine."""

    def warn(self, message: str) -> None:
        """Write a line in the machine's log."""


class Reports(Protocol):
    """Hears of bugs."""

    def bug(self, where: str, error: Exception) -> None:
        """Tell of an exception that is no outcome; raises it where nobody reads a log."""


class Locks(Protocol):
    """Has the big lock."""

    def region(self) -> AbstractContextManager[object]:
        """Hold the big lock: for threads that do not have it."""


class Draws(Protocol):
    """Has random numbers."""

    def random(self) -> float:
        """In [0, 1), from the machine's seed."""


class NamesDrives(Protocol):
    """Knows whose root a node is."""

    def device_of(self, node: object) -> str:
        """The name of the drive whose root the node is, or empty (bdrv_get_device_name)."""


class Concerned(Protocol):
    """`concerns` is another number whenever the `way` of a node may be another."""

    concerns: int


class Shortcuts(Protocol):
    """Has guests who go past nodes."""

    def concerns_changed(self) -> None:
        """Something that may forbid the shortcut has come or gone."""


class DriveHost(Clocked, Emits, Runs, Protocol):
    """What a drive needs of its machine."""


class CopyHost(Clocked, Concerned, Spawns, Protocol):
    """What copying from node to node needs of its machine."""
