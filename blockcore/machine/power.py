# SPDX-License-Identifier: MIT
"""The power cut: drives lose what their volatile caches have, and begin anew.

No program of a guest survives it, so connections are hung up on, and requests that
are held, that hang or that are under way end without an answer.  Jobs end as cancelled:
they are part of the process that a real power cut would end.  What the machine was
told stays: nodes, rules, limits, policies, statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import cast

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.faults.rule import FaultRule
from blockcore.job.block_job import BlockJob
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import using
from blockcore.machine.machine import Machine
from blockcore.machine.vm_stop import SETTLE_NS
from blockcore.nodes.drivers.volatile_cache import VolatileCacheNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NONE
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.events import Reset
from blockcore.qapi.names import JobStatus, QmpError, RunState, ShutdownCause
from blockcore.rules.crash_states import CrashState, Left
from blockcore.rules.write_log import WriteLog

Choose = Callable[[str, WriteLog], CrashState]
"""A function that says what the medium has got of a log, of the cache with that node-name.

It may raise QmpError.
"""


def caches_of(machine: Machine, device: str | None) -> list[VolatileCacheNode]:
    """Return the caches of a drive, or at and below a node, of that name; None: all.

    Raise QmpError if there is neither.
    """
    nodes: Iterable[BlockNode] = machine.graph.nodes.values()
    if device is not None:
        nodes = machine.graph.subtree(machine.find.node_or_device(device, device))
    return [cast(VolatileCacheNode, node) for node in nodes if node.is_volatile]


def cache_of(machine: Machine, device: str) -> VolatileCacheNode:
    """Return the only cache of a drive, or at and below a node; raise QmpError if there is none."""
    found = caches_of(machine, device)
    if not found:
        raise QmpError(f"'{device}' has no volatile cache, as a drive has with cache.x-volatile=on")
    if len(found) > 1:
        names = ", ".join(f"'{node.node_name}'" for node in found)
        raise QmpError(f"'{device}' has several volatile caches: name one of the nodes {names}")
    return found[0]


class PowerCut:
    """One power cut, of a drive or (`device` None) of all.

    `left` has what each cache has kept, `unusable` the nodes that could not be opened
    afterwards, with the reasons.
    """

    def __init__(self, machine: Machine, device: str | None) -> None:
        self._machine = machine
        self._whole = device is None
        self.caches = caches_of(machine, device)
        root = None if device is None else machine.find.node_or_device(device, device)
        self._drives = [
            blk for blk in machine.backends if root is None or root in self._subtree(blk)
        ]
        self._formats = [
            node
            for node in machine.graph.nodes.values()
            if any(cache is not node and cache in machine.graph.subtree(node)
                   for cache in self.caches)
        ]
        self.left: list[tuple[VolatileCacheNode, Left]] = []
        self.unusable: list[tuple[BlockNode, str]] = []

    def _subtree(self, blk: BlockBackend) -> list[BlockNode]:
        return list(self._machine.graph.subtree(blk.root))

    async def carry_out(self, choose: Choose) -> None:
        """Cut the power, and let it come back; raise QmpError, and do nothing, if that is wrong."""
        for cache in self.caches:
            if not cache.powered:
                raise QmpError(f"Node '{cache.node_name}' has no power at the moment")
        # All are chosen before the first one loses anything: a wrong choice changes nothing.
        states = [(cache, choose(cache.node_name, cache.log)) for cache in self.caches]
        with ExitStack() as users:
            for cache in self.caches:
                users.enter_context(using(cache, NONE))
            self._cut()
            await self._cancel_jobs()
            await self._restore(states)
        for blk in self._drives:
            blk.reset_iostatus()

    def _cut(self) -> None:
        machine = self._machine
        for node in (*self.caches, *self._formats):
            node.lose_power()
        machine.hang_up({number for blk in self._drives for number in blk.connections})
        if self._whole:
            machine.emit(Reset(guest=False, reason=ShutdownCause.HOST_QMP_SYSTEM_RESET))
            machine.vm.take_stop_request()
        for blk in self._drives:
            blk.cut_power()
        self._drop_hanging()
        if self._whole and not machine.vm.running and not machine.quit_requested:
            machine.vm.set(RunState.PRELAUNCH)

    def _rules(self) -> list[FaultRule]:
        nodes = {node for blk in self._drives for node in self._subtree(blk)}
        nodes.update(node for cache in self.caches for node in self._machine.graph.subtree(cache))
        return [rule for node in nodes if node.faults is not None for rule in node.faults.rules]

    def _drop_hanging(self) -> None:
        for rule in self._rules():
            rule.state.release(lost=True)

    async def _end_writing_back(self) -> None:
        """Wait until nothing is written back, and drop what a rule lets hang meanwhile."""
        while not self._is_at_rest():
            await Until(lambda: self._is_at_rest() or self._hangs())
            if self._hangs():
                self._drop_hanging()

    def _is_at_rest(self) -> bool:
        return all(cache.is_at_rest() for cache in self.caches)

    def _hangs(self) -> bool:
        return any(rule.state.hold.waiting for rule in self._rules())

    async def _cancel_jobs(self) -> None:
        machine = self._machine
        lost = {node for blk in self._drives for node in self._subtree(blk)}
        jobs = [job for job in machine.jobs if not lost.isdisjoint(job.nodes)]
        for job in jobs:
            if job.status is not JobStatus.CONCLUDED and not job.is_cancelled:
                if not job.txn.finalizing:
                    await job.cancel()
        deadline_ns = machine.clock.monotonic_ns() + SETTLE_NS
        for job in jobs:
            await Until(partial(self._is_over, job), deadline_ns)

    def _is_over(self, job: BlockJob) -> bool:
        return job.status is JobStatus.CONCLUDED or job not in self._machine.jobs

    async def _restore(self, states: Iterable[tuple[VolatileCacheNode, CrashState]]) -> None:
        """Wait for requests to end, but not for ever, and give the media what they have got."""
        machine = self._machine
        nodes = [*self.caches, *(blk.root for blk in self._drives)]
        deadline_ns = machine.clock.monotonic_ns() + SETTLE_NS
        await self._end_writing_back()
        async with Drain(machine, nodes, deadline_ns):
            # A cache below another one is that one's medium.
            chosen = sorted(states, key=lambda one: len(list(machine.graph.subtree(one[0]))))
            for cache, state in chosen:
                self.left.append((cache, await cache.restore_power(state)))
            # The graph lists a format before what it was opened on.
            for node in reversed(self._formats):
                await self._regain(node)
            # What has come meanwhile was sent before the power was back.
            for blk in self._drives:
                blk.drop_held()

    async def _regain(self, node: BlockNode) -> None:
        if node.closed:
            return
        try:
            with node.outcome:
                await node.regain_power()
        except OSError as exc:
            self.unusable.append((node, reason_of(exc)))
        except QmpError as exc:
            self.unusable.append((node, exc.desc))
