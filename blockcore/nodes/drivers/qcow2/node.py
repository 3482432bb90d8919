# SPDX-License-Identifier: MIT
"""The qcow2 driver: a block node made of the other modules' parts."""

from __future__ import annotations

from contextlib import suppress
from weakref import proxy

from blockcore.faults.gate import Gate
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsQcow2
from blockcore.nodes.driver import (
    BackingFile,
    Extent,
    NewChildren,
    NodeHost,
    NodeOptions,
)
from blockcore.nodes.drivers.qcow2.allocation import Allocator
from blockcore.nodes.drivers.qcow2.compressed import inflater
from blockcore.nodes.drivers.qcow2.create import create_image
from blockcore.nodes.drivers.qcow2.entries import READS_AS_ZERO, Kind
from blockcore.nodes.drivers.qcow2.erase import Eraser
from blockcore.nodes.drivers.qcow2.grace import Grace
from blockcore.nodes.drivers.qcow2.header import DIRTY, Header, rewritten_header
from blockcore.nodes.drivers.qcow2.image import Image, read_header
from blockcore.nodes.drivers.qcow2.info import ImageInfoSpecificQCow2Wrapper, image_info
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.opening import (
    find_bitmaps,
    forget_tables,
    load_tables,
    make_writable,
)
from blockcore.nodes.drivers.qcow2.raised import RAISED
from blockcore.nodes.drivers.qcow2.read import Reader
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.nodes.drivers.qcow2.resize import Resizer
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.nodes.drivers.qcow2.shortcut import ClusterTranslation, new_clusters
from blockcore.nodes.drivers.qcow2.stored_bitmaps import StoredBitmap
from blockcore.nodes.drivers.qcow2.write import Writer
from blockcore.nodes.drivers.qcow2.write_back import Discard, WriteBack
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Pair, Perm, backing_child, image_child
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.specific import ImageInfoSpecific
from blockcore.qapi.events import BlockImageCorrupted
from blockcore.qapi.names import BlkdebugEvent, QmpError


class Qcow2Node(BlockNode):
    """An image in `file`, with the backing file `backing` if it has one.

    The graph opens the backing file after the node: the one that the user asked
    for, or otherwise the one that `header` names.
    """

    driver = "qcow2"
    creates_images = True
    creates_in_empty = True
    supports_backing = True
    raises = RAISED
    specific_info = ImageInfoSpecificQCow2Wrapper
    mutable_opts = BlockdevOptionsQcow2.weak_options

    image: Image
    mapping: Mapping
    reader: Reader
    allocator: Allocator
    writer: Writer
    eraser: Eraser
    write_back: WriteBack
    resizer: Resizer
    stored_bitmaps: list[StoredBitmap]

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        file: BlockNode,
        settings: Qcow2Settings | None = None,
    ) -> None:
        super().__init__(options, host)
        self.children["file"] = file
        self.track_requests()
        self.settings = settings or Qcow2Settings()
        self.grace = Grace(host.shortcut_slots)
        self._below = file

    @classmethod
    async def make(cls, definition: BlockdevOptionsQcow2, making: Making) -> Qcow2Node:
        settings = Qcow2Settings.of(definition)
        return cls(making.options, making.host, await making.child(definition.file), settings)

    @classmethod
    async def do_create(cls, file: BlockNode, size: int, backing: BackingFile | None) -> None:
        name, image_format = backing or (None, None)
        await create_image(file, size, backing_file=name, backing_format=image_format)

    @property
    def header(self) -> Header:
        return self.image.header

    @property
    def backing_file(self) -> BackingFile | None:
        name = self.header.backing_file
        return None if name is None else BackingFile(name, self.header.backing_format)

    @property
    def is_dirty(self) -> bool:
        return bool(self.header.incompatible & DIRTY)

    @property
    def zeroes_unmap(self) -> bool:
        return self.header.version >= 3

    @property
    def inserted(self) -> bool:
        return not self.image.unusable

    def set_child(self, name: str, child: BlockNode | None) -> None:
        super().set_child(name, child)
        if name == "file" and child is not None:
            self._below = self.image.file = child

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        if name == "backing":
            return backing_child(perm, shared)
        return image_child(perm, shared, writable=not self.read_only)

    async def do_open(self) -> None:
        """Read the header and tables and prepare writing (qcow2_do_open); raise QmpError."""
        header = await read_header(self._below, read_only=self.read_only)
        self.settings.check(header)
        self._assemble(header)
        await load_tables(self.mapping, self.write_back.refcounts)
        bitmaps = await find_bitmaps(self.image)
        if not self.read_only:
            drop = self.settings.drop_bitmaps
            await make_writable(self.image, self.mapping, self.write_back, bitmaps, drop=drop)
            bitmaps = []
        self.stored_bitmaps = bitmaps
        self.size = header.size
        self.cluster_size = header.cluster_size
        self.auto_backing_file = header.backing_file or ""

    def _assemble(self, header: Header) -> None:
        # With strong references the node and its parts would be a cycle, and their tables would
        # stay in memory after the close until the garbage collector runs.
        me = proxy(self)
        image = self.image = Image(header, self._below, self.read_only)
        image.report = lambda *told: me._report_corruption(*told)
        refcounts = Refcounts(image)
        self.mapping = Mapping(image, refcounts, self.settings.l2_cache_size)
        self.write_back = WriteBack(
            image, refcounts, self.mapping, self.grace, lambda why: me._passes_discard(why)
        )
        self.reader = Reader(image, self.mapping, inflater(header.compression), lambda: me.backing)
        self.allocator = Allocator(image, self.mapping, self.write_back)
        self.writer = Writer(image, self.mapping, self.allocator, self.reader)
        self.eraser = Eraser(
            image, self.mapping, self.allocator, self.writer, lambda *at: me._reads_as_zero(*at)
        )
        self.resizer = Resizer(image, self.mapping, self.write_back, self.eraser)

    async def do_close(self) -> None:
        """Write the changed metadata; errors are ignored, because nothing can report them."""
        with suppress(OSError):
            await self._finish()
        await forget_tables(self.image)

    def lose_power(self) -> None:
        self.image.unusable = True

    async def regain_power(self) -> None:
        """Open the image as it is now; one that cannot be opened has no medium."""
        await forget_tables(self.image)
        try:
            await self.do_open()
        except Exception:
            self.image.unusable = True
            raise
        self.resized(self.size)

    async def _finish(self) -> None:
        if self.read_only or self.image.unusable:
            return
        await self.image.lock.free()
        with self.image.lock.held():
            await self.write_back.finish()
        await self._below.flush()

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        """Write everything, and open the image again if it becomes writable or gets another file.

        While the image was read-only another node may have written it, and another
        file has another image.  If opening fails, all attributes get their old values.
        """
        file = children.get("file")
        settings = self.settings
        if isinstance(definition, BlockdevOptionsQcow2):
            settings = settings.changed(Qcow2Settings.of(definition))
        settings.check(self.header)
        await self._finish()
        if not isinstance(file, BlockNode) and (options.read_only or not self.read_only):
            self.image.read_only = options.read_only
            return
        old, parts = self.options, dict(vars(self))
        self.options, self.settings = options, settings
        if isinstance(file, BlockNode):
            self._below = file
        try:
            await self.do_open()
        except Exception:
            vars(self).update(parts)
            raise
        finally:
            self.options = old

    def reconfigured(self) -> None:
        """Adopt the settings of the new definition, except the sizes of caches."""
        if isinstance(self.definition, BlockdevOptionsQcow2):
            self.settings = self.settings.changed(Qcow2Settings.of(self.definition))
        self.resized(self.size)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self.image.check_usable()
        generation = self.grace.enter()
        try:
            await self.reader.pread(offset, buf)
        finally:
            self.grace.leave(generation)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        self.image.check_usable()
        generation = self.grace.enter()
        try:
            await self.writer.pwrite(offset, buf)
        finally:
            self.grace.leave(generation)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        self.image.check_usable()
        generation = self.grace.enter()
        try:
            has_backing = self.backing is not None
            await self.eraser.zero(offset, length, self.size, has_backing, may_unmap)
        finally:
            self.grace.leave(generation)

    async def do_discard(self, offset: int, length: int) -> None:
        await self.eraser.discard(offset, length, self.size, self.backing is not None)

    async def discard(self, offset: int, length: int, *, fua: bool = False) -> None:
        self.image.check_usable()
        await super().discard(offset, length, fua=fua)

    async def flush(self, *, of_write: bool = False) -> None:
        self.image.check_usable()
        await super().flush(of_write=of_write)

    async def write_through(self) -> None:
        await self.flush(of_write=True)

    async def do_flush_to_os(self) -> None:
        if self.read_only or self.image.unusable:
            return
        await self.image.lock.free()
        with self.image.lock.held():
            await self.write_back.run()

    async def do_truncate(self, size: int) -> None:
        if self.image.unusable:
            raise QmpError("No medium inserted")
        backing_size = self.backing.size if self.backing else 0
        await self.resizer.resize(self.size, size, backing_size)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        self.image.check_usable()
        run = await self.mapping.run(offset, length)
        if run.kind is not Kind.UNALLOCATED:
            zero = run.kind in READS_AS_ZERO
            return Extent(run.length, data=not zero, zero=zero)
        backing = self.backing
        there = min(run.length, backing.size - offset) if backing else 0
        if backing is None or there <= 0:
            return Extent(run.length, data=False, zero=True)
        return await backing.block_status(offset, there)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        self.image.check_usable()
        run = await self.mapping.run(offset, length)
        return run.kind is not Kind.UNALLOCATED, run.length

    async def do_change_backing_file(self, name: str | None, image_format: str | None) -> None:
        """Write name and format to the header (qcow2_change_backing_file).

        An empty name means no backing file.  Raises OSError: EINVAL if the name is
        too long, ENOSPC if the first cluster has no room for it.
        """
        if not name:
            name = image_format = None
        await self.do_flush_to_os()
        header = self.header
        old = header.backing_file, header.backing_format
        header.backing_file, header.backing_format = name, image_format
        try:
            await self.image.write_header(0, rewritten_header(header))
        except Exception:
            header.backing_file, header.backing_format = old
            raise
        self.auto_backing_file = name or ""

    async def do_specific_info(self) -> ImageInfoSpecific:
        return image_info(self.header, self.stored_bitmaps)

    def do_way(self) -> Way | None:
        """Return a way that reads and writes existing clusters without asking this node.

        None if the file has no plain way: then a node below must see each request,
        translates offsets itself, or has bitmaps that writes must reach at once.
        """
        below = self._below.way((BlkdebugEvent.READ_AIO,), (BlkdebugEvent.WRITE_AIO,))
        if (
            below is None
            or below.translation is not None
            or below.traces.bitmaps
            or self.image.unusable
        ):
            return None
        translation = ClusterTranslation(
            self.mapping.cached,
            self.image.metadata,
            self.image.cluster_bits,
            below,
            self._below,
            new_clusters(
                self._host.region, self.requests, self.allocator, self._below, below
            ),
        )
        return Way(below.fd, below.system, Gate(), Gate(), translation=translation)

    async def _reads_as_zero(self, offset: int, length: int) -> bool:
        while length > 0:
            extent = await self.do_block_status(offset, length)
            if not extent.zero:
                return False
            offset, length = offset + extent.length, length - extent.length
        return True

    def _passes_discard(self, why: Discard) -> bool:
        return self.settings.passes_discard(why, self.options.discard_unmap)

    def _report_corruption(
        self, message: str, offset: int | None, size: int | None, fatal: bool
    ) -> None:
        """Send BLOCK_IMAGE_CORRUPTED; if `fatal`, shortcuts must not use the image any more."""
        self._host.emit(
            BlockImageCorrupted(
                device=self._host.device_of(self),
                node_name=self.node_name,
                msg=message,
                offset=offset,
                size=size,
                fatal=fatal,
            )
        )
        if fatal:
            self.concerns_changed()
