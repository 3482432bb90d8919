# SPDX-License-Identifier: MIT
"""Stopping the machine (QEMU's `cpus.c`: do_vm_stop, vm_stop_requested).

STOP is said first; then the requests in flight end, and what they wrote is
flushed.  Users ask for a stop by `stop`; requests that fail ask for one with
`Vm.request_stop`, which two coroutines of the core carry out
(`Stopping.stop_on_error` and `Stopping.flush_after_stop`).
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
"""The time from an I/O error to the STOP that the error asks for, in ns.

In QEMU the main loop stops the machine only after it has seen the completions
of all requests that were submitted together, so that three failing writes of
one batch give three BLOCK_IO_ERRORs and then one STOP (recorded:
guest-write-3inflight-stop).  Over NBD the requests of a batch reach us one by
one, on threads of their own, some milliseconds apart on a busy host.
"""

REST_NS = 20_000_000
"""How long a stop waits for jobs to reach a pause point before STOP, in ns.

A job that sleeps gets there at once.  A job that copies goes on after that
time, and pauses when the storage is settled.
"""


SETTLE_NS = 10_000_000_000
"""How long `stop` and a reset wait for requests and flushes, in ns.

QEMU waits without end, and does nothing else meanwhile.  A server that hangs
may never answer, and the client that has sent `stop` needs its reply.
"""


class Stoppable(Clocked, Drainable, HasRelease, Runs, Spawns, Protocol):
    """What stops need of the machine."""

    def all_drained(self, patience_ns: int | None = None) -> Drain:
        """Return a drained section of all nodes; it waits `patience_ns` at most to settle."""


class Flushes:
    """Flushes of all nodes without a node above them (bdrv_flush_all), each on its own.

    A flush that hangs holds up no flush of another node.
    """

    def __init__(self, host: Stoppable) -> None:
        self._host = host
        self._again: dict[BlockNode, bool] = {}
        """The nodes whose flush is under way; True if they have to be flushed once more."""

    def begin(self) -> Callable[[], bool]:
        """Begin to flush, and return a test of whether everything has been flushed."""
        nodes = [
            node
            for node in self._host.graph.nodes.values()
            if not node.node_parents
        ]
        for node in nodes:
            if node in self._again:
                # The flush under way may have begun before the last writes ended.
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
        self._held = False
        self._due = False

    def hold(self, held: bool) -> None:
        """Carry out the stop that an error has asked for; with `held`, later ones wait for this.

        In a replay stops come where they came in the recording, and not after a time.
        """
        self._held = held
        self._due = self._stop_requested()

    async def stop(self, state: RunState) -> None:
        """Stop the machine in `state`, then let its requests end and flush (do_vm_stop)."""
        if self._host.vm.running:
            await self._rest_jobs()
        self._enter_stop(state)
        await self._settle_storage()

    async def drain_for_reset(self) -> None:
        """Let the requests in flight end, each drive for itself; wait no longer than `SETTLE_NS`.

        A drive takes new requests again when its own have ended.
        """
        host = self._host
        deadline_ns = host.clock.monotonic_ns() + SETTLE_NS
        async with host.all_drained(PATIENCE_NS):
            # Requests that end soon have ended here.  Each other drive is drained by a coroutine of
            # its own, which goes on after the deadline; one that a former reset has started counts.
            busy = {blk for blk in host.backends if not blk.quiet()}
            for blk in busy - self._draining:
                host.spawn(self._drain(blk))
        await Until(lambda: self._draining.isdisjoint(busy), deadline_ns)

    async def _drain(self, blk: BlockBackend) -> None:
        self._draining.add(blk)
        await blk.drain()
        self._draining.discard(blk)

    async def stop_on_error(self) -> None:
        """Carry out the stops that errors ask for, for ever (main_loop_should_exit)."""
        host = self._host
        while True:
            await Until(self._stop_requested)
            await Until(self._no_stop_requested, host.clock.monotonic_ns() + STOP_LATENCY_NS)
            await Until(self._is_stop_due)
            self._due = False
            # In these milliseconds `cont` may have taken the request away.
            if self._stop_requested():
                await self._rest_jobs()
            state = host.vm.take_stop_request()
            if state is not None:
                self._enter_stop(state)

    async def flush_after_stop(self) -> None:
        """Drain and flush after each stop by an error, for ever.

        `stop` settles the storage itself, and leaves nothing to do here.
        """
        while True:
            await Until(self._is_flush_due)
            await self._settle_storage()

    def _enter_stop(self, state: RunState) -> None:
        if self._host.vm.stop(state):
            self._flush_due = True

    async def _rest_jobs(self) -> None:
        """Let jobs on drives that guests use pause and go on, as far as they can at once.

        (virtio_blk_stop_ioeventfd drains the device, and so pauses the jobs on it.)
        QEMU waits for the device's requests as well.  Here a machine whose server
        hangs is to stop, too.
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
        """Let the requests in flight end, then flush all nodes; flush errors are not reported.

        `cont` cuts the waiting short.  Jobs are held for `PATIENCE_NS` at most.
        """
        self._flush_due = False
        host = self._host
        now_ns = host.clock.monotonic_ns()
        section = host.all_drained(PATIENCE_NS)
        with section.guests_held():
            # Jobs rest for this moment only; guests' new requests wait until all others have ended.
            async with section:
                pass
            await Until(self._is_quiet_or_runs, now_ns + SETTLE_NS)
        # A node that knows of no write is not flushed, and writes on the shortcut have not told it.
        for blk in host.backends:
            blk.publish_traces()
        flushed = self._flushes.begin()
        await Until(lambda: flushed() or host.vm.running, now_ns + SETTLE_NS)

    def _is_quiet_or_runs(self) -> bool:
        """Return whether no request is at a node, or `cont` makes the waiting pointless."""
        return self._host.vm.running or all(blk.quiet() for blk in self._host.backends)

    def _is_flush_due(self) -> bool:
        return self._flush_due

    def _stop_requested(self) -> bool:
        return self._host.vm.stop_requested is not None

    def _is_stop_due(self) -> bool:
        return not self._held or self._due or not self._stop_requested()

    def _no_stop_requested(self) -> bool:
        return self._host.vm.stop_requested is None
