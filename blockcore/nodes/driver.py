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


NewChildren = Mapping[str, "BlockDriver | None"]
"""The children that are replaced, by their names."""


class BlockDriver:
    """The callbacks, and what happens where a driver does not have one."""

    driver: ClassVar[str]

    supports_backing: ClassVar[bool] = False
    """Whether it can have a backing file."""

    zeroes_unmap: ClassVar[bool] = False
    """Whether write-zeroes can deallocate, of those that write to no child."""

    passes_fua: ClassVar[bool] = False
    """Whether a write with FUA is passed on with it (of `supported_write_flags`)."""

    def writes_through(self) -> bool:
        """Whether the driver itself sees to it that a write with FUA is stable."""
        return False

    async def do_open(self) -> None:
        """Acquire what the driver needs and set `size`; raises OSError or QmpError."""

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

    async def do_close(self) -> None:
        """Give back what `do_open` acquired."""

    def abort(self) -> None:
        """Make blocked calls of the driver return soon: the process is ending."""

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

    def do_way(self) -> Way | None:
        return None
