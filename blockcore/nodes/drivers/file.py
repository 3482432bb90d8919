# SPDX-License-Identifier: MIT
"""The file protocol: a regular file or a block device on this host."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from blockcore.bql.effects import LaneCall
from blockcore.faults.gate import Gate
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsFile
from blockcore.nodes.driver import OPENING, Extent, NewChildren, NodeHost, NodeOptions
from blockcore.nodes.drivers.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from blockcore.nodes.drivers.file_info import ImageInfoSpecificFileWrapper, file_info
from blockcore.nodes.drivers.file_io import (
    aligned,
    read_all,
    read_direct,
    seek_extent,
    write_all,
    write_direct,
)
from blockcore.nodes.file_calls import FileCalls, file_system_of
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.specific import BlockStatsSpecificFile, ImageInfoSpecific
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.events import XVolumeExtended
from blockcore.qapi.names import QmpError, Size
from blockcore.rules.volume import Volume, make_volume

FS_IOC_FSGETXATTR = 0x801C581F
"""The ioctl of <linux/fs.h> that fills a struct fsxattr: its second word is the hint in bytes."""

_NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of opening for writing after which auto-read-only opens for reading."""


class FileNode(BlockNode):
    """A file or block device: `filename` as the user typed it, at the absolute `path`.

    With cache.direct, aligned requests bypass the page cache through a second
    descriptor that is opened with O_DIRECT.  With a `volume`, writes beyond its
    end fail.
    """

    driver = "file"
    creates_images = True
    has_zero_init = True
    is_dirty = False
    zeroes_unmap = True
    specific_info = ImageInfoSpecificFileWrapper

    _call: FileCalls

    @property
    def dirname(self) -> str:
        return os.path.dirname(self.filename)

    def writes_through(self) -> bool:
        return self._host.qemu.files_write_through

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        filename: str,
        path: str,
        volume: Volume | None = None,
    ) -> None:
        super().__init__(options, host)
        self.volume = volume
        self.filename = filename
        self.path = path
        self.fd = -1
        self.discards_ok = self.discards_failed = self.discard_bytes_ok = 0
        self.identity: tuple[int, int] | None = None
        """Device and inode number, kept because asking again could wait for the file system."""
        self._direct_fd = -1
        self._data = range(0)
        """A range in which the last block status found data."""
        self._holes_made = 0
        """How often holes may have been made, so that an older block status is not kept."""

    @classmethod
    async def make(cls, definition: BlockdevOptionsFile, making: Making) -> FileNode:
        volume = make_volume(
            definition.x_physical_size, definition.x_extent_size, definition.x_short_write
        )
        name = definition.filename
        return cls(making.options, making.host, name, making.path(name), volume)

    async def do_open(self) -> None:
        """Open the file (raw_open_common); raise QmpError in QEMU's words."""
        try:
            status = await LaneCall(OPENING, self._open)
        except OSError as exc:
            reason = reason_of(exc)
            raise QmpError(f"Could not open '{self.filename}': {reason}") from None
        self._opened(status)

    def _opened(self, status: os.stat_result) -> None:
        self.identity = status.st_dev, status.st_ino
        self._call = FileCalls(self.node_name, file_system_of(status))

    async def do_close(self) -> None:
        fds, self.fd, self._direct_fd = (self.fd, self._direct_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                await self._call(os.close, fd)

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        if (options.read_only, options.direct) != (self.read_only, self.options.direct):
            self._opened(await LaneCall(OPENING, self._reopen, options))

    def _reopen(self, options: NodeOptions) -> os.stat_result:
        """Open the file again under the same descriptor number; runs in a lane.

        Shortcuts keep the number, and `dup2` replaces the file behind it in one step.
        """
        mode = (os.O_RDONLY if options.read_only else os.O_RDWR) | os.O_CLOEXEC
        try:
            fd = os.open(self.path, mode)
            direct_fd = os.open(self.path, mode | os.O_DIRECT) if options.direct else -1
        except OSError as exc:
            reason = reason_of(exc)
            raise QmpError(f"Could not reopen file: {reason}") from None
        if not options.read_only:
            self.why_read_only = None
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)
        if self._direct_fd >= 0:
            os.close(self._direct_fd)
        self._direct_fd = direct_fd
        return os.fstat(self.fd)

    async def _ask(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await self._call.ask(self._host.clock.monotonic_ns(), fn, self.fd, *args)

    def _open(self) -> os.stat_result:
        # Looked at before opening, because opening a FIFO waits and opening a device may act.
        status = os.stat(self.path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise QmpError(f"'file' driver requires '{self.filename}' to be a regular file")
        mode = os.O_RDONLY if self.read_only else os.O_RDWR
        try:
            self.fd = os.open(self.path, mode | os.O_CLOEXEC)
        except OSError as exc:
            if not self.options.auto_read_only or exc.errno not in _NO_WRITING:
                raise
            self.options = replace(self.options, read_only=True)
            self.why_read_only = f"Could not open '{self.filename}': {exc.strerror}"
            mode = os.O_RDONLY
            self.fd = os.open(self.path, mode | os.O_CLOEXEC)
        if self.options.direct:
            self._direct_fd = self._open_direct(mode)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        return os.fstat(self.fd)

    def _open_direct(self, mode: int) -> int:
        try:
            return os.open(self.path, mode | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as exc:
            os.close(self.fd)
            self.fd = -1
            if exc.errno != errno.EINVAL:
                raise
            raise QmpError(
                f"Could not open '{self.filename}': filesystem does not support O_DIRECT"
            ) from None

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        if self._direct_fd >= 0 and aligned(offset, len(buf)):
            await self._call(read_direct, self._direct_fd, buf, offset)
        else:
            await self._call(read_all, self.fd, buf, offset)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        if self.volume is None and self._direct_fd < 0:
            await self._call(write_all, self.fd, buf, offset)
            return
        room = len(buf) if self.volume is None else self.volume.room(offset, len(buf))
        if room:
            await self._write(offset, buf[:room])
        self._refuse_rest(room, len(buf))

    async def _write(self, offset: int, buf: memoryview) -> None:
        if self._direct_fd >= 0 and aligned(offset, len(buf)):
            await self._call(write_direct, self._direct_fd, buf, offset)
        else:
            await self._call(write_all, self.fd, buf, offset)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        mode = PUNCH_HOLE | KEEP_SIZE if may_unmap else ZERO_RANGE
        room = length if self.volume is None else self.volume.room(offset, length)
        if room:
            try:
                await self._call(fallocate, self.fd, mode, offset, room)
            finally:
                self._forget_data()
        self._refuse_rest(room, length)

    def _refuse_rest(self, room: int, length: int) -> None:
        if self.volume is not None and room < length:
            raise self.volume.refusal()

    def extend_volume(self, size: int) -> bool:
        volume = self.volume
        assert volume is not None
        old = volume.physical_size
        if not volume.extend(size):
            return False
        self.concerns_changed()
        self._host.emit(
            XVolumeExtended(
                node_name=self.node_name,
                old_size=Size(old),
                new_size=Size(volume.physical_size),
            )
        )
        return True

    async def do_discard(self, offset: int, length: int) -> None:
        try:
            await self._call(fallocate, self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        except OSError:
            self.discards_failed += 1
            raise
        finally:
            self._forget_data()
        self.discards_ok += 1
        self.discard_bytes_ok += length

    async def do_flush(self) -> None:
        await self._call(os.fdatasync, self.fd)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """Return data or hole; data is remembered until holes may be made (bdrv_bsc_is_data).

        On some file systems a search for the end of data examines all of the data,
        so that asking piece by piece would take quadratic time.
        """
        if offset in self._data:
            return Extent(self._data.stop - offset, data=True, zero=False)
        # Other requests run while the call looks: what it found is not kept if one of them may
        # have made a hole.
        made = self._holes_made
        extent: Extent = await self._call(seek_extent, self.fd, offset, length)
        if extent.data and made == self._holes_made:
            self._data = range(offset, offset + extent.length)
        return extent

    def _forget_data(self) -> None:
        self._data = range(0)
        self._holes_made += 1

    async def do_truncate(self, size: int) -> None:
        try:
            await self._call(os.ftruncate, self.fd, size)
        finally:
            self._forget_data()

    def do_way(self) -> Way | None:
        if self._direct_fd >= 0:
            return None
        write_gate = Gate() if self.volume is None else self.volume.gate()
        return Way(self.fd, self._call.system, Gate(), write_gate)

    async def do_delete_file(self) -> None:
        with suppress(OSError):
            await LaneCall(OPENING, os.unlink, self.path)

    async def do_allocated_file_size(self) -> int | None:
        """Return the bytes that the file occupies.

        None if the file is closed meanwhile, or if its file system seems to hang.
        """
        try:
            status: os.stat_result | None = await self._ask(os.fstat)
        except OSError:
            return None
        return None if status is None else status.st_blocks * 512

    async def do_specific_info(self) -> ImageInfoSpecific:
        return file_info(await self.extent_size_hint())

    def specific_stats(self) -> BlockStatsSpecificFile:
        return BlockStatsSpecificFile(
            driver="file",
            discard_nb_ok=self.discards_ok,
            discard_nb_failed=self.discards_failed,
            discard_bytes_ok=self.discard_bytes_ok,
        )

    async def extent_size_hint(self) -> int | None:
        """Return the extent size hint of the file in bytes (raw_get_specific_info).

        None if the file or its file system has no hint, or if the file system seems
        to hang.
        """
        try:
            attributes: bytes | None = await self._ask(fcntl.ioctl, FS_IOC_FSGETXATTR, bytes(28))
        except (OSError, ValueError):  # ValueError: the file was closed meanwhile (fd -1)
            return None
        if attributes is None:
            return None
        _, hint = struct.unpack_from("=II", attributes)
        return hint or None
