"""A drive as its guest has it: QEMU's BlockBackend plus the device on it.

Here a guest request meets the error policy (`block/block-backend.c`,
`hw/block/virtio-blk.c`).  A request that fails is reported, ignored, or held:
then it asks for the machine to stop, and stays where it is until `cont` lets
it try again from the beginning.  Requests that arrive while the machine does
not run wait the same way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

from blockcore.accounting import AcctType, BlockAcctStats, Slot
from blockcore.clock import Clock
from blockcore.effects import Until
from blockcore.nodes.direct import Counted
from blockcore.nodes.node import BlockNode, Extent
from blockcore.policy import error_action, iostatus_after, iostatus_enabled
from blockcore.qapi import (
    BlockdevDetectZeroesOptions,
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    BlockIoError,
    Event,
    IoOperationType,
    RunState,
)
from blockcore.runstate import Vm
from blockcore.short_path import ShortPath
from blockcore.throttle_group import ThrottleMember


class Guest(Protocol):
    """What a drive needs of its machine."""

    vm: Vm
    clock: Clock

    def emit(self, event: Event) -> None:
        """Send an event to every client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device model a guest would see on the drive.

    `qdev` is the path that query-block shows, `id` the user's name for it.
    `logical_block_size` (bytes) is what requests must be aligned to; None
    leaves any alignment to the client, which has no sectors to think in.
    """

    qdev: str
    id: str | None = None
    logical_block_size: int | None = None
    physical_block_size: int | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of request fails and counts."""

    operation: IoOperationType
    acct: AcctType | None
    throttled: bool


_READ = _Kind(IoOperationType.READ, AcctType.READ, throttled=True)
_WRITE = _Kind(IoOperationType.WRITE, AcctType.WRITE, throttled=True)
_FLUSH = _Kind(IoOperationType.WRITE, AcctType.FLUSH, throttled=False)
_DISCARD = _Kind(IoOperationType.WRITE, None, throttled=False)
"""virtio-blk does not account discards (recorded: guest-discard-zeroes-eio-stop)."""


class RequestDropped(OSError):
    """The machine was reset under a held request, or its drive is gone."""

    def __init__(self) -> None:
        super().__init__(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))


class _Hold:
    """What the held requests of a drive wait for; a reset ends it and they are dropped."""

    __slots__ = ("blk", "dropped")

    def __init__(self, blk: BlockBackend) -> None:
        self.blk = blk
        self.dropped = False

    def over(self) -> bool:
        return self.dropped or self.blk.may_run()

    def stop_decided(self) -> bool:
        """Whether the stop that a failed request asked for has come, or `cont` before it."""
        return self.dropped or self.blk.vm.stop_requested is None

    def check(self) -> None:
        if self.dropped:
            raise RequestDropped


class BlockBackend:
    """A drive: policies, io-status, statistics, limits, and the requests in flight.

    `name` is empty for an anonymous one; `export` is the name of its NBD
    export.  `root` is the node under the device.
    """

    def __init__(
        self,
        guest: Guest,
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
        self.throttle: ThrottleMember | None = None
        self.short_path: ShortPath | None = None
        self.slots: list[Slot] = []
        self.vm = guest.vm
        self._guest = guest
        self._stats = stats or BlockAcctStats()
        self._in_flight = 0
        self._quiesced = 0
        self._arrivals = 0
        self._short_writes = 0
        self._short_nodes: tuple[tuple[Counted, int], ...] = ()
        self._short_nodes_below: tuple[tuple[Counted, int], ...] = ()
        self._hold = _Hold(self)

    @property
    def iostatus_enabled(self) -> bool:
        return iostatus_enabled(self.rerror, self.werror)

    @property
    def read_only(self) -> bool:
        return self.root.read_only

    @property
    def size(self) -> int:
        return self.root.size

    def may_run(self) -> bool:
        """Whether requests may go to the node; held ones wait for this."""
        return self.vm.running and not self._quiesced

    def quiet(self) -> bool:
        """Whether no request is at a node, on either path."""
        return not self._in_flight and self.short_path_idle()

    def short_path_idle(self) -> bool:
        """Whether no request is on the short path."""
        return not any(slot.busy for slot in self.slots)

    def find_short_path(self) -> None:
        """Decide anew whether plain requests may take the short path.

        To be called, under the lock, whenever something that concerns
        requests has come or gone.
        """
        root = self.root
        direct = None
        if (
            self.may_run()
            and self.throttle is None
            and self.writeback
            and root.options.detect_zeroes is BlockdevDetectZeroesOptions.OFF
            and not self.device.logical_block_size
        ):
            direct = root.direct()
        self.publish_short_writes()
        if direct is None:
            self.short_path = None
        else:
            self.short_path = ShortPath(direct, root.size, self._guest.clock)
            self._short_nodes = self.short_path.nodes
            below = self.short_path.translation
            self._short_nodes_below = below.nodes if below else ()

    def reset_iostatus(self) -> None:
        self.iostatus = BlockDeviceIoStatus.OK

    def drop_held(self) -> None:
        """End every held request: the device was reset (virtio_blk_reset)."""
        self._hold.dropped = True
        self._hold = _Hold(self)

    def accepts(self) -> bool:
        """Whether no drained section keeps requests out."""
        return not self._quiesced

    @contextmanager
    def quiesced(self) -> Iterator[None]:
        """A drained section: new requests wait; await `Until(quiet)` inside it for the others.

        Throttled requests are let through, as QEMU's drain does.
        """
        self._quiesced += 1
        self.short_path = None
        member = self.throttle
        if member is not None:
            member.drain_begin()
        try:
            yield
        finally:
            self._quiesced -= 1
            if member is not None:
                member.drain_end()
            self.find_short_path()

    async def drain(self) -> None:
        """Wait until no request is at a node (bdrv_drain); those that come meanwhile wait."""
        with self.quiesced():
            await Until(self.quiet)

    async def pread(self, offset: int, buf: memoryview, error: OSError | None = None) -> None:
        """A guest's read into `buf`.

        `error` is the outcome of the first attempt, if the short path has
        made one.  Under rerror=ignore a failed read gives zeroes: a server
        has no stale guest memory to leave in place.
        """

        async def read() -> None:
            await self.root.pread(offset, buf)

        if not await self._request(_READ, offset, len(buf), read, error):
            buf[:] = bytes(len(buf))

    async def pwrite(
        self, offset: int, buf: memoryview, fua: bool = False, error: OSError | None = None
    ) -> None:
        """A guest's write; with `fua`, or without a write-back cache, flushed."""

        async def write() -> None:
            await self.root.pwrite(offset, buf, fua=fua or not self.writeback)

        await self._request(_WRITE, offset, len(buf), write, error)

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

        await self._request(_WRITE, offset, length, zero, fast=fast)

    async def discard(self, offset: int, length: int, fua: bool = False) -> None:
        """A guest's discard: dropped unless the node was opened with discard=unmap."""

        async def discard() -> None:
            await self.root.discard(offset, length)
            if fua:
                await self.root.flush()

        await self._request(_DISCARD, offset, length, discard)

    async def flush(self) -> None:
        """A guest's flush."""

        async def flush() -> None:
            self.publish_short_writes()
            await self.root.flush()

        await self._request(_FLUSH, 0, 0, flush)

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """What `length` bytes at `offset` are.

        No device asks this, so no policy applies and nothing is held while
        the machine is stopped: an error is the answer.
        """
        await Until(self.accepts)
        extents: list[Extent] = []
        self._in_flight += 1
        try:
            end = min(offset + length, self.size)
            while offset < end:
                extents.append(await self.root.block_status(offset, end - offset))
                offset += extents[-1].length
        finally:
            self._in_flight -= 1
        return extents

    def stats(self) -> BlockAcctStats:
        """The counters of both paths together."""
        total = deepcopy(self._stats)
        for slot in self.slots:
            total.add(slot)
        self.publish_short_writes()
        return total

    def retire(self, slot: Slot) -> None:
        """The slot's thread has ended: keep what it counted."""
        self.publish_short_writes()
        self._stats.add(slot)
        self._short_writes -= slot.wr_ops
        self.slots.remove(slot)

    def publish_short_writes(self) -> None:
        """Tell the nodes of the writes that went past them since the last time."""
        writes = sum(slot.wr_ops for slot in self.slots)
        if writes == self._short_writes:
            return
        self._short_writes = writes
        highest = max(slot.wr_highest for slot in self.slots)
        for node, shift in self._short_nodes:
            node.wrote_directly(highest + shift)
        highest = max(slot.wr_highest_below for slot in self.slots)
        for node, shift in self._short_nodes_below:
            node.wrote_directly(highest + shift)

    async def _request(
        self,
        kind: _Kind,
        offset: int,
        nbytes: int,
        attempt: Callable[[], Awaitable[None]],
        error: OSError | None = None,
        fast: bool = False,
    ) -> bool:
        """Carry a request to its end; False if its error was ignored.

        Each round holds the request until the machine runs, tries it from
        scratch, and lets the policy decide about a failure.  Held requests go
        on in the order in which they arrived.
        """
        self._arrivals += 1
        rank = self._arrivals
        while True:
            if error is None:
                hold = self._hold
                await Until(hold.over, rank=rank)
                hold.check()
                self._check(kind, offset, nbytes)
                started_ns = self._guest.clock.monotonic_ns()
                error = await self._attempt(kind, nbytes, attempt)
            else:
                started_ns = self._guest.clock.monotonic_ns()
            if error is None:
                self._count(kind, nbytes, started_ns)
                return True
            if fast and error.errno == errno.ENOTSUP:
                raise error
            action = self._error_action(kind.operation, error)
            if action is BlockErrorAction.REPORT:
                self._count_failed(kind, started_ns)
                raise error
            if action is BlockErrorAction.IGNORE:
                self._count(kind, nbytes, started_ns)
                return False
            error, hold = None, self._hold
            await Until(hold.stop_decided, rank=rank)
            hold.check()

    async def _attempt(
        self, kind: _Kind, nbytes: int, attempt: Callable[[], Awaitable[None]]
    ) -> OSError | None:
        self._in_flight += 1
        try:
            if self.throttle is not None and kind.throttled:
                is_write = kind.operation is IoOperationType.WRITE
                await self.throttle.admit(is_write, nbytes, self._guest.clock.monotonic_ns)
            await attempt()
        except OSError as exc:
            return exc
        finally:
            self._in_flight -= 1
        return None

    def _count_failed(self, kind: _Kind, started_ns: int) -> None:
        if kind.acct is not None:
            self._stats.failed(kind.acct, started_ns, self._guest.clock.monotonic_ns())

    def _count(self, kind: _Kind, nbytes: int, started_ns: int) -> None:
        if kind.acct is not None:
            self._stats.done(kind.acct, nbytes, started_ns, self._guest.clock.monotonic_ns())

    def _check(self, kind: _Kind, offset: int, nbytes: int) -> None:
        """Refuse what no device model would pass on: no policy, no event, counted as invalid."""
        block = self.device.logical_block_size or 1
        if offset + nbytes <= self.size and not (offset | nbytes) % block:
            return
        if kind.acct is not None:
            self._stats.invalid(kind.acct, self._guest.clock.monotonic_ns())
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def _error_action(self, operation: IoOperationType, error: OSError) -> BlockErrorAction:
        """Decide, set the io-status, say so, ask for the stop: in this order (blk_error_action)."""
        number = error.errno or errno.EIO
        is_read = operation is IoOperationType.READ
        action = error_action(self.rerror if is_read else self.werror, number)
        if action is BlockErrorAction.STOP:
            self.iostatus = iostatus_after(self.iostatus, number)
        self._guest.emit(
            BlockIoError(
                device=self.name,
                node_name=self.root.node_name,
                operation=operation,
                action=action,
                nospace=number == errno.ENOSPC if self.iostatus_enabled else None,
                reason=os.strerror(number),
            )
        )
        if action is BlockErrorAction.STOP:
            self.vm.request_stop(RunState.IO_ERROR)
        return action
