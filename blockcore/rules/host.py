# SPDX-License-Identifier: MIT
"""Protocols for what parts of the machine need from the machine, one capability each.

`machine.machine.Machine` has all of them; tests pass stand-ins.  A part of the
machine declares the protocols that it needs, and can be used with any object
that has these.  Protocols that mention nodes, drives or jobs stand where those
are known: `nodes.driver.NodeHost`, `job.job.JobHost`, `machine.drain.Drainable`.

An attribute that keeps a machine as one of these protocols is called `_host`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Set
from contextlib import AbstractContextManager
from typing import Any, Protocol

from blockcore.bql.asker import Asker
from blockcore.bql.clock import Clock
from blockcore.qapi.events import Event
from blockcore.qapi.names import FaultIOType
from blockcore.qapi.qemu import Release
from blockcore.rules.runstate import Vm


class Clocked(Protocol):
    """A host that has the time."""

    clock: Clock


class Emits(Protocol):
    """A host that sends events."""

    def emit(self, event: Event) -> None:
        """Send an event to every control client."""


class Spawns(Protocol):
    """A host that starts coroutines.

    `spawn` starts a coroutine of the core on the main loop, under the big
    lock; nothing waits for its end.
    """

    spawn: Callable[[Coroutine[Any, Any, None]], None]


class Runs(Protocol):
    """A host that has a run state."""

    vm: Vm


class HasRelease(Protocol):
    """A host that gives the answers of one release of QEMU."""

    qemu: Release


class Warns(Protocol):
    """A host that has a log."""

    def warn(self, message: str) -> None:
        """Write a warning to the machine's log."""


class Reports(Protocol):
    """A host that reports bugs."""

    def bug(self, where: str, error: Exception) -> None:
        """Report an exception that must not happen; `where` says where.

        A machine without a log (in tests) raises `error` instead.
        """


class Locks(Protocol):
    """A host that has the big lock."""

    def region(self) -> AbstractContextManager[object]:
        """Return a context that holds the big lock, for a thread that does not hold it."""


class Seeded(Protocol):
    """A host that has a seed, from which all decisions by chance follow."""

    seed: int


class KnowsAsker(Protocol):
    """A host that knows for whom that runs which runs now."""

    def asker(self) -> Asker:
        """Return that one, who is the same all along."""


class HangsUp(Protocol):
    """A host that can end connections of guests."""

    hang_up: Callable[[Iterable[int]], None]


class HearsFaults(Protocol):
    """A host that hears which rules hit what."""

    def fault_hit(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Hear that the rule of that id has hit the request that runs now."""

    def files_sought(self, files: Set[str], present: Set[str]) -> None:
        """Hear which files the request that runs now has looked for, and those that exist."""


class NamesDrives(Protocol):
    """A host that knows the root nodes of drives."""

    def device_of(self, node: object) -> str:
        """Return the name of the drive whose root is `node`, or "" (bdrv_get_device_name)."""


class Concerned(Protocol):
    """A host that tells when a shortcut is out of date.

    `concerns` changes whenever the way to some node's data may have changed
    (`BlockNode.way`): a rule, bitmap, limit or link has come or gone.  A job
    that keeps a shortcut compares it with the number from which it was made.
    """

    concerns: int


class Shortcuts(Protocol):
    """A host whose drives and jobs may bypass nodes."""

    def concerns_changed(self) -> None:
        """Invalidate all shortcuts, under the big lock.

        To be called when something that may affect requests has come or gone.
        """


class DriveHost(Clocked, Emits, KnowsAsker, Runs, Protocol):
    """The machine as a drive needs it."""


class CopyHost(Clocked, Concerned, Spawns, Protocol):
    """The machine as copying from node to node needs it."""
