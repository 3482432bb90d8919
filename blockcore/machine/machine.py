# SPDX-License-Identifier: MIT
"""One emulated machine: its run state, nodes, drives, and what moves them.

Everything here is called under the big lock.  What takes time is a coroutine
of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from blockcore.bql.clock import Clock
from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.job.block_job import BlockJob
from blockcore.machine.drain import PATIENCE_NS, Drain
from blockcore.machine.lookup import Lookup
from blockcore.machine.vm_stop import Stopping
from blockcore.machine.volume_responder import VolumeResponder
from blockcore.nodes.definitions.allowed_backing import ANY, AllowedBacking
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.graph.relink import add_user
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.slot import Slot
from blockcore.qapi.events import Event, Reset, Shutdown
from blockcore.qapi.names import JobStatus, QmpError, RunState, ShutdownCause
from blockcore.qapi.qemu import LATEST, Release
from blockcore.rules.runstate import Vm
from blockcore.rules.throttle import ThrottleConfig
from blockcore.rules.throttle_group import ThrottleGroups

CANCEL_NS = 500_000_000
"""For jobs to come to an end before the process does; one may hang at its target."""

Listener = Callable[[Event, int], None]
"""Gets an event and its time, in nanoseconds since the epoch."""


def _unheard(_warning: str) -> None:
    """Where there is no log."""


class Machine:
    """The object that every command receives.

    `qemu` is the release whose answers are given.  `region` holds the big lock,
    for threads that do not have it.  `allow_backing` limits what images may name
    as their backing files.  `warn` is for whoever runs the machine.
    `spawn` starts a coroutine of the core that nobody waits for; it is set by
    whoever runs the machine.
    """

    spawn: Callable[[Coroutine[Any, Any, None]], None]

    def __init__(
        self,
        clock: Clock,
        random: Callable[[], float],
        *,
        region: Callable[[], AbstractContextManager[object]],
        directory: str,
        name: str | None = None,
        prelaunch: bool = False,
        job_error_check_modern: bool = False,
        qemu: Release = LATEST,
        warn: Callable[[str], None] = _unheard,
        allow_backing: AllowedBacking = ANY,
    ) -> None:
        self.clock = clock
        self.random = random
        self.region = region
        self.warn = warn
        self.allow_backing = allow_backing
        self.name = name
        self.job_error_check_modern = job_error_check_modern
        self.qemu = qemu
        state = RunState.PRELAUNCH if prelaunch else RunState.RUNNING
        self.vm = Vm(state, self.emit, self.concerns_changed)
        self.graph = BlockGraph(self, directory)
        self.changing = self.graph.changing
        self.backends: list[BlockBackend] = []
        self.find = Lookup(self.backends, self.graph)
        self.jobs: list[BlockJob] = []
        self.drains: list[Drain] = []
        self.throttle_groups = ThrottleGroups()
        self.volume_responders: dict[str, VolumeResponder] = {}
        self.listeners: list[Listener] = []
        self.on_bug: Callable[[str, Exception], None] | None = None
        self.quit_requested = False
        self.concerns = 0
        self.stopping = Stopping(self)

    def bug(self, where: str, error: Exception) -> None:
        """Tell of an exception that must not happen; it is raised while nobody listens."""
        if self.on_bug is None:
            raise error
        self.on_bug(where, error)

    def emit(self, event: Event) -> None:
        """Send an event to every client, in order."""
        now_ns = self.clock.realtime_ns()
        for listener in self.listeners:
            listener(event, now_ns)

    def concerns_changed(self) -> None:
        """Let nobody go past nodes who has not decided anew: drives, and jobs (`concerns`).

        Rules, bitmaps, limits, links and the run state call it themselves.
        """
        self.concerns += 1
        for blk in self.backends:
            blk.concerns_changed()

    def shortcut_slots(self) -> Iterator[Slot]:
        """The slots of all drives: whoever may be on the shortcut."""
        return (slot for blk in self.backends for slot in blk.slots)

    def device_of(self, node: object) -> str:
        """The name of the drive that has the node as its root, or empty."""
        return next((blk.name for blk in self.backends if blk.root is node), "")

    def add_backend(self, blk: BlockBackend) -> None:
        """Attach a drive to its root node and put it into service; QmpError if that cannot be."""
        add_user(blk.root, blk, self.graph.nodes.values())
        self.backends.append(blk)

    def all_drained(self, patience_ns: int | None = None) -> Drain:
        """A drained section of everything (bdrv_drain_all_begin).

        It is settled, but for what takes longer than `patience_ns`.
        """
        deadline_ns = None if patience_ns is None else self.clock.monotonic_ns() + patience_ns
        return Drain(self, self.graph.nodes.values(), deadline_ns)

    async def leave_shortcuts(self, node: BlockNode) -> None:
        """Wait until the requests have ended that went past the node on a shortcut.

        To be called once something concerns new ones.
        """
        for blk in self.find.drives_above(node):
            if not blk.shortcut_idle():
                with blk.quiesced():
                    await Until(blk.shortcut_idle)

    def set_throttle(self, blk: BlockBackend, config: ThrottleConfig, group: str) -> None:
        """Put a drive under limits that it shares with its group; QmpError if they are wrong.

        New limits are the whole group's; no limit at all takes the drive out
        of its group.
        """
        config.validate()
        now_ns = self.clock.monotonic_ns()
        blk.throttle = self.throttle_groups.limit(blk.throttle, config, group, now_ns)

    async def close(self) -> None:
        """Close all nodes: nobody sends requests any more, and the process is ending."""
        for blk in self.backends:
            blk.publish_traces()
        await self.graph.close_all()

    async def stop(self, state: RunState) -> None:
        """Stop as do_vm_stop does: the event, then let in-flight requests end, then flush."""
        await self.stopping.stop(state)

    def cont(self) -> None:
        """Run again: every io-status becomes ok, then RESUME, then held requests are retried.

        QEMU forgets the io-status of anonymous drives here (recorded:
        guest-blockdev-anonymous-iostatus); this machine resets them all.
        """
        if self.vm.state is RunState.SHUTDOWN:
            raise QmpError("Resetting the Virtual Machine is required")
        for blk in self.backends:
            blk.reset_iostatus()
        for job in self.jobs:
            job.reset_iostatus()
        self.vm.start()

    async def reset(self) -> None:
        """system_reset: held requests are dropped, and a stopped machine is in prelaunch."""
        self.emit(Reset(guest=False, reason=ShutdownCause.HOST_QMP_SYSTEM_RESET))
        for blk in self.backends:
            blk.drop_held()
        if self.vm.running:
            await self.stopping.drain_for_reset()
        elif not self.quit_requested:
            self.vm.set(RunState.PRELAUNCH)

    def quit(self, cause: ShutdownCause) -> None:
        """Say SHUTDOWN, once, never run again, and begin to cancel the jobs."""
        if self.quit_requested:
            return
        self.quit_requested = True
        self.emit(Shutdown(guest=False, reason=cause))
        self.vm.set(RunState.SHUTDOWN)
        if self.jobs:
            self.spawn(self._cancel_jobs())

    async def jobs_ended(self) -> None:
        """After `quit`: wait until all jobs are over, but not for ever."""
        await Until(self._has_no_jobs, self.clock.monotonic_ns() + CANCEL_NS)

    async def _cancel_jobs(self) -> None:
        """End all jobs before the process ends (job_cancel_sync_all), with everything drained."""
        async with self.all_drained(PATIENCE_NS):
            while self.jobs:
                job = self.jobs[0]
                if job.status is JobStatus.CONCLUDED:
                    job.dismiss()
                    continue
                if not job.is_cancelled and not job.txn.finalizing:
                    await job.cancel()
                await Until(partial(self._is_over, job))

    def _is_over(self, job: BlockJob) -> bool:
        return job.status is JobStatus.CONCLUDED or job not in self.jobs

    def _has_no_jobs(self) -> bool:
        return not self.jobs
