# SPDX-License-Identifier: MIT
"""A guest's connection, as nbdkit's handle."""

from __future__ import annotations

from collections.abc import Callable

from blockcore.bql.big_lock import BigLock
from blockcore.drive.block_backend import BlockBackend
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot


class Connection:
    """One NBD connection: nbdkit's handle.

    `opener` is the native id of the thread that has opened it.
    """

    opener = 0

    def __init__(self, lock: BigLock, blk: BlockBackend, readonly: bool) -> None:
        self.blk = blk
        self.writable = not readonly and not blk.read_only
        self._lock = lock
        self._opener_slot: Slot | None = None

    def block_size(self) -> tuple[int, int, int]:
        """Minimum, preferred and maximum size of a request, in bytes."""
        device = self.blk.device
        minimum = device.logical_block_size or 1
        return minimum, max(minimum, device.physical_block_size or 4096), 32 << 20

    def new_slot(self) -> Slot:
        """A slot for a worker thread of this connection."""
        slot = Slot()
        with self._lock.region():
            self.blk.slots.append(slot)
        return slot

    def opener_slot(self) -> Slot:
        """The slot of the opener, where that thread has the requests as well."""
        if self._opener_slot is None:
            self._opener_slot = self.new_slot()
        return self._opener_slot

    def close(self) -> None:
        """The client has gone, and nothing is under way."""
        if self._opener_slot is not None:
            self.retire(self._opener_slot)

    def retire(self, slot: Slot) -> None:
        """The slot's thread has ended."""
        with self._lock.region():
            self.blk.retire(slot)

    def shortcut_pread(self, slot: Slot, offset: int, buf: memoryview) -> Tried:
        """Try the shortcut for a read."""
        return self._try(slot, GuestShortcut.pread, offset, buf)

    def shortcut_pwrite(self, slot: Slot, offset: int, buf: memoryview) -> Tried:
        """Try the shortcut for a write."""
        return self._try(slot, GuestShortcut.pwrite, offset, buf)

    def _try(
        self,
        slot: Slot,
        go: Callable[[GuestShortcut, Slot, int, memoryview], bool],
        offset: int,
        buf: memoryview,
    ) -> Tried:
        # Busy before look: whoever takes the shortcut away looks at `busy` after that, so that
        # one of the two sees the other (`nodes.shortcut`).
        slot.busy = True
        shortcut = self.blk.shortcut
        try:
            return shortcut is not None and go(shortcut, slot, offset, buf)
        except OSError as exc:
            return exc
        finally:
            slot.busy = False
            if shortcut is not self.blk.shortcut:
                self._lock.poke()  # who has taken it away may wait for this slot
