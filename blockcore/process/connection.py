# SPDX-License-Identifier: MIT
"""A guest's connection, as nbdkit's handle."""

from __future__ import annotations

from collections.abc import Callable

from blockcore.bql.big_lock import BigLock
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.short_path import ShortPath
from blockcore.rules.accounting import Slot


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

    def short_pread(
        self, slot: Slot, buf: memoryview, offset: int
    ) -> tuple[bool, OSError | None]:
        """Try the short path: whether the read is done, and if not, the error it met."""
        return self._short(slot, ShortPath.pread, buf, offset)

    def short_pwrite(
        self, slot: Slot, buf: memoryview, offset: int
    ) -> tuple[bool, OSError | None]:
        """As `short_pread`."""
        return self._short(slot, ShortPath.pwrite, buf, offset)

    def _short(
        self,
        slot: Slot,
        go: Callable[[ShortPath, Slot, memoryview, int], bool],
        buf: memoryview,
        offset: int,
    ) -> tuple[bool, OSError | None]:
        slot.busy = True
        path = self.blk.short_path
        try:
            return path is not None and go(path, slot, buf, offset), None
        except OSError as exc:
            return False, exc
        finally:
            slot.busy = False
            if path is not self.blk.short_path:
                self._lock.poke()
