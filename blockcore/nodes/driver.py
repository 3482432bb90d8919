# SPDX-License-Identifier: MIT
"""What a node driver is asked to do: the callbacks of QEMU's BlockDriver.

A driver subclasses `node.BlockNode` and has those of these methods that it can
do.  They are coroutines of the core; offsets and lengths are bytes, an OSError
is the outcome of the I/O.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from blockcore.bql.effects import Lane
from blockcore.faults.options import Request
from blockcore.nodes.definitions.allowed_backing import AllowedBacking
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.specific import BlockStatsSpecificFile, ImageInfoSpecific
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlkdebugIOType, BlockdevDetectZeroesOptions, QmpError
from blockcore.rules.host import (
    Clocked,
    Draws,
    Emits,
    HasRelease,
    Locks,
    NamesDrives,
    Reports,
    Shortcuts,
    Warns,
)
from blockcore.rules.volume import Volume

MAX_OPENINGS = 64
"""How many nodes may be about to be opened; each of them may wait for a server."""

OPENING = Lane("opening", MAX_OPENINGS)
"""Of the calls that open something: a server that does not answer, or a dead file system."""


class NodeHost(
    Clocked, Draws, Emits, HasRelease, Locks, NamesDrives, Reports, Shortcuts, Warns, Protocol
):
    """What a node needs of its machine."""

    allow_backing: AllowedBacking

    def shortcut_slots(self) -> Iterable[Slot]:
        """The slots of the workers that may be on the shortcut."""


class Extent(NamedTuple):
    """What block status says of the first `length` bytes: allocated data, reads as zeroes."""

    length: int
    data: bool
    zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """The options all drivers share, after inheritance (bdrv_inherited_options)."""

    node_name: str
    read_only: bool = False
    auto_read_only: bool = False
    discard_unmap: bool = True
    detect_zeroes: BlockdevDetectZeroesOptions = BlockdevDetectZeroesOptions.OFF
    direct: bool = False
    no_flush: bool = False


class BackingFile(NamedTuple):
    """What an image says of its backing file; without a format that is probed."""

    name: str
    format: str | None


NewChildren = Mapping[str, "BlockDriver | None"]
"""The children that are replaced, by their names."""


class BlockDriver:
    """The callbacks, and what happens where a driver does not have one."""

    driver: ClassVar[str]

    supports_backing: ClassVar[bool] = False
    """Whether it can have a backing file."""

    creates_images: ClassVar[bool] = False
    """Whether new images can be made of it, or in what it is opened on (bdrv_co_create_opts)."""

    creates_in_empty: ClassVar[bool] = False
    """Whether `do_create` gets an empty file, not one that is as long as the image."""

    mutable_opts: ClassVar[frozenset[str]] = frozenset()
    """Members of the definition, of the driver's own, that may change while the node is open."""

    has_zero_init: ClassVar[bool] = False
    """Whether a new image reads as zeroes, of those with no child that it depends on."""

    shows_child: ClassVar[bool] = False
    """Whether the data is its child's: it is as long, and grows with it."""

    of_job: ClassVar[bool] = False
    """Whether it is a filter that is there only as long as a job is."""

    connected: ClassVar[bool] = False
    """Whether somebody else answers its requests, or never does; `yank` may name it."""

    specific_info: ClassVar[type[ImageInfoSpecific] | None] = None
    """The variant of QAPI's union that `do_specific_info` gives."""

    volume: Volume | None = None
    """The volume that limits what can be written."""

    identity: tuple[int, int] | None = None
    """Of a file its device and number."""

    passes_fua: ClassVar[bool] = False
    """Whether a write with FUA is passed on with it (of `supported_write_flags`)."""

    @property
    def zeroes_unmap(self) -> bool | None:
        """Whether write-zeroes can deallocate (BDRV_REQ_MAY_UNMAP); None: as the child's can."""
        return None

    @property
    def backing_file(self) -> BackingFile | None:
        """What the image itself says of its backing file; None if it says that there is none."""
        return None

    @property
    def is_dirty(self) -> bool | None:
        """Whether the image was not closed properly (bdrv_get_info); None: as the child."""
        return None

    @property
    def dirname(self) -> str | None:
        """What relative names in an image on it are relative to (bdrv_dirname).

        None: what those in its child are.
        """
        return None

    def writes_through(self) -> bool:
        """Whether the driver itself sees to it that a write with FUA is stable."""
        return False

    async def do_open(self) -> None:
        """Acquire what the driver needs and set `size`; raises OSError or QmpError."""

    @classmethod
    async def do_create(cls, file: Any, size: int, backing: BackingFile | None) -> None:
        """Write a new image of `size` bytes into a file (bdrv_co_create); as it is, it is one."""

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        """Get ready to go on with other options, and perhaps another definition and children.

        They become the node's after it, and then `reconfigured` is called.

        OSError or QmpError if that cannot be; then everything is as before.
        No request is under way.
        """

    def reconfigured(self) -> None:
        """`definition` and children are others now; `options` are dealt with elsewhere."""

    def format_guessed(self) -> None:
        """Nobody has said what the format of the open image is: it was probed."""

    async def do_close(self) -> None:
        """Give back what `do_open` acquired."""

    def abort(self) -> None:
        """Make blocked calls of the driver return soon: the process is ending."""

    def cancel_in_flight(self) -> None:
        """Let requests fail that wait for a connection (bdrv_cancel_in_flight).

        Neither this nor what the other methods for a `connected` node do waits for anything.
        """

    def hang_up(self) -> None:
        """Let all requests fail that are under way; the next one connects again."""

    def yank(self) -> None:
        """Let all requests fail, now and later, also an attempt to open the node."""

    def do_request(self, request: Request) -> Awaitable[Any]:
        """Begin the driver's part of a request; block-status gives an `Extent`.

        No coroutine itself: one frame more for each node, and chains of images that fit on a
        stack would be shorter (`process/recursion.py`).
        """
        _, offset, nbytes, _, _ = request
        match request.iotype:
            case BlkdebugIOType.READ:
                return self.do_pread(offset, request.data)
            case BlkdebugIOType.WRITE:
                return self.do_pwrite(offset, request.data)
            case BlkdebugIOType.WRITE_ZEROES:
                return self.do_zero(offset, nbytes, request.may_unmap)
            case BlkdebugIOType.DISCARD:
                return self.do_discard(offset, nbytes)
            case BlkdebugIOType.FLUSH:
                return self.do_flush()
            case BlkdebugIOType.BLOCK_STATUS:
                return self.do_block_status(offset, nbytes)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        raise failure(errno.ENOTSUP)

    async def do_discard(self, offset: int, length: int) -> None:
        raise failure(errno.ENOTSUP)

    async def do_flush_to_os(self) -> None:
        """Give what the driver keeps in memory to its children; also with cache.no-flush."""

    async def do_flush(self) -> None:
        """Nothing but the children to flush, unless a driver knows better."""

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=True, zero=False)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Where nothing can be below, all is; a filter says what its child says."""
        return True, length

    async def do_truncate(self, size: int) -> None:
        raise QmpError("Image format driver does not support resize")

    async def do_change_backing_file(self, name: str | None, image_format: str | None) -> None:
        """Write another `backing_file` into the image, or none; raises OSError.

        The backing node stays as it is (bdrv_change_backing_file).
        """
        raise failure(errno.ENOTSUP)

    async def do_delete_file(self) -> None:
        """Delete what the node is stored in, if it can be deleted (bdrv_co_delete_file)."""

    async def do_allocated_file_size(self) -> int | None:
        """Bytes on the host (bdrv_get_allocated_file_size); None if that is not known.

        OSError(ENOTSUP): as many as the child has.
        """
        raise failure(errno.ENOTSUP)

    async def do_specific_info(self) -> ImageInfoSpecific | None:
        """What only this driver knows of its image (bdrv_get_specific_info)."""
        return None

    def specific_stats(self) -> BlockStatsSpecificFile | None:
        """What only this driver counts (bdrv_get_specific_stats)."""
        return None

    def extend_volume(self, size: int) -> bool:
        """Let the `volume` grow to `size` bytes, and say so; whether it has grown."""
        raise NotImplementedError

    def do_way(self) -> Way | None:
        return None
