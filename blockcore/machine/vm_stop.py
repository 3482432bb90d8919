# SPDX-License-Identifier: MIT
"""How a machine comes to a stop (QEMU's `cpus.c`: do_vm_stop, vm_stop_requested).

STOP is said first; then the requests in flight end, and what they wrote is
flushed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.drain import PATIENCE_NS, Drain, Drainable
from blockcore.nodes.lifetime import flush_quietly
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import RunState
from blockcore.rules.host import Clocked, HasRelease, Runs, Spawns

STOP_LATENCY_NS = 20_000_000
"""From an I/O error to the STOP it asks for.

In QEMU the main loop stops the machine only after it has seen the completions
of all requests that were submitted together, so that three failing writes of
one batch give three BLOCK_IO_ERRORs and then one STOP (recorded:
guest-write-3inflight-stop).  Over NBD the requests of a batch reach us one by
one, on threads of their own, some milliseconds apart on a busy host.
"""

REST_NS = 20_000_000
"""For jobs to come to a pause point before STOP; one that copies something goes on."""


SETTLE_NS = 10_000_000_000
"""For `stop` to wait for requests and flushes; a server that hangs may take for ever.

QEMU waits, and does nothing else meanwhile.
"""


class Stoppable(Clocked, Drainable, HasRelease, Runs, Spawns, Protocol):
    """What stops need of the machine."""

    def all_drained(self, patience_ns: int | None = None) -> Drain:
        """A drained section of everything, settled but for what takes longer than that."""


class Flushes:
    """Of all nodes that no other is above of (bdrv_flush_all): one that hangs holds up no other."""

    def __init__(self, host: Stoppable) -> None:
        self._host = host
        self._again: dict[BlockNode, bool] = {}
        """The nodes that are being flushed, and whether they have to be once more."""

    def begin(self) -> Callable[[], bool]:
        """Gives what says whether everything has been flushed."""
        nodes = [
            node
            for node in self._host.graph.nodes.values()
            if not node.node_parents
        ]
        for node in nodes:
            if node in self._again:
                self._again[node] = True
            else:
                self._again[node] = False
                self._host.spawn(self._flush(node))
        return lambda: self._again.keys().isdisjoint(nodes)

    async def _flush(self, node: BlockNode) -> None:
        try:
            await flush_quietly(node)
            while self._again[node] and not node.closed:
                self._again[node] = False
                await flush_quietly(node)
        finally:
            del self._again[node]


class Stopping:
    """The stops of one machine, asked for by users and by errors."""

    def __init__(self, host: Stoppable) -> None:
        self._host = host
        self._flush_due = False
        self._flushes = Flushes(host)
        self._draining: set[BlockBackend] = set()

    async def stop(self, state: RunState) -> None:
        """Stop, and settle the storage."""
        if self._host.vm.running:
            await self._rest_jobs()
        self._enter_stop(state)
        await self._settle_storage()

    async def drain_for_reset(self) -> None:
        """Let the requests in flight end; each drive goes on when its own have."""
        host = self._host
        deadline_ns = host.clock.monotonic_ns() + SETTLE_NS
        async with host.all_drained(PATIENCE_NS):
            busy = {blk for blk in host.backends if not blk.quiet()}
            for blk in busy - self._draining:
                host.spawn(self._drain(blk))
        await Until(lambda: self._draining.isdisjoint(busy), deadline_ns)

    async def _drain(self, blk: BlockBackend) -> None:
        self._draining.add(blk)
        await blk.drain()
        self._draining.discard(blk)

    async def stop_on_error(self) -> None:
        """The part of the main loop that carries out the stops that errors ask for."""
        host = self._host
        while True:
            await Until(self._stop_requested)
            await Until(self._no_stop_requested, host.clock.monotonic_ns() + STOP_LATENCY_NS)
            if self._stop_requested():
                await self._rest_jobs()
            state = host.vm.take_stop_request()
            if state is not None:
                self._enter_stop(state)

    async def flush_after_stop(self) -> None:
        """The part that drains and flushes after such a stop; `stop` does it for itself."""
        while True:
            await Until(self._is_flush_due)
            await self._settle_storage()

    def _enter_stop(self, state: RunState) -> None:
        if self._host.vm.stop(state):
            self._flush_due = True

    async def _rest_jobs(self) -> None:
        """Let jobs on drives that guests use pause and go on, as far as they can at once.

        (virtio_blk_stop_ioeventfd, which drains the device.  QEMU waits for its
        requests as well, but here a machine whose server hangs is to stop, too.)
        """
        host = self._host
        used = [blk.root for blk in host.backends if blk.is_driven()]
        if not host.qemu.stop_drains_devices or not used or not host.jobs:
            return
        section = Drain(host, used)
        section.begin()
        deadline_ns = host.clock.monotonic_ns() + REST_NS
        try:
            await Until(section.jobs_are_quiescent, deadline_ns)
        finally:
            section.end()
        await Until(section.jobs_go_on, deadline_ns)

    async def _settle_storage(self) -> None:
        """Let the requests in flight end and flush all nodes; flush errors are not reported.

        `cont` cuts it short.  Jobs are held no longer than they need themselves.
        """
        self._flush_due = False
        host = self._host
        now_ns = host.clock.monotonic_ns()
        section = host.all_drained(PATIENCE_NS)
        with section.guests_held():
            async with section:
                pass
            await Until(self._is_quiet_or_runs, now_ns + SETTLE_NS)
        for blk in host.backends:
            blk.publish_traces()
        flushed = self._flushes.begin()
        await Until(lambda: flushed() or host.vm.running, now_ns + SETTLE_NS)

    def _is_quiet_or_runs(self) -> bool:
        return self._host.vm.running or all(blk.quiet() for blk in self._host.backends)

    def _is_flush_due(self) -> bool:
        return self._flush_due

    def _stop_requested(self) -> bool:
        return self._host.vm.stop_requested is not None

    def _no_stop_requested(self) -> bool:
        return self._host.vm.stop_requested is None
