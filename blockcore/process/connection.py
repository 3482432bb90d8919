# SPDX-License-Identifier: MIT
"""A guest's connection, as nbdkit's handle."""

from __future__ import annotations

from collections.abc import Callable

from blockcore.bql.big_lock import BigLock
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.recorded import RecordedDrive
from blockcore.drive.recording import Recording
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot
from blockcore.process.gathering import LOOK, Gathering
from blockcore.process.nbd_socket import NbdSocket


class Connection:
    """One NBD connection: nbdkit's handle.

    `number` counts connections from 1 on.  `guest` takes the requests that are not on the
    shortcut: the drive, or what records it.  `socket` is None if it could not be found.
    `opener` is the native id of the thread on which nbdkit called `open`.
    """

    opener = 0

    def __init__(
        self,
        number: int,
        lock: BigLock,
        blk: BlockBackend,
        readonly: bool,
        gathering: Gathering,
        socket: NbdSocket | None = None,
        recording: Recording | None = None,
    ) -> None:
        self.number = number
        self.socket = socket
        self.blk = blk
        self.guest: BlockBackend | RecordedDrive = blk
        self.writable = is_writable(blk, readonly)
        self._lock = lock
        self._gathering = gathering
        self._opener_slot: Slot | None = None
        self._recording = recording
        if recording is not None:
            self.guest = RecordedDrive(blk, recording, number)

    def block_size(self) -> tuple[int, int, int]:
        """Return the minimum, preferred and maximum size of a request, in bytes."""
        device = self.blk.device
        minimum = device.logical_block_size or 1
        return minimum, max(minimum, device.physical_block_size or 4096), 32 << 20

    def new_slot(self) -> Slot:
        """Make a slot for a worker thread of this connection; takes the big lock."""
        slot = Slot(self.number, LOOK)
        with self._lock.region():
            self.blk.slots.append(slot)
        return slot

    def opener_slot(self) -> Slot:
        """Return the slot of the opener, for an nbdkit whose opener serves the requests as well.

        To be called on the opener only: the slot is made on the first call.
        """
        if self._opener_slot is None:
            self._opener_slot = self.new_slot()
        return self._opener_slot

    def close(self) -> None:
        """Retire the opener's slot; the client is gone and no request is under way."""
        if self._opener_slot is not None:
            self.retire(self._opener_slot)
        if self._recording is not None:
            with self._lock.region():
                self._recording.disconnected(self.number)

    def retire(self, slot: Slot) -> None:
        """Drop the slot of a thread that ends, keeping its counts; takes the big lock."""
        with self._lock.region():
            self.blk.retire(slot)

    def shortcut_pread(self, slot: Slot, offset: int, buf: memoryview) -> Tried:
        """Try to read `len(buf)` bytes by the shortcut; never raises, see `Tried`.

        On the worker's thread, without the big lock.
        """
        return self._try(slot, GuestShortcut.pread, offset, buf)

    def shortcut_pwrite(self, slot: Slot, offset: int, buf: memoryview) -> Tried:
        """Try to write `buf` by the shortcut; never raises, see `Tried`.

        On the worker's thread, without the big lock.
        """
        return self._try(slot, GuestShortcut.pwrite, offset, buf)

    def _try(
        self,
        slot: Slot,
        go: Callable[[GuestShortcut, Slot, int, memoryview], bool],
        offset: int,
        buf: memoryview,
    ) -> Tried:
        slot.until_look -= 1
        if not slot.until_look:
            slot.until_look = LOOK
            self._gathering.look(len(buf))
        # No lock: set `busy`, then read the shortcut.  A thread that takes the shortcut away does
        # the reverse, and then waits for slots that are busy.  So either this thread finds no
        # shortcut, or the other thread finds `busy` and waits for the request (`nodes.shortcut`).
        slot.busy = True
        shortcut = self.blk.shortcut
        try:
            return shortcut is not None and go(shortcut, slot, offset, buf)
        except OSError as exc:
            return exc
        finally:
            slot.busy = False
            if shortcut is not self.blk.shortcut:
                # The shortcut was taken away during the request: a routine may wait for this slot,
                # and its condition is looked at only when a region of the lock ends.
                self._lock.poke()


def is_writable(blk: BlockBackend, readonly: bool) -> bool:
    """Return whether a guest may write to a drive; `readonly` is whether the server lets none."""
    return not readonly and not blk.read_only
