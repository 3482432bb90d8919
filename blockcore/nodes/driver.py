# SPDX-License-Identifier: MIT
"""The callbacks of a node driver, as in QEMU's BlockDriver, with their defaults.

A driver subclasses `node.BlockNode` and overrides the methods that it supports.
The ``do_`` methods are coroutines of the core; offsets and lengths are in bytes, an
OSError is the outcome of the I/O.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from blockcore.bql.effects import Lane
from blockcore.faults.options import Request
from blockcore.nodes.definitions.allowed_backing import AllowedBacking
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.specific import BlockStatsSpecificFile, ImageInfoSpecific
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlkdebugEvent, BlockdevDetectZeroesOptions, FaultIOType, QmpError
from blockcore.qapi.record import dataclass
from blockcore.rules.host import (
    Clocked,
    Emits,
    HangsUp,
    HasRelease,
    HearsFaults,
    KnowsAsker,
    Locks,
    NamesDrives,
    Reports,
    Seeded,
    Shortcuts,
    Warns,
)
from blockcore.rules.volume import Volume

MAX_OPENINGS = 64
"""How many nodes may be in the middle of opening at a time.

Each may wait for a server that does not answer, with a thread; further ones are refused.
"""

OPENING = Lane("opening", MAX_OPENINGS)
"""The lane of calls that open files and servers, which may hang."""


class NodeHost(
    Clocked,
    Emits,
    HangsUp,
    HasRelease,
    HearsFaults,
    KnowsAsker,
    Locks,
    NamesDrives,
    Reports,
    Seeded,
    Shortcuts,
    Warns,
    Protocol,
):
    """The part of the machine that nodes use."""

    allow_backing: AllowedBacking

    def shortcut_slots(self) -> Iterable[Slot]:
        """Return the slots of all workers that may be on the shortcut."""


class Extent(NamedTuple):
    """Block status of the first `length` bytes: whether allocated, whether reading as zeroes."""

    length: int
    data: bool
    zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """The options that all drivers share, after inheritance (bdrv_inherited_options)."""

    node_name: str
    read_only: bool = False
    auto_read_only: bool = False
    discard_unmap: bool = True
    detect_zeroes: BlockdevDetectZeroesOptions = BlockdevDetectZeroesOptions.OFF
    direct: bool = False
    no_flush: bool = False


class BackingFile(NamedTuple):
    """The backing file according to an image's header; format None asks for probing."""

    name: str
    format: str | None


NewChildren = Mapping[str, "BlockDriver | None"]
"""The new nodes of replaced children, by the children's names; None removes a child."""


class BlockDriver:
    """The callbacks of a driver, each with what happens if the driver does not have it."""

    driver: ClassVar[str]

    raises: ClassVar[frozenset[BlkdebugEvent]] = frozenset()
    """The events that the driver raises at the child with its data, with its own requests."""

    supports_backing: ClassVar[bool] = False
    """Whether a node can have a backing file."""

    creates_images: ClassVar[bool] = False
    """Whether images can be created in this format or protocol (bdrv_co_create_opts)."""

    creates_in_empty: ClassVar[bool] = False
    """Whether `do_create` needs an empty file, instead of one as long as the image."""

    mutable_opts: ClassVar[frozenset[str]] = frozenset()
    """The driver's own members of the definition that may change while the node is open."""

    has_zero_init: ClassVar[bool] = False
    """Whether a new image reads as zeroes, whatever child it is on."""

    shows_child: ClassVar[bool] = False
    """Whether the node shows its child's data, so that it grows and shrinks with the child."""

    of_job: ClassVar[bool] = False
    """Whether the node is a filter that exists only as long as a job."""

    is_volatile: ClassVar[bool] = False
    """Whether the node is a cache that loses what it has with the power (`VolatileCacheNode`)."""

    connected: ClassVar[bool] = False
    """Whether a server answers the node's requests, perhaps never; `yank` can name the node."""

    specific_info: ClassVar[type[ImageInfoSpecific] | None] = None
    """The variant of QAPI's union that `do_specific_info` returns."""

    volume: Volume | None = None
    """The volume that limits how much can be written, if there is one."""

    identity: tuple[int, int] | None = None
    """Device and inode number of the node's file, if it has one."""

    passes_fua: ClassVar[bool] = False
    """Whether FUA is passed on to the child with a write (supported_write_flags)."""

    @property
    def zeroes_unmap(self) -> bool | None:
        """Whether write-zeroes can deallocate (BDRV_REQ_MAY_UNMAP); None asks the child."""
        return None

    @property
    def backing_file(self) -> BackingFile | None:
        """The backing file that the image's header names, or None."""
        return None

    @property
    def is_dirty(self) -> bool | None:
        """Whether the image was not closed properly (bdrv_get_info); None asks the child."""
        return None

    @property
    def dirname(self) -> str | None:
        """The directory to which names in an image on this node are relative (bdrv_dirname).

        None asks the child.
        """
        return None

    def writes_through(self) -> bool:
        """Tell whether the driver itself makes a write with FUA stable."""
        return False

    async def do_open(self) -> None:
        """Acquire what the driver needs and set `size`; raise OSError or QmpError."""

    @classmethod
    async def do_create(cls, file: Any, size: int, backing: BackingFile | None) -> None:
        """Write a new image of `size` bytes into a file (bdrv_co_create).

        The default writes nothing: a file of that length is an image already.
        """

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        """Prepare for other options, and perhaps another definition and other children.

        The caller sets them afterwards, and then calls `reconfigured`.  On OSError or
        QmpError everything must be as before.  No request is under way.
        """

    def reconfigured(self) -> None:
        """Follow a new `definition` and new children; `do_reopen` has seen the options."""

    def format_guessed(self) -> None:
        """Note that the format of the open image was not given, but found by probing."""

    async def do_close(self) -> None:
        """Release what `do_open` acquired."""

    def abort(self) -> None:
        """Make blocked calls of the driver return soon, because the process is ending."""

    def cancel_in_flight(self) -> None:
        """Fail the requests that wait for a connection (bdrv_cancel_in_flight).

        Like the other methods for a `connected` node, this one waits for nothing.
        """

    def hang_up(self) -> None:
        """Fail all requests that are under way; the next one connects again."""

    def yank(self) -> None:
        """Fail all requests, now and later, and an attempt to open the node."""

    def lose_power(self) -> None:
        """Forget what was not written yet, for a cache below has lost its power."""

    async def regain_power(self) -> None:
        """Begin anew with what the node below has now; raise OSError or QmpError."""

    def do_request(self, request: Request) -> Awaitable[Any]:
        """Return the awaitable of the driver's part of a request; block-status gives an `Extent`.

        This is no coroutine itself: each frame more for a node shortens the chains of
        images that fit on a thread's stack (`process/recursion.py`).
        """
        offset, nbytes = request.offset, request.nbytes
        match request.iotype:
            case FaultIOType.READ:
                return self.do_pread(offset, request.data)
            case FaultIOType.WRITE:
                return self.do_pwrite(offset, request.data)
            case FaultIOType.WRITE_ZEROES:
                return self.do_zero(offset, nbytes, request.may_unmap)
            case FaultIOType.DISCARD:
                return self.do_discard(offset, nbytes)
            case FaultIOType.FLUSH:
                return self.do_flush()
            case FaultIOType.BLOCK_STATUS:
                return self.do_block_status(offset, nbytes)
            case FaultIOType.CONNECT:
                return self.do_connect()

    async def do_connect(self) -> None:
        """Let a guest connect: nothing is to be done at a node."""

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        raise failure(errno.ENOTSUP)

    async def do_discard(self, offset: int, length: int) -> None:
        raise failure(errno.ENOTSUP)

    async def do_flush_to_os(self) -> None:
        """Write what the driver keeps in memory to its children; also with cache.no-flush."""

    async def do_flush(self) -> None:
        """Bring the driver's own storage to disk; the caller flushes the children."""

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=True, zero=False)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the node itself has a range's beginning, and for how many bytes.

        The default is for nodes without a backing file, which have everything.
        """
        return True, length

    async def do_truncate(self, size: int) -> None:
        raise QmpError("Image format driver does not support resize")

    async def do_change_backing_file(self, name: str | None, image_format: str | None) -> None:
        """Write another backing file into the image's header, or none; raise OSError.

        The backing node stays as it is (bdrv_change_backing_file).
        """
        raise failure(errno.ENOTSUP)

    async def do_delete_file(self) -> None:
        """Delete the node's file, if the driver can (bdrv_co_delete_file)."""

    async def do_allocated_file_size(self) -> int | None:
        """Return the bytes occupied on the host, or None (bdrv_get_allocated_file_size).

        OSError(ENOTSUP) makes the caller ask the child.
        """
        raise failure(errno.ENOTSUP)

    async def do_specific_info(self) -> ImageInfoSpecific | None:
        """Return information that only this driver has (bdrv_get_specific_info)."""
        return None

    def specific_stats(self) -> BlockStatsSpecificFile | None:
        """Return statistics that only this driver keeps (bdrv_get_specific_stats)."""
        return None

    def extend_volume(self, size: int) -> bool:
        """Let the `volume` grow to `size` bytes and send an event; return whether it grew."""
        raise NotImplementedError

    def do_way(self) -> Way | None:
        """Return how plain I/O can bypass this node; None if every request must come here."""
        return None
