# SPDX-License-Identifier: MIT
"""A drive that is recorded: its shortcut, and what its guests' other requests go through.

Both add nothing to a request but its two lines (`recording`).  An attempt to connect
has two as well (`opened`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from blockcore.bql.clock import Clock
from blockcore.bql.effects import Call
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.recording import Entry, Recording, rules_of
from blockcore.nodes.driver import Extent
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import HungUp, told_by_nbd
from blockcore.qapi.names import FaultIOType

LARGE = 256 << 10
"""Bytes from which a request's contents are copied, or their digest made, without the lock."""

_READ, _WRITE = FaultIOType.READ, FaultIOType.WRITE


class RecordedShortcut(GuestShortcut):
    """The shortcut of a drive that is recorded: nothing but the lines of a request is added.

    The lock is not held, and yet the lines are in the right order: who is about to
    write a line that requests depend on, such as that of a command, takes the
    shortcut away first.  A request that finds its shortcut still there after it has
    written its line, has written that before.  Otherwise the line is withdrawn.
    """

    __slots__ = ("_blk", "_recording")

    def __init__(
        self, blk: BlockBackend, recording: Recording, way: Way, size: int, clock: Clock
    ) -> None:
        super().__init__(way, size, clock)
        self._blk = blk
        self._recording = recording

    def do_pread(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        recording, length = self._recording, len(buf)
        if length >= LARGE or not recording.room():
            return False
        number = recording.submitted(slot.connection, _READ, offset, length)
        done = False
        try:
            done = self._blk.shortcut is self and super().do_pread(slot, offset, buf)
        finally:
            if not done:
                recording.withdrawn(number)
        if done:
            recording.done(number, f',"digest":{recording.lines.digest(buf)}')
        return done

    def do_pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        recording, length = self._recording, len(buf)
        if length >= LARGE or not recording.room():
            return False
        more = recording.written(buf)
        last = recording.last_member
        number = recording.submitted(slot.connection, _WRITE, offset, length, last, more)
        done = False
        try:
            done = self._blk.shortcut is self and super().do_pwrite(slot, offset, buf)
        finally:
            if not done:
                recording.withdrawn(number)
        if done:
            recording.done(number)
        return done


class RecordedDrive:
    """A drive as one connection's guest has it while the machine is recorded.

    The requests are those of `BlockBackend`, which the shortcut has not done.
    """

    def __init__(self, blk: BlockBackend, recording: Recording, connection: int) -> None:
        self._blk = blk
        self._recording = recording
        self._connection = connection

    async def pread(self, offset: int, buf: memoryview, tried: Tried = False) -> None:
        """Carry out a read; its second line has a digest of what was read."""
        entry = await self._begun(_READ, offset, len(buf))
        await self._carried_out(entry, self._blk.pread(offset, buf, tried), read=buf)

    async def pwrite(
        self, offset: int, buf: memoryview, fua: bool = False, tried: Tried = False
    ) -> None:
        """Carry out a write; its first line has the contents, or a digest of them."""
        written = self._recording.written
        more = await Call(written, buf) if len(buf) >= LARGE else written(buf)
        flags = _flag("fua", fua) + self._recording.last_member
        entry = await self._begun(_WRITE, offset, len(buf), flags, more)
        await self._carried_out(entry, self._blk.pwrite(offset, buf, fua, tried))

    async def zero(
        self, offset: int, length: int, *, may_unmap: bool, fua: bool = False, fast: bool = False
    ) -> None:
        """Carry out a write-zeroes."""
        flags = _flag("may-unmap", may_unmap) + _flag("fua", fua) + _flag("fast", fast)
        entry = await self._begun(FaultIOType.WRITE_ZEROES, offset, length, flags)
        go = self._blk.zero(offset, length, may_unmap=may_unmap, fua=fua, fast=fast)
        await self._carried_out(entry, go, fast=fast)

    async def discard(self, offset: int, length: int, fua: bool = False) -> None:
        """Carry out a discard."""
        entry = await self._begun(FaultIOType.DISCARD, offset, length, _flag("fua", fua))
        await self._carried_out(entry, self._blk.discard(offset, length, fua))

    async def flush(self) -> None:
        """Carry out a flush."""
        await self._carried_out(await self._begun(FaultIOType.FLUSH, 0, 0), self._blk.flush())

    async def block_status(self, offset: int, length: int) -> list[Extent]:
        """Answer what is allocated; the answer is not recorded: it depends on the file system."""
        entry = await self._begun(FaultIOType.BLOCK_STATUS, offset, length)
        extents: list[Extent] = await self._carried_out(
            entry, self._blk.block_status(offset, length)
        )
        return extents

    async def _begun(
        self,
        iotype: FaultIOType,
        offset: int,
        length: int,
        flags: str = "",
        more: bytes = b"",
    ) -> Entry:
        """Note a request when there is room for its lines."""
        recording = self._recording
        if not recording.room():
            await recording.admit()
        number = recording.submitted(self._connection, iotype, offset, length, flags, more)
        return Entry(number, [])

    async def _carried_out(
        self,
        entry: Entry,
        go: Coroutine[Any, Any, Any],
        read: memoryview | None = None,
        fast: bool = False,
    ) -> Any:
        """Carry out a request that was noted; note how it ends."""
        try:
            result = await _Attributed(go, self._recording, entry)
        except OSError as error:
            self._ended(entry, f',"errno":{told_by_nbd(error.errno, fast)}')
            raise
        except GeneratorExit:  # the client has gone, or the process ends: nobody is told
            self._ended(entry, ',"gone":true')
            raise
        if read is None:
            self._ended(entry, "")
        else:
            digest = self._recording.lines.digest
            value = await Call(digest, read) if len(read) >= LARGE else digest(read)
            self._ended(entry, f',"digest":{value}')
        return result

    def _ended(self, entry: Entry, more: str) -> None:
        self._recording.done(entry.number, f"{more}{rules_of(entry.rules)}")


async def opened(
    go: Coroutine[Any, Any, None],
    recording: Recording,
    number: int,
    blk: BlockBackend,
    writable: bool,
) -> None:
    """Let a guest connect to a drive by `go`; note that it has come, and what becomes of it."""
    entry = Entry(number, [], "connecting")
    recording.connecting(number, blk.export, writable)
    try:
        await _Attributed(go, recording, entry)
    except OSError as error:
        recording.refused(number, entry.rules, _flag("hung-up", isinstance(error, HungUp)))
        raise
    except GeneratorExit:  # the client has gone, or the process ends
        recording.refused(number, entry.rules, _flag("gone", True))
        raise
    recording.connected(number, blk.export, writable, entry.rules)


class _Attributed:
    """An awaitable that runs a request's coroutine, and says at each step whose step it is."""

    __slots__ = ("_entry", "_go", "_recording")

    def __init__(
        self, go: Coroutine[Any, Any, Any], recording: Recording, entry: Entry
    ) -> None:
        self._go = go
        self._recording = recording
        self._entry = entry

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    effect = self._step(value, error)
                except StopIteration as stop:
                    return stop.value
                try:
                    value, error = (yield effect), None
                except GeneratorExit:
                    self._close()
                    raise
                except BaseException as exc:  # the outcome of a call, which the coroutine handles
                    error = exc
        finally:
            error = None  # its traceback leads to this frame

    def _step(self, value: Any, error: BaseException | None) -> Any:
        recording = self._recording
        before, recording.current = recording.current, self._entry
        try:
            return self._go.send(value) if error is None else self._go.throw(error)
        finally:
            recording.current = before
            error = None

    def _close(self) -> None:
        """End the coroutine; a clause of it that awaits is cut short there (`Routine.abandon`)."""
        while True:
            try:
                self._go.close()
                return
            except RuntimeError:
                if self._go.cr_frame is None:  # type: ignore[attr-defined]
                    raise


def _flag(name: str, value: bool) -> str:
    return f',"{name}":true' if value else ""
