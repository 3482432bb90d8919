# SPDX-License-Identifier: MIT
"""A storage manager that extends a thin volume in time, or too late, as oVirt's vdsm does.

The manager arms the write threshold of the `file` node somewhat below the
physical size.  When a write goes past the threshold, the manager takes a while,
extends the volume by a chunk and arms the threshold anew.  A guest that writes
faster than that runs into the end of the volume: if the machine stopped for it,
the manager lets the machine go on after the extension.

The machine plays the manager itself, so that a test bench without one has the
cycle.  The only random thing is how long an extension takes, and `seed` decides
that.
"""

from __future__ import annotations

from typing import Protocol

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import Until
from blockcore.machine.lookup import Lookup
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlockDeviceIoStatus, QmpError, RunState
from blockcore.qapi.record import dataclass
from blockcore.rules.host import Clocked, Runs

_MASK = (1 << 64) - 1


class Managed(Clocked, Runs, Protocol):
    """What the manager needs of the machine."""

    find: Lookup

    def cont(self) -> None:
        """Run again, as QMP's `cont`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderOptions:
    """The settings of a manager: sizes in bytes, times in milliseconds.

    The threshold is `free` bytes below the physical size.  An extension adds
    `chunk` bytes and takes between `latency_min_ms` and `latency_max_ms`.
    """

    free: int
    chunk: int
    latency_min_ms: int = 0
    latency_max_ms: int = 0
    seed: int = 0

    def latency_ms(self, number: int) -> int:
        """Return how long extension `number` (0, 1...) takes, in ms; `seed` alone decides it."""
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
    """Return the options for a client's numbers; raise QmpError if they make no sense.

    `threshold` and `chunk` are in bytes.  `percent` is vdsm's
    volume_utilization_percent: when so much of the last chunk is in use, the next
    one is due.  Without `threshold` and `percent` that is 20, as in vdsm.
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
    """The manager of one volume, until it is told to stop or the node is closed.

    Meanwhile it owns the node's write threshold.  `extensions` and `resumes`
    count what it has done.
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
        """The byte at which the next extension falls due; never 0, which would disarm."""
        return max(self._volume.physical_size - self.options.free, 1)

    async def run(self) -> None:
        """Extend the volume whenever it is due, until `stop`: a coroutine of the core."""
        while not self._is_over():
            self._arm()
            await Until(self._has_work)
            if self._is_over():
                break
            if self._crossed():
                await self._extend()
            if self._is_starved():
                self._resume()
        # Another threshold is a user's, who has set it since.
        if self._node.write_threshold == self._armed:
            self._node.set_write_threshold(0)

    def stop(self) -> None:
        """Let go of the volume; an extension under way is not carried out."""
        self._stopped = True

    def _is_over(self) -> bool:
        return self._stopped or self._node.closed

    def _arm(self) -> None:
        # `wr_highest_offset` does not know yet of writes that went past the node.
        for blk in self._host.find.drives_above(self._node):
            blk.publish_traces()
        self._armed = self.threshold
        if self._node.write_threshold != self._armed and not self._crossed():
            self._node.set_write_threshold(self._armed)

    def _crossed(self) -> bool:
        """Return whether a write went past the threshold, even if before the threshold was armed.

        QEMU does not report such a write; vdsm makes up for the event it missed.  The
        volume does not see writes on the shortcut, which guests may take while nothing
        is armed: the node's highest offset counts as well.
        """
        highest = max(self._volume.demand, self._node.wr_highest_offset)
        return highest > self.threshold

    def _disarmed(self) -> bool:
        """Return whether the threshold is no longer the manager's, and has to be armed again.

        Other requests than writes set it off too, for example discards: then there is
        nothing to extend.
        """
        return self._node.write_threshold != self._armed

    def _has_work(self) -> bool:
        return self._is_over() or self._crossed() or self._disarmed() or self._is_starved()

    def _is_starved(self) -> bool:
        """Return whether the machine stands still because of a write that this volume refused."""
        return (
            self._host.vm.state is RunState.IO_ERROR
            and self._volume.refusals > self._refusals_seen
            and any(
                blk.iostatus is BlockDeviceIoStatus.NOSPACE
                for blk in self._host.find.drives_above(self._node)
            )
        )

    async def _extend(self) -> None:
        delay_ns = self.options.latency_ms(self.extensions) * NS_OF_MS
        await Until(self._is_over, self._host.clock.monotonic_ns() + delay_ns)
        if not self._is_over():
            self.extensions += 1
            self._node.extend_volume(self._volume.physical_size + self.options.chunk)

    def _resume(self) -> None:
        self._refusals_seen = self._volume.refusals
        self.resumes += 1
        self._host.cont()


def _mixed(number: int) -> int:
    """Return a 64-bit hash of `number` (the finalizer of splitmix64)."""
    z = (number + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
