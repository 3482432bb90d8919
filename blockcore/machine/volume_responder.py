# SPDX-License-Identifier: MIT
"""The storage manager that extends a thin volume in time, or too late, as oVirt's vdsm does.

It arms the write threshold of the `file` node somewhat below the physical size.
When a write goes past it, the manager takes a while, extends the volume by a
chunk and arms the threshold anew.  A guest that writes faster than that runs
into the end of the volume: if the machine stopped for it, it is told to go on
after the extension.

The machine plays it itself, so that a bench without a manager has the cycle.
All that is random is how long an extension takes, and `seed` decides that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.machine.lookup import Lookup
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlockDeviceIoStatus, QmpError, RunState
from blockcore.rules.host import Clocked, Runs

_MASK = (1 << 64) - 1


class Managed(Clocked, Runs, Protocol):
    """What the manager needs of the machine."""

    find: Lookup

    def cont(self) -> None:
        """Run again, as QMP's `cont`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderOptions:
    """Bytes, and milliseconds.

    The threshold is `free` bytes below the physical size.  An extension takes
    between `latency_min_ms` and `latency_max_ms`.
    """

    free: int
    chunk: int
    latency_min_ms: int = 0
    latency_max_ms: int = 0
    seed: int = 0

    def latency_ms(self, number: int) -> int:
        """How long extension `number` (0, 1...) takes: the same for the same seed."""
        span = self.latency_max_ms - self.latency_min_ms + 1
        return self.latency_min_ms + _mixed(self.seed + number) % span


def make_options(
    *,
    threshold: int | None,
    percent: int | None,
    chunk: int,
    latency_min_ms: int,
    latency_max_ms: int,
    seed: int,
) -> ResponderOptions:
    """Options from a client's numbers; QmpError if they make no sense.

    `threshold` is in bytes.  `percent` is vdsm's volume_utilization_percent:
    so much of the last chunk may be in use before the next one is due.
    """
    if chunk <= 0:
        raise QmpError("Parameter 'chunk' expects a value greater than zero")
    if threshold is not None and percent is not None:
        raise QmpError("'threshold' and 'percent' cannot be specified at the same time")
    if percent is not None and percent > 100:
        raise QmpError("Parameter 'percent' expects a value between 0 and 100")
    if latency_min_ms > latency_max_ms:
        raise QmpError("'latency-min-ms' cannot be larger than 'latency-max-ms'")
    by_percent = chunk * (100 - (20 if percent is None else percent)) // 100
    return ResponderOptions(
        free=by_percent if threshold is None else threshold,
        chunk=chunk,
        latency_min_ms=latency_min_ms,
        latency_max_ms=latency_max_ms,
        seed=seed,
    )


class VolumeResponder:
    """Looks after the volume under one node until it is told to stop, or the node is closed.

    While it does, the node's write threshold is its own.
    """

    def __init__(self, host: Managed, node: BlockNode, options: ResponderOptions) -> None:
        assert node.volume is not None
        self.options = options
        self.extensions = 0
        self.resumes = 0
        self._host = host
        self._node = node
        self._volume = node.volume
        self._stopped = False
        self._armed = 0
        self._refusals_seen = self._volume.refusals

    @property
    def threshold(self) -> int:
        """Where the next extension falls due, in bytes; never 0, which would disarm."""
        return max(self._volume.physical_size - self.options.free, 1)

    async def run(self) -> None:
        """The manager's life: a coroutine of the core."""
        while not self._is_over():
            self._arm()
            await Until(self._has_work)
            if self._is_over():
                break
            if self._crossed():
                await self._extend()
            if self._is_starved():
                self._resume()
        if self._node.write_threshold == self._armed:
            self._node.set_write_threshold(0)

    def stop(self) -> None:
        """Let go of the volume; an extension under way does not come."""
        self._stopped = True

    def _is_over(self) -> bool:
        return self._stopped or self._node.closed

    def _arm(self) -> None:
        self._armed = self.threshold
        if self._node.write_threshold != self._armed and not self._crossed():
            self._node.set_write_threshold(self._armed)

    def _crossed(self) -> bool:
        """Whether a write went past the threshold, be it before that was armed.

        QEMU would never report such a one; vdsm makes up the event it missed.
        """
        return self._volume.demand > self.threshold

    def _disarmed(self) -> bool:
        """By a discard, for example: there is nothing to extend, but it has to be armed again."""
        return self._node.write_threshold != self._armed

    def _has_work(self) -> bool:
        return self._is_over() or self._crossed() or self._disarmed() or self._is_starved()

    def _is_starved(self) -> bool:
        """Whether the machine stands still because of a write that this volume refused."""
        return (
            self._host.vm.state is RunState.IO_ERROR
            and self._volume.refusals > self._refusals_seen
            and any(
                blk.iostatus is BlockDeviceIoStatus.NOSPACE
                for blk in self._host.find.drives_above(self._node)
            )
        )

    async def _extend(self) -> None:
        delay_ns = self.options.latency_ms(self.extensions) * 1_000_000
        await Until(self._is_over, self._host.clock.monotonic_ns() + delay_ns)
        if not self._is_over():
            self.extensions += 1
            self._node.extend_volume(self._volume.physical_size + self.options.chunk)

    def _resume(self) -> None:
        self._refusals_seen = self._volume.refusals
        self.resumes += 1
        self._host.cont()


def _mixed(number: int) -> int:
    """A 64-bit hash (the finalizer of splitmix64)."""
    z = (number + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
