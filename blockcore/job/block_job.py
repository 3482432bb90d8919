# SPDX-License-Identifier: MIT
"""A job on block nodes (QEMU's `blockjob.c`): what it blocks, its error policy, its speed limit."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.job.job import Completion, Job, JobHost
from blockcore.job.job_driver import JobDriver
from blockcore.job.options import JobOptions
from blockcore.nodes.graph.abilities import connections
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.graph.relink import add_user
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import ALL, NONE, NodeUser, Perm
from blockcore.qapi.events import (
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    BlockJobReady,
    Event,
)
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    IoOperationType,
    JobStatus,
    JobVerb,
    MirrorCopyMode,
    QmpError,
)
from blockcore.rules.host import HasRelease, NamesDrives
from blockcore.rules.policy import error_action, iostatus_after
from blockcore.rules.ratelimit import RateLimit

RETRY_NS = 10_000_000
"""The time from an ignored error to the next try of the same place, in ns.

QEMU does not wait, and tells its clients of thousands of errors a second
(recorded: mirror-persistent-ignore-flood).
"""


CUT_OFF_NS = 200_000_000
"""How long a cancelled job's requests have to end before their connection is closed, in ns.

A longer time delays the end of a job whose server hangs, a shorter one closes
connections to servers that are merely slow.
"""


class Section(Protocol):
    """A drained section (`machine.drain.Drain`)."""

    def meets(self, job: BlockJob) -> None:
        """Ask a job that is about to start to pause, if the section concerns it."""


class BlockJobHost(JobHost, HasRelease, NamesDrives, Protocol):
    """What a block job needs of its machine besides; `drains` are the sections under way."""

    @property
    def drains(self) -> Iterable[Section]: ...

    @property
    def graph(self) -> BlockGraph: ...


class JobUser(NodeUser):
    """A job as a user of a node; such a node does not count as a root.

    `has_backend`: in QEMU the job's requests go through a BlockBackend without a name.
    """

    def __init__(self, perm: Perm, shared: Perm, who: str, has_backend: bool) -> None:
        super().__init__(perm, shared, *(() if has_backend else (who,)))
        self.has_backend = has_backend


class BlockJobDriver(JobDriver["BlockJob"]):
    """What a kind of block job has besides (QEMU's BlockJobDriver).

    `on_source_error` and `on_target_error` are the policies for its errors.
    """

    on_source_error = BlockdevOnError.REPORT
    on_target_error = BlockdevOnError.REPORT

    @property
    def actively_synced(self) -> bool | None:
        """Whether a mirror's target has all writes that were answered; None for other kinds.

        It does if writes reach the target before they are answered, and the rest has
        been copied.
        """
        return None

    def set_speed(self, job: BlockJob) -> None:
        """Take note that the job has another speed limit."""

    async def change(self, job: BlockJob, mode: MirrorCopyMode) -> None:
        """Copy guests' writes in another way from now on; raise QmpError if the job cannot."""
        raise QmpError("Job type does not support change")


class BlockJob(Job):
    """A job on `nodes`, each with the permissions that the job needs and leaves to others.

    As long as the job lives, commands may not change these nodes.  `iostatus` is
    the job's own; the guests' drives have theirs.
    """

    host: BlockJobHost
    driver: BlockJobDriver

    def __init__(
        self,
        host: BlockJobHost,
        driver: BlockJobDriver,
        txn: Completion,
        main: BlockNode,
        options: JobOptions,
        perm: Perm = NONE,
        shared: Perm = ALL,
    ) -> None:
        job_id = options.job_id
        super().__init__(
            host, driver, txn, host.device_of(main) if job_id is None else job_id, options
        )
        self.iostatus = BlockDeviceIoStatus.OK
        self.limit = RateLimit()
        self._users: list[tuple[BlockNode, JobUser]] = []
        try:
            self.add_node(main, perm, shared)
            if options.speed:
                self.set_speed(options.speed)
        except QmpError:
            self.fail_early()
            raise

    @property
    def nodes(self) -> list[BlockNode]:
        """The nodes that the job works on, the main one first."""
        return [node for node, _ in self._users]

    def add_node(
        self,
        node: BlockNode,
        perm: Perm = NONE,
        shared: Perm = ALL,
        *,
        has_backend: bool = False,
    ) -> None:
        """Use a node as well (block_job_add_bdrv); raise QmpError if its users do not allow it."""
        user = JobUser(perm, shared, f"{self.type} job '{self.id}'", has_backend)
        add_user(node, user, self.host.graph.subtree(node))
        node.op_blockers.block(self, f"block device is in use by block job: {self.type}")
        self._users.append((node, user))

    def keep_blocked(self, node: BlockNode, perm: Perm = NONE) -> None:
        """Need no more of a node than `perm`; commands may still not change the node."""
        for _, user in [use for use in self._users if use[0] is node]:
            user.perm, user.shared, user.has_backend = perm, ALL, False

    def remove_node(self, node: BlockNode) -> None:
        """Give up a node; do nothing if the job does not use the node."""
        for use in [use for use in self._users if use[0] is node]:
            node.parents.remove(use[1])
            node.op_blockers.unblock(self)
            self._users.remove(use)

    def remove_nodes(self) -> None:
        """Give up all nodes (block_job_remove_all_bdrv)."""
        for node in self.nodes:
            self.remove_node(node)

    def fail_early(self) -> None:
        self.remove_nodes()
        super().fail_early()

    def on_start(self) -> None:
        """Pause first if a drained section concerns the job."""
        for section in list(self.host.drains):
            section.meets(self)

    def dismiss(self) -> None:
        """Forget a concluded job, which has blocked its nodes until now."""
        self.remove_nodes()
        super().dismiss()

    def set_speed(self, speed: int) -> None:
        """Set the limit to `speed` bytes per second, 0 for none (block_job_set_speed).

        Raise QmpError if `speed` is negative, or the job takes no limit in its state.
        """
        self.check_verb(JobVerb.SET_SPEED)
        if speed < 0:
            raise QmpError("Parameter 'speed' expects a non-negative value")
        slower = speed and speed <= self.limit.speed
        self.limit.set_speed(speed)
        # A lower limit is no reason to end the sleep that the old limit wanted.
        if self.is_sleeping and not slower:
            self.enter()
        self.driver.set_speed(self)

    def cut_off(self, node: BlockNode) -> None:
        """Let the requests end that a cancelled job has under way at a node.

        What waits for a connection fails at once, as in QEMU.  A server that has
        not answered after `CUT_OFF_NS` is hung up on, for which QEMU needs a `yank`.
        """
        servers = list(connections(node))
        for server in servers:
            server.cancel_in_flight()
        if servers:
            self.host.spawn(self._hang_up_later(servers))

    async def _hang_up_later(self, servers: Iterable[BlockNode]) -> None:
        """Close the connections of `servers` every `CUT_OFF_NS`, until the job has ended."""
        clock = self.host.clock
        while not await Until(self._is_over, clock.monotonic_ns() + CUT_OFF_NS):
            for server in servers:
                server.hang_up()

    def _is_over(self) -> bool:
        return self.status in (JobStatus.CONCLUDED, JobStatus.NULL)

    async def sleep_for_limit(self, delay_ns: int) -> None:
        """Sleep for `delay_ns`, to keep to the speed limit.

        If the sleep is cut short, sleep on while the limit wants it, or do not: that
        depends on the release (`jobs_sleep_out`).
        """
        await self.sleep(delay_ns)
        while self.host.qemu.jobs_sleep_out and not self.is_cancelled:
            if (left_ns := self.delay_ns(0)) <= 0:
                return
            await self.sleep(left_ns)

    def delay_ns(self, nbytes: int) -> int:
        """Charge `nbytes` copied bytes to the speed limit; return how long to wait, in ns."""
        if not self.limit.speed:
            return 0
        return self.limit.delay_ns(self.host.clock.monotonic_ns(), nbytes)

    def failed(self, side: IoOperationType, exc: OSError) -> BlockErrorAction:
        """Decide about an error of one side by that side's policy, and return the action.

        `side` READ is what the job reads from, WRITE what it writes to.
        """
        driver, reading = self.driver, side is IoOperationType.READ
        policy = driver.on_source_error if reading else driver.on_target_error
        return self.error_action(policy, side, exc.errno or errno.EIO)

    def error_action(
        self, policy: BlockdevOnError, operation: IoOperationType, error: int
    ) -> BlockErrorAction:
        """Decide about errno `error` of an I/O, send the event, pause if that is the decision.

        (block_job_error_action.)  `auto` is `enospc`.  The event comes first, then the
        change of status: a client that waits for the pause waits for that.  Return
        the action.
        """
        if policy is BlockdevOnError.AUTO:
            policy = BlockdevOnError.ENOSPC
        action = error_action(policy, error)
        self.host.emit(BlockJobError(device=self.id, operation=operation, action=action))
        if action is BlockErrorAction.STOP:
            if not self.user_paused:
                self.user_paused = True
                self.pause()
            self.iostatus = iostatus_after(self.iostatus, error)
        return action

    def reset_iostatus(self) -> None:
        self.iostatus = BlockDeviceIoStatus.OK

    def on_user_resume(self) -> None:
        self.reset_iostatus()

    def emit_ready(self) -> None:
        self._emit_progress(BlockJobReady)

    def emit_pending(self) -> None:
        self.host.emit(BlockJobPending(type=self.type, id=self.id))

    def emit_cancelled(self) -> None:
        self._emit_progress(BlockJobCancelled)

    def emit_completed(self) -> None:
        self.host.emit(
            BlockJobCompleted(
                type=self.type,
                device=self.id,
                len=self.progress.total,
                offset=self.progress.current,
                speed=self.limit.speed,
                error=self.error_text,
            )
        )

    def _emit_progress(self, event: type[BlockJobReady] | type[BlockJobCancelled]) -> None:
        told: Event = event(
            type=self.type,
            device=self.id,
            len=self.progress.total,
            offset=self.progress.current,
            speed=self.limit.speed,
        )
        self.host.emit(told)
