# SPDX-License-Identifier: MIT
"""One emulated machine: its run state, nodes, drives and jobs, and what changes them.

Every method is called under the big lock.  A method that has to wait is a
coroutine of the core, which awaits effects and performs no I/O itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Set
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from blockcore.bql.asker import Asker
from blockcore.bql.clock import Clock
from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.recorded import RecordedShortcut
from blockcore.drive.recording import Lines, Recording
from blockcore.job.block_job import BlockJob
from blockcore.machine.drain import PATIENCE_NS, Drain
from blockcore.machine.lookup import Lookup
from blockcore.machine.vm_stop import Stopping
from blockcore.machine.volume_responder import VolumeResponder
from blockcore.nodes.definitions.allowed_backing import ANY, AllowedBacking
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.graph.relink import add_user
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import GuestShortcut
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.events import Event, Reset, Shutdown
from blockcore.qapi.names import (
    FaultIOType,
    JobStatus,
    QmpError,
    RunState,
    ShutdownCause,
)
from blockcore.qapi.qemu import LATEST, Release
from blockcore.rules.runstate import Vm
from blockcore.rules.throttle import ThrottleConfig
from blockcore.rules.throttle_group import ThrottleGroups

CANCEL_NS = 500_000_000
"""How long `quit` waits for the jobs to end, in ns.

A job may hang at its target for ever, and the end of the process is to be
soon: a longer wait delays it by that much, a shorter one cuts off jobs whose
last request is merely slow.
"""

Listener = Callable[[Event, int], None]
"""Receives an event and its time, in nanoseconds since the epoch."""


def _unheard(_warning: str) -> None:
    """Drop a warning: the default where there is no log."""


def _nobody_there(_connections: Iterable[int]) -> None:
    """Hang up nothing: the default where there are no connections."""


class Machine:
    """The emulated machine: the object that every command receives.

    All decisions by chance follow from `seed`.  `region` returns a context that holds the
    big lock, for threads that do not have it.  `directory` is where relative file
    names begin.  `qemu` is the release whose behaviour is followed.
    With `sticky_io_status`, `cont` leaves that of anonymous drives as it is.
    `allow_backing` limits the files that images may name as their backing files.
    `hang_up` ends guests' connections, by their numbers, as a cut cable does: at once,
    and without an answer to what is under way.  `connections_made` is how many there
    have been, which is the number of the last one.  `warn` writes a line in the log.
    `spawn` starts a coroutine of the core that no caller waits for; the interpreter of
    the coroutines sets it.  `concerns` is another number whenever a shortcut past a
    node may no longer be right.
    """

    spawn: Callable[[Coroutine[Any, Any, None]], None]

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        region: Callable[[], AbstractContextManager[object]],
        asker: Callable[[], Asker] = Asker,
        directory: str,
        hang_up: Callable[[Iterable[int]], None] = _nobody_there,
        name: str | None = None,
        prelaunch: bool = False,
        job_error_check_modern: bool = False,
        sticky_io_status: bool = False,
        qemu: Release = LATEST,
        warn: Callable[[str], None] = _unheard,
        allow_backing: AllowedBacking = ANY,
    ) -> None:
        self.clock = clock
        self.seed = seed
        self.region = region
        self.asker = asker
        self.hang_up = hang_up
        self.warn = warn
        self.allow_backing = allow_backing
        self.name = name
        self.job_error_check_modern = job_error_check_modern
        self.sticky_io_status = sticky_io_status
        self.qemu = qemu
        state = RunState.PRELAUNCH if prelaunch else RunState.RUNNING
        self.vm = Vm(state, self.emit, self.concerns_changed)
        self.graph = BlockGraph(self, directory)
        self.changing = self.graph.changing
        self.backends: list[BlockBackend] = []
        self.clones: list[BlockBackend] = []
        """Exports that are no drives of the machine (`crash_clones`): no query shows them."""
        self.find = Lookup(self.backends, self.graph)
        self.jobs: list[BlockJob] = []
        self.drains: list[Drain] = []
        self.throttle_groups = ThrottleGroups()
        self.connections_made = 0
        self.volume_responders: dict[str, VolumeResponder] = {}
        self.listeners: list[Listener] = []
        self.on_bug: Callable[[str, Exception], None] | None = None
        self.quit_requested = False
        self.recording: Recording | None = None
        self.concerns = 0
        self.stopping = Stopping(self)

    def bug(self, where: str, error: Exception) -> None:
        """Report an exception that must not happen; raise it if there is no `on_bug`."""
        if self.on_bug is None:
            raise error
        self.on_bug(where, error)

    def emit(self, event: Event) -> None:
        """Send an event to every client; events leave in the order of the calls."""
        now_ns = self.clock.realtime_ns()
        for listener in self.listeners:
            listener(event, now_ns)

    def record(self, lines: Lines) -> Recording:
        """Write down all that guests and clients ask for from now on, before any of them does."""
        self.recording = Recording(lines, self.clock, self._recording_ended)
        return self.recording

    def new_shortcut(self, blk: BlockBackend, way: Way, size: int) -> GuestShortcut:
        """Return a shortcut for a drive of `size` bytes."""
        if self.recording is None or self.recording.ended:
            return GuestShortcut(way, size, self.clock)
        return RecordedShortcut(blk, self.recording, way, size, self.clock)

    def _recording_ended(self, reason: str) -> None:
        self.warn(f"the recording has ended before the machine: {reason}")
        self.concerns_changed()

    def fault_hit(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Remember who has hit the request, and write it down if the machine is recorded."""
        self.asker().hit = rule
        if self.recording is not None:
            self.recording.fault(rule, iotype, offset, length)

    def files_sought(self, files: Set[str], present: Set[str]) -> None:
        """Write down which of the files that fault rules look for exist, if that has changed."""
        if self.recording is not None:
            self.recording.sought(files, present)

    def concerns_changed(self) -> None:
        """Invalidate all shortcuts past nodes.

        Drives decide anew with the next request; jobs that copy past nodes see that
        `concerns` differs.  Rules, bitmaps, limits, links and the run state call this
        themselves when they change.
        """
        self.concerns += 1
        for blk in self.backends:
            blk.concerns_changed()

    def shortcut_slots(self) -> Iterator[Slot]:
        """Return the slots of all drives: one for each thread that may be on the shortcut."""
        return (slot for blk in self.backends for slot in blk.slots)

    def device_of(self, node: object) -> str:
        """Return the name of the drive whose root the node is, or "" (bdrv_get_device_name)."""
        return next((blk.name for blk in self.backends if blk.root is node), "")

    def add_backend(self, blk: BlockBackend) -> None:
        """Attach a drive to its root node and put it into service.

        Raise QmpError if other users of the node do not allow it.
        """
        add_user(blk.root, blk, self.graph.nodes.values())
        self.backends.append(blk)

    def all_drained(self, patience_ns: int | None = None) -> Drain:
        """Return a drained section of all nodes, for `async with` (bdrv_drain_all_begin).

        The section is settled when the context begins, except for requests and jobs
        that take longer than `patience_ns`; None waits for all of them.
        """
        deadline_ns = None if patience_ns is None else self.clock.monotonic_ns() + patience_ns
        return Drain(self, self.graph.nodes.values(), deadline_ns)

    async def leave_shortcuts(self, node: BlockNode) -> None:
        """Wait until no request is past the node on a shortcut.

        Call this after a change that concerns new requests (`concerns_changed`):
        requests that were on the shortcut already did not see the change.
        """
        for blk in self.find.drives_above(node):
            if not blk.shortcut_idle():
                # Without the section new requests could follow each other on the shortcut for ever.
                with blk.quiesced():
                    await Until(blk.shortcut_idle)

    def set_throttle(self, blk: BlockBackend, config: ThrottleConfig, group: str) -> None:
        """Put a drive under limits that it shares with its group; raise QmpError if they are wrong.

        New limits hold for the whole group (throttle_group_config).  A configuration
        without limits takes the drive out of its group.
        """
        config.validate()
        now_ns = self.clock.monotonic_ns()
        blk.throttle = self.throttle_groups.limit(blk.throttle, config, group, now_ns)

    async def close(self) -> None:
        """Close all nodes, because the process is ending.

        Guests send no requests any more.  A job that has not ended in time may hang in a
        call, whose file is closed under it: what images have in memory is worth more.
        """
        for blk in self.backends:
            blk.publish_traces()
        await self.graph.close_all()

    async def stop(self, state: RunState) -> None:
        """Stop as do_vm_stop does: say STOP, let the requests in flight end, flush."""
        await self.stopping.stop(state)

    def cont(self) -> None:
        """Run again: make every io-status ok, say RESUME, retry the held requests (qmp_cont).

        QEMU forgets the io-status of anonymous drives here, and nothing else makes it
        ok (qmp_cont; recorded: guest-anonymous-iostatus-stays); this machine resets
        them all, unless `sticky_io_status`.  Raise QmpError after a shutdown.
        """
        if self.vm.state is RunState.SHUTDOWN:
            raise QmpError("Resetting the Virtual Machine is required")
        for blk in self.backends:
            if blk.name or not self.sticky_io_status:
                blk.reset_iostatus()
        for job in self.jobs:
            job.reset_iostatus()
        self.vm.start()

    async def reset(self) -> None:
        """Reset the devices (system_reset): drop the held requests.

        In a running machine wait for the requests in flight; a stopped machine enters
        prelaunch.
        """
        self.emit(Reset(guest=False, reason=ShutdownCause.HOST_QMP_SYSTEM_RESET))
        for blk in self.backends:
            blk.drop_held()
        if self.vm.running:
            await self.stopping.drain_for_reset()
        elif not self.quit_requested:
            self.vm.set(RunState.PRELAUNCH)

    def quit(self, cause: ShutdownCause) -> None:
        """Say SHUTDOWN, enter that state for good, begin to cancel the jobs; only once."""
        if self.quit_requested:
            return
        self.quit_requested = True
        self.emit(Shutdown(guest=False, reason=cause))
        self.vm.set(RunState.SHUTDOWN)
        if self.jobs:
            self.spawn(self._cancel_jobs())

    async def jobs_ended(self) -> None:
        """Wait, after `quit`, until all jobs are over, but not longer than `CANCEL_NS`."""
        await Until(self._has_no_jobs, self.clock.monotonic_ns() + CANCEL_NS)

    async def _cancel_jobs(self) -> None:
        """Cancel all jobs at the end of the process, all nodes drained (job_cancel_sync_all)."""
        async with self.all_drained(PATIENCE_NS):
            while self.jobs:
                job = self.jobs[0]
                if job.status is JobStatus.CONCLUDED:
                    job.dismiss()
                    continue
                # A job that takes its last steps can no longer be cancelled; it ends by itself.
                if not job.is_cancelled and not job.txn.finalizing:
                    await job.cancel()
                await Until(partial(self._is_over, job))

    def _is_over(self, job: BlockJob) -> bool:
        return job.status is JobStatus.CONCLUDED or job not in self.jobs

    def _has_no_jobs(self) -> bool:
        return not self.jobs
