# SPDX-License-Identifier: MIT
"""A drive as its guest has it: QEMU's BlockBackend plus the device on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from blockcore.bql.effects import Until
from blockcore.drive.guest_request import (
    DISCARD,
    FLUSH,
    READ,
    WRITE,
    ZERO,
    Device,
    GuestRequests,
    Request,
)
from blockcore.nodes.driver import Extent
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NONE, Perm
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot, Slots
from blockcore.nodes.shortcut.traces import Traces
from blockcore.qapi.names import BlockdevDetectZeroesOptions, BlockDeviceIoStatus, BlockdevOnError
from blockcore.rules.accounting import BlockAcctStats
from blockcore.rules.host import DriveHost
from blockcore.rules.policy import iostatus_enabled
from blockcore.rules.throttle_group import ThrottleMember


class BlockBackend:
    """A drive: policies, io-status, statistics, limits, and the requests in flight.

    `name` is empty for an anonymous one; `export` is the name of its NBD
    export.  `root` is the node under the device.
    """

    def __init__(
        self,
        host: DriveHost,
        *,
        name: str,
        export: str,
        root: BlockNode,
        device: Device,
        rerror: BlockdevOnError,
        werror: BlockdevOnError,
        writeback: bool = True,
        stats: BlockAcctStats | None = None,
    ) -> None:
        self.name = name
        self.export = export
        self.root = root
        self.device = device
        self.rerror = rerror
        self.werror = werror
        self.writeback = writeback
        self.iostatus = BlockDeviceIoStatus.OK
        self.shortcut: GuestShortcut | None = None
        self._shortcut_due = True
        self._throttle: ThrottleMember | None = None
        self.slots = Slots()
        # blkconf_apply_backend_options
        self.perm = Perm.CONSISTENT_READ | (NONE if root.read_only else Perm.WRITE)
        self.shared = Perm.CONSISTENT_READ | Perm.WRITE_UNCHANGED | Perm.RESIZE
        self.stay_at_node = False
        self.vm = host.vm
        self._host = host
        self._requests = GuestRequests(self, host, stats or BlockAcctStats())
        self._quiesced = 0
        self._ops_at_reset = 0

    @property
    def iostatus_enabled(self) -> bool:
        return iostatus_enabled(self.rerror, self.werror)

    @property
    def read_only(self) -> bool:
        return self.root.read_only

    @property
    def throttle(self) -> ThrottleMember | None:
        """The drive's part in a group of limits; None: there are none."""
        return self._throttle

    @throttle.setter
    def throttle(self, member: ThrottleMember | None) -> None:
        self._throttle = member
        self.concerns_changed()

    @property
    def size(self) -> int:
        return self.root.size

    def describe(self) -> str:
        """As messages about conflicts call it."""
        return f"block device '{self.name or self.device.qdev}'"

    def node_replaced(self, node: BlockNode) -> None:
        """The drive has another root, an overlay of the old one or what is to follow it."""
        self.publish_traces()
        self.root = node
        self.concerns_changed()

    def may_run(self) -> bool:
        """Whether requests may go to the node; held ones wait for this."""
        return self.vm.running and not self._quiesced

    def quiet(self) -> bool:
        """Whether no request is at a node, on either way."""
        return not self._requests.in_flight and self.shortcut_idle()

    def shortcut_idle(self) -> bool:
        """Whether no request is on the shortcut."""
        return self.slots.idle()

    def concerns_changed(self) -> None:
        """Send all requests the long way; the next one decides anew who may take the shortcut.

        Called under the lock, by whatever concerns requests, whenever it comes
        or goes.  That may be often, as for each link of a long chain, and so
        costs nothing but this.
        """
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
            and self.throttle is None
            and self.writeback
            and root.options.detect_zeroes is BlockdevDetectZeroesOptions.OFF
            and not self.device.logical_block_size
        ):
            way = root.way()
        self.publish_traces()
        if way is not None:
            self.shortcut = GuestShortcut(way, root.size, self._host.clock)
            below = way.translation
            self.slots.traces = way.traces
            self.slots.traces_below = below.traces if below is not None else Traces()

    def open_requests(self) -> list[Request]:
        """Those that have come and are not answered, but for any on the shortcut."""
        return list(self._requests.open.values())

    def reset_iostatus(self) -> None:
        self.iostatus = BlockDeviceIoStatus.OK

    def drop_held(self) -> None:
        """End every held request: the device was reset (virtio_blk_reset)."""
        self._ops_at_reset = self._ops()
        self._requests.drop_held()

    def is_driven(self) -> bool:
        """Whether the guest has sent something since the last reset: its driver is up."""
        return self._ops() > self._ops_at_reset

    def _ops(self) -> int:
        return self._requests.arrivals + self.slots.ops()

    def accepts(self) -> bool:
        """Whether no drained section keeps requests out."""
        return not self._quiesced

    @contextmanager
    def quiesced(self) -> Iterator[None]:
        """A drained section: new requests wait; await `Until(quiet)` inside it for the others.

        Throttled requests are let through, as QEMU's drain does.
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
        """Wait until no request is at a node (bdrv_drain); those that come meanwhile wait."""
        with self.quiesced():
            await Until(self.quiet)

    async def pread(self, offset: int, buf: memoryview, tried: Tried = False) -> None:
        """A guest's read into `buf`, which the shortcut has not done.

        `tried` is what came of it there.  Under rerror=ignore a failed read gives zeroes: a server
        has no stale guest memory to leave in place.
        """

        async def read() -> None:
            await self.root.pread(offset, buf)

        if not await self._requests.carry_out(READ, offset, len(buf), read, tried):
            buf[:] = bytes(len(buf))

    async def pwrite(
        self, offset: int, buf: memoryview, fua: bool = False, tried: Tried = False
    ) -> None:
        """A guest's write; with `fua`, or without a write-back cache, flushed.

        `tried` is what came of it on the shortcut, if that was asked.
        """

        async def write() -> None:
            await self.root.pwrite(offset, buf, fua=fua or not self.writeback)

        await self._requests.carry_out(WRITE, offset, len(buf), write, tried)

    async def zero(
        self, offset: int, length: int, *, may_unmap: bool, fua: bool = False, fast: bool = False
    ) -> None:
        """A guest's write-zeroes; `fast` fails with ENOTSUP rather than being slow."""

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
        """A guest's discard: dropped unless the node was opened with discard=unmap."""

        async def discard() -> None:
            await self.root.discard(offset, length)
            if fua:
                await self.root.flush()

        await self._requests.carry_out(DISCARD, offset, length, discard)

    async def flush(self) -> None:
        """A guest's flush."""

        async def flush() -> None:
            self.publish_traces()
            await self.root.flush()

        await self._requests.carry_out(FLUSH, 0, 0, flush)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """What `length` bytes at `offset` are.

        No device asks this, so no policy applies and nothing is held while
        the machine is stopped: an error is the answer.
        """
        await Until(self.accepts)
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

    def stats(self) -> BlockAcctStats:
        """The counters of both ways together."""
        total = deepcopy(self._requests.stats)
        for slot in self.slots:
            total.add(slot)
        self.publish_traces()
        return total

    def retire(self, slot: Slot) -> None:
        """The slot's thread has ended: keep what it counted."""
        self._requests.stats.add(slot)
        self.slots.retire(slot)

    def publish_traces(self) -> None:
        """Leave the traces of the writes that went past the nodes since the last time."""
        self.slots.publish()
