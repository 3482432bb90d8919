"""How a machine comes to a stop (QEMU's `cpus.c`: do_vm_stop, vm_stop_requested).

STOP is said first; then the requests in flight end, and what they wrote is
flushed.
"""

from __future__ import annotations

from typing import Protocol

from blockcore.clock import Clock
from blockcore.drain import Drain, Drainable
from blockcore.effects import Until
from blockcore.qapi import RunState
from blockcore.qemu import Release
from blockcore.runstate import Vm

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


class Stoppable(Drainable, Protocol):
    """What is needed of the machine."""

    clock: Clock
    qemu: Release
    vm: Vm

    def concerns_changed(self) -> None:
        """Something that concerns requests has come or gone."""

    def all_drained(self) -> Drain:
        """A drained section of everything."""


class Stopping:
    """The stops of one machine, asked for by users and by errors."""

    def __init__(self, machine: Stoppable) -> None:
        self._machine = machine
        self._flush_due = False

    async def stop(self, state: RunState) -> None:
        """Stop, and settle the storage."""
        if self._machine.vm.running:
            await self._rest_jobs()
        self._enter_stop(state)
        await self._settle_storage()

    async def stop_on_error(self) -> None:
        """The part of the main loop that carries out the stops that errors ask for."""
        machine = self._machine
        while True:
            await Until(self._stop_requested)
            await Until(self._no_stop_requested, machine.clock.monotonic_ns() + STOP_LATENCY_NS)
            if self._stop_requested():
                await self._rest_jobs()
            state = machine.vm.take_stop_request()
            if state is not None:
                self._enter_stop(state)

    async def flush_after_stop(self) -> None:
        """The part that drains and flushes after such a stop; `stop` does it for itself."""
        while True:
            await Until(self._is_flush_due)
            await self._settle_storage()

    def _enter_stop(self, state: RunState) -> None:
        if self._machine.vm.stop(state):
            self._machine.concerns_changed()
            self._flush_due = True

    async def _rest_jobs(self) -> None:
        """Let jobs on drives that guests use pause and go on, as far as they can at once.

        (virtio_blk_stop_ioeventfd, which drains the device.  QEMU waits for its
        requests as well, but here a machine whose server hangs is to stop, too.)
        """
        machine = self._machine
        used = [blk.root for blk in machine.backends if blk.is_driven()]
        if not machine.qemu.stop_drains_devices or not used or not machine.jobs:
            return
        section = Drain(machine, used)
        section.begin()
        deadline_ns = machine.clock.monotonic_ns() + REST_NS
        try:
            await Until(section.jobs_are_quiescent, deadline_ns)
        finally:
            section.end()
        await Until(section.jobs_go_on, deadline_ns)

    async def _settle_storage(self) -> None:
        """Let the requests in flight end and flush all nodes; flush errors are not reported."""
        self._flush_due = False
        machine = self._machine
        async with machine.all_drained():
            pass
        for blk in machine.backends:
            blk.publish_short_writes()
        await machine.graph.flush_all()

    def _is_flush_due(self) -> bool:
        return self._flush_due

    def _stop_requested(self) -> bool:
        return self._machine.vm.stop_requested is not None

    def _no_stop_requested(self) -> bool:
        return self._machine.vm.stop_requested is None
