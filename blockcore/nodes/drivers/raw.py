# SPDX-License-Identifier: MIT
"""The raw format: the child's bytes, or a window of them."""

from __future__ import annotations

import errno

from blockcore.faults.gate import Gate
from blockcore.faults.options import SECTOR_SIZE
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsRaw
from blockcore.nodes.driver import Extent, NewChildren, NodeHost, NodeOptions
from blockcore.nodes.drivers.probe import PROBE_BYTES, format_of
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Pair, Perm, data_child, filtered_child
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlkdebugEvent, QmpError

MAX_OFFSET = (1 << 63) - 1
"""The highest offset in a file on any system (off_t), in bytes."""


PROBED_RAW = (
    "Image format was not specified for '{}' and probing guessed raw. "
    "Write operations on block 0 will be restricted. "
    "Specify the 'raw' format explicitly to remove the restrictions."
)


class RawNode(BlockNode):
    """A node that passes requests to its child at offsets that are `offset` bytes higher.

    `offset` and `size` are QAPI's BlockdevOptionsRaw, in bytes; without a `size`
    the window ends with the child.  Requests beyond a given `size` fail, also those
    with which a format above tries to grow.

    `probed` says that the format was guessed.  A guest must not write the header of
    another format then: the next one to open the file would take it for an image,
    which could name any file as its backing file.
    """

    driver = "raw"
    creates_images = True
    passes_fua = True
    shows_child = True
    mutable_opts = frozenset(("offset", "size"))
    raises = frozenset((BlkdebugEvent.READ_AIO, BlkdebugEvent.WRITE_AIO))

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        file: BlockNode,
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        super().__init__(options, host)
        self.children["file"] = file
        self.below = file
        self.offset = offset
        self.window = size
        self.probed = False

    @classmethod
    async def make(cls, definition: BlockdevOptionsRaw, making: Making) -> RawNode:
        file = await making.child(definition.file)
        offset = definition.offset or 0
        return cls(making.options, making.host, file, offset, definition.size)

    def set_child(self, name: str, child: BlockNode | None) -> None:
        super().set_child(name, child)
        if child is not None:
            self.below = child

    def format_guessed(self) -> None:
        """Restrict writes to the first bytes from now on, and warn of that restriction."""
        self.probed = True
        if not self.read_only:
            self._host.warn(PROBED_RAW.format(self.below.filename))

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return a filter's permissions, or those of a data child for a window.

        (raw_open, raw_child_perm.)  WRITE and RESIZE are needed only if users need
        them: more would conflict with the users of other windows.
        """
        if not self.offset and self.window is None:
            return filtered_child(perm, shared)
        writes = Perm.WRITE | Perm.RESIZE
        of_child, shared = data_child(perm, shared)
        return of_child & ~writes | perm & writes, shared

    async def do_open(self) -> None:
        if not self.below.inserted:
            raise QmpError("Could not get image size: No medium found")
        _check_window(self.offset, self.window, self.below.size)
        self.size = self.below.size - self.offset if self.window is None else self.window
        self.cluster_size = self.below.cluster_size

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        if isinstance(definition, BlockdevOptionsRaw):
            file = children.get("file")
            there = file.size if isinstance(file, BlockNode) else self.below.size
            _check_window(definition.offset or 0, definition.size, there)

    def reconfigured(self) -> None:
        if isinstance(self.definition, BlockdevOptionsRaw):
            self.offset, self.window = self.definition.offset or 0, self.definition.size
            self.cluster_size = self.below.cluster_size
            self.child_resized()

    def child_resized(self) -> None:
        there = max(self.below.size - self.offset, 0)
        size = there if self.window is None else self.window
        if size != self.size:
            self.resized(size)

    def _place(self, offset: int, length: int, beyond: int = errno.ENOSPC) -> int:
        """Return the offset of a range in the child (raw_adjust_offset).

        Raises OSError with errno `beyond` if the range exceeds the window.
        """
        if self.window is not None and offset + length > self.window:
            raise failure(beyond)
        return self.offset + offset

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        place = self._place(offset, len(buf), errno.EINVAL)
        self.child_event(BlkdebugEvent.READ_AIO)
        await self.below.pread(place, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        if self.probed and offset < PROBE_BYTES:
            await self._check_format(offset, buf)
        place = self._place(offset, len(buf))
        self.child_event(BlkdebugEvent.WRITE_AIO)
        await self.below.pwrite(place, buf)

    async def _check_format(self, offset: int, buf: memoryview) -> None:
        """Raise OSError(EPERM) if the first bytes would be a known format after the write."""
        data = bytearray(min(PROBE_BYTES, max(self.size, offset + len(buf))))
        if offset or len(buf) < len(data):
            await self.below.pread(self.offset, memoryview(data))
        part = buf[: len(data) - offset]
        data[offset : offset + len(part)] = part
        if format_of(data) != "raw":
            raise failure(errno.EPERM)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        place = self._place(offset, length)
        await self.below.zero_as_child(place, length, may_unmap=may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        await self.below.discard(self._place(offset, length), length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        place = self._place(offset, length, errno.EINVAL)
        return await self.below.block_status(place, length)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        place = self._place(offset, length, errno.EINVAL)
        return await self.below.is_allocated(place, length)

    async def do_truncate(self, size: int) -> None:
        if self.window is not None:
            raise QmpError("Cannot resize fixed-size raw disks")
        if size > MAX_OFFSET - self.offset:
            raise QmpError("Disk size too large for the chosen offset")
        await self.below.truncate(self.offset + size)

    def do_way(self) -> Way | None:
        way = self.below.way((BlkdebugEvent.READ_AIO,), (BlkdebugEvent.WRITE_AIO,))
        if way is not None and self.probed:
            way.write_gate = way.write_gate.union(Gate([(0, PROBE_BYTES)]), self.offset)
        if way is not None and self.window is not None:
            hidden = Gate([(self.offset + self.window, MAX_OFFSET)])
            way.read_gate = way.read_gate.union(hidden)
            way.write_gate = way.write_gate.union(hidden)
        if way is None or not self.offset:
            return way
        return way.shifted(self.offset)


def _check_window(offset: int, window: int | None, there: int) -> None:
    """Raise QmpError, in QEMU's words, unless a child of `there` bytes contains the window.

    (raw_apply_options.)
    """
    if offset > there:
        raise QmpError(
            f"Offset ({offset}) cannot be greater than size of the containing file ({there})"
        )
    if window is not None and there - offset < window:
        raise QmpError(
            f"The sum of offset ({offset}) and size ({window}) has to be smaller or equal"
            f" to the  actual size of the containing file ({there})"
        )
    if window is not None and window % SECTOR_SIZE:
        raise QmpError(f"Specified size is not multiple of {SECTOR_SIZE}")
