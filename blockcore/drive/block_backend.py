# SPDX-License-Identifier: MIT
"""A drive as its guest has it: QEMU's BlockBackend plus the device on it.

A request comes from a worker thread of nbdkit's.  The worker first tries
`shortcut`, without the big lock; what the shortcut does not do comes here, as a
coroutine under the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from blockcore.bql.effects import Until
from blockcore.drive.guest_request import (
    BLOCK_STATUS,
    CONNECT,
    DISCARD,
    FLUSH,
    READ,
    WRITE,
    ZERO,
    Device,
    GuestRequests,
    Request,
    Wait,
)
from blockcore.nodes.driver import Extent
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NONE, Perm
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot, Slots
from blockcore.nodes.shortcut.traces import Traces
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    BlockDeviceIoStatus,
    DeviceOnError,
    OnStop,
)
from blockcore.rules.accounting import BlockAcctStats
from blockcore.rules.host import DriveHost
from blockcore.rules.policy import DEFAULT_RETRY, Retry, iostatus_enabled
from blockcore.rules.throttle_group import ThrottleMember


class BackendHost(DriveHost, Protocol):
    """The machine as a drive needs it, with what is made for drives."""

    def new_shortcut(self, blk: BlockBackend, way: Way, size: int) -> GuestShortcut:
        """Return a shortcut for a drive of `size` bytes, which goes that way."""


class BlockBackend:
    """A drive: policies, io-status, statistics, limits, and the requests in flight.

    `name` is empty for an anonymous drive; `export` is the name of its NBD
    export.  `root` is the node under the device.  `shortcut` is where plain
    requests may go past the nodes, None if they may not.  `connections` has the
    numbers of those that are open.  Requests raise the OSError that the guest is told.
    """

    def __init__(
        self,
        host: BackendHost,
        *,
        name: str,
        export: str,
        root: BlockNode,
        device: Device,
        rerror: DeviceOnError,
        werror: DeviceOnError,
        retry: Retry = DEFAULT_RETRY,
        on_stop: OnStop = OnStop.HOLD,
        writeback: bool = True,
        stats: BlockAcctStats | None = None,
    ) -> None:
        self.name = name
        self.export = export
        self.root = root
        self.device = device
        self.rerror = rerror
        self.werror = werror
        self.retry = retry
        self.on_stop = on_stop
        self.writeback = writeback
        self.iostatus = BlockDeviceIoStatus.OK
        self.shortcut: GuestShortcut | None = None
        self._shortcut_due = True
        self._throttle: ThrottleMember | None = None
        self.slots = Slots()
        self.connections: set[int] = set()
        self.cut_off: set[int] = set()
        """Those of them that a power cut has ended."""
        # blkconf_apply_backend_options
        self.perm = Perm.CONSISTENT_READ | (NONE if root.read_only else Perm.WRITE)
        self.shared = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED | Perm.RESIZE
        self.stay_at_node = False
        self.vm = host.vm
        self._host = host
        self._requests = GuestRequests(self, host, stats or BlockAcctStats())
        self._quiesced = 0
        self._watchers = 0
        self._ops_at_reset = 0

    @property
    def iostatus_enabled(self) -> bool:
        return iostatus_enabled(self.rerror, self.werror)

    @property
    def read_only(self) -> bool:
        return self.root.read_only

    @property
    def throttle(self) -> ThrottleMember | None:
        """The drive's part in a group of limits; None if it has no limits."""
        return self._throttle

    @throttle.setter
    def throttle(self, member: ThrottleMember | None) -> None:
        self._throttle = member
        self.concerns_changed()

    @property
    def size(self) -> int:
        return self.root.size

    def describe(self) -> str:
        """Return the name by which messages about conflicts call the drive."""
        return f"block device '{self.name or self.device.qdev}'"

    def node_replaced(self, node: BlockNode) -> None:
        """Take `node` as the root from now on, in the place of the old root.

        `node` is an overlay of the old root, or takes over from it at the end of a job.
        """
        self.publish_traces()
        self.root = node
        self.concerns_changed()

    def may_run(self) -> bool:
        """Return whether requests may go to the node; held requests wait for this."""
        return self.vm.running and not self._quiesced

    def quiet(self) -> bool:
        """Return whether no request is at a node, on the long way or on the shortcut."""
        return not self._requests.in_flight and self.shortcut_idle()

    def is_idle(self) -> bool:
        """Return whether every request that has come is answered; to be asked while `watched`."""
        return not self._requests.open and self.quiet()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep requests off the shortcut inside the context, so that the end of each is noticed."""
        self._watchers += 1
        self.concerns_changed()
        try:
            yield
        finally:
            self._watchers -= 1
            self.concerns_changed()

    def shortcut_idle(self) -> bool:
        """Return whether no request is on the shortcut."""
        return self.slots.idle()

    def concerns_changed(self) -> None:
        """Send all requests the long way; the next one decides anew who may take the shortcut.

        Called under the big lock whenever something that concerns requests comes or
        goes.  That may be often, as for each link of a long chain, and so the
        decision itself is left to the next request.
        """
        # Workers read this without the lock, after they have set `busy` in their slot.  A worker
        # that has read the old value goes on; `shortcut_idle` tells when none does.
        self.shortcut = None
        self._shortcut_due = True

    def renew_shortcut(self) -> None:
        """Decide whether plain requests may take the shortcut, if something has changed."""
        if self._shortcut_due:
            self._shortcut_due = False
            self._find_shortcut()

    def _find_shortcut(self) -> None:
        root = self.root
        way = None
        if (
            self.may_run()
            and not self._watchers
            and not self.cut_off
            and self.throttle is None
            and self.writeback
            and root.options.detect_zeroes is BlockdevDetectZeroesOptions.OFF
            and not self.device.logical_block_size
        ):
            way = root.way()
        if way is None:
            self.publish_traces()
            return
        below = way.translation
        self.slots.lead_to(way.traces, Traces() if below is None else below.traces)
        # From here on workers may write there.
        self.shortcut = self._host.new_shortcut(self, way, root.size)

    def open_requests(self) -> list[Request]:
        """Return the requests that have come and are not answered, except on the shortcut."""
        return list(self._requests.open.values())

    def reset_iostatus(self) -> None:
        self.iostatus = BlockDeviceIoStatus.OK

    def drop_held(self) -> None:
        """End every held request, because the device was reset (virtio_blk_reset)."""
        self._ops_at_reset = self._ops()
        self._requests.drop_held()

    def cut_power(self) -> None:
        """End what the guest has under way, and all that still comes from its connections.

        nbdkit delivers requests that it has read, or that are in a socket which is shut down.
        """
        self.cut_off |= self.connections
        self.concerns_changed()
        self.drop_held()

    def disconnected(self, connection: int) -> None:
        """Forget a connection that is closed: nothing comes from there any more."""
        self.connections.discard(connection)
        if connection in self.cut_off:
            self.cut_off.remove(connection)
            self.concerns_changed()

    def is_driven(self) -> bool:
        """Return whether the guest has sent a request since the last reset.

        A guest's driver is up then, and has started the device (virtio_blk_start_ioeventfd).
        """
        return self._ops() > self._ops_at_reset

    def _ops(self) -> int:
        return self._requests.arrivals + self.slots.ops()

    def accepts(self) -> bool:
        """Return whether no drained section keeps requests out."""
        return not self._quiesced

    @contextmanager
    def quiesced(self) -> Iterator[None]:
        """Keep new requests waiting inside the context; await `Until(quiet)` for those under way.

        Throttled requests are let through, as QEMU's drain does (blk_root_drained_begin).
        """
        self._quiesced += 1
        self.concerns_changed()
        member = self.throttle
        if member is not None:
            member.drain_begin()
        try:
            yield
        finally:
            self._quiesced -= 1
            if member is not None:
                member.drain_end()
            self.concerns_changed()

    async def drain(self) -> None:
        """Wait until no request is at a node; new requests wait meanwhile (bdrv_drain)."""
        with self.quiesced():
            await Until(self.quiet)

    async def pread(self, offset: int, buf: memoryview, tried: Tried = False) -> None:
        """Carry out a guest's read into `buf`, which the shortcut has not done.

        `tried` is the outcome of the shortcut.  Under rerror=ignore a failed read
        gives zeroes: a server has no stale guest memory to leave in place.
        """

        async def read() -> None:
            await self.root.pread(offset, buf)

        if not await self._requests.carry_out(READ, offset, len(buf), read, tried):
            buf[:] = bytes(len(buf))

    async def pwrite(
        self, offset: int, buf: memoryview, fua: bool = False, tried: Tried = False
    ) -> None:
        """Carry out a guest's write; flush after it with `fua`, or without a write-back cache.

        `tried` is the outcome of the shortcut, if the write was tried there.
        """

        async def write() -> None:
            await self.root.pwrite(offset, buf, fua=fua or not self.writeback)

        await self._requests.carry_out(WRITE, offset, len(buf), write, tried)

    async def zero(
        self, offset: int, length: int, *, may_unmap: bool, fua: bool = False, fast: bool = False
    ) -> None:
        """Carry out a guest's write-zeroes; with `fast` raise ENOTSUP rather than write data."""

        async def zero() -> None:
            await self.root.zero(
                offset,
                length,
                may_unmap=may_unmap,
                fua=fua or not self.writeback,
                no_fallback=fast,
            )

        await self._requests.carry_out(ZERO, offset, length, zero, fast=fast)

    async def discard(self, offset: int, length: int, fua: bool = False) -> None:
        """Carry out a guest's discard; it is dropped unless the node has discard=unmap."""

        async def discard() -> None:
            await self.root.discard(offset, length, fua=fua)

        await self._requests.carry_out(DISCARD, offset, length, discard)

    async def flush(self) -> None:
        """Carry out a guest's flush."""

        async def flush() -> None:
            # A node that knows of no write since its last flush is not flushed.
            self.publish_traces()
            await self.root.flush()

        await self._requests.carry_out(FLUSH, 0, 0, flush)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Return the extents of `length` bytes at `offset`.

        No device asks this, so no policy applies and the question is not held while
        the machine is stopped: an OSError is the answer.  Only drained sections make
        it wait.
        """
        with self._requests.listed(BLOCK_STATUS, offset, length) as request:
            if not self.accepts():
                request.waits_for = Wait.DRAIN
                await Until(self.accepts)
                request.waits_for = None
            extents: list[Extent] = []
            self._requests.in_flight += 1
            try:
                end = min(offset + length, self.size)
                while offset < end:
                    extents.append(await self.root.block_status(offset, end - offset))
                    offset += extents[-1].length
            finally:
                self._requests.in_flight -= 1
            return extents

    async def connect(self, node: BlockNode) -> None:
        """Let a guest connect, which sees `node`; an OSError refuses it.  No drain waits for it."""
        with self._requests.listed(CONNECT, 0, 0):
            await node.connect()

    def stats(self) -> BlockAcctStats:
        """Return a copy of the counters, of the long way and the shortcut together."""
        total = self._requests.stats.copy()
        for slot in self.slots:
            total.add(slot)
        self.publish_traces()
        return total

    def retire(self, slot: Slot) -> None:
        """Take over what a slot has counted, since its thread has ended."""
        self._requests.stats.add(slot)
        self.slots.retire(slot)

    def publish_traces(self) -> None:
        """Tell the nodes of the writes that have gone past them since the last call."""
        self.slots.publish()
