# SPDX-License-Identifier: MIT
"""QAPI's BlockdevOptions for the drivers there are, as dataclasses.

Members stand in QAPI's order.  What QAPI has and no driver here can do is not
a member, and so "unexpected":

- file: pr-manager, aio-max-batch, drop-cache, x-check-cache-dropped;
- nbd: tls-creds, tls-hostname, x-dirty-bitmap; of an address all but type,
  host and port (inet) or path (unix), and the types vsock and fd;
- blkdebug: align, take-child-perms, unshare-child-perms;
- qcow2: overlap-check, encrypt, data-file.

A child is a definition in place, or the name of a node that exists.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from blockcore.qapi.errnos import ERRNO
from blockcore.qapi.keyval import well_formed_id
from blockcore.qapi.names import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    QmpError,
    Size,
    UInt32,
    UInt64,
)
from blockcore.qapi.schema import Alternate, FlatUnion, Null, parse

NODE_NAME_MAX = 31


class OnOffAuto(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class BlockdevAioOptions(StrEnum):
    """How `file` does its I/O; all are accepted, since clients name them, and mean the same."""

    THREADS = "threads"
    NATIVE = "native"
    IO_URING = "io_uring"


class SocketAddressType(StrEnum):
    INET = "inet"
    UNIX = "unix"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevCacheOptions:
    """`direct`: no host page cache; `no_flush`: flushes stay in memory."""

    direct: bool | None = None
    no_flush: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptions:
    """What every node has; None is "not given", which a child inherits from its parent."""

    driver: str
    node_name: str | None = None
    discard: BlockdevDiscardOptions | None = None
    cache: BlockdevCacheOptions | None = None
    read_only: bool | None = None
    auto_read_only: bool | None = None
    force_share: bool | None = None
    detect_zeroes: BlockdevDetectZeroesOptions | None = None

    def children(self) -> dict[str, BlockdevRef]:
        """Return the children that the definition asks for, by the names of their members."""
        cls: Any = type(self)
        refs = {name: getattr(self, name) for name in _child_members(cls)}
        return {name: ref for name, ref in refs.items() if isinstance(ref, str | BlockdevOptions)}

    def asked_backing(self) -> BlockdevRefOrNull | None:
        """Return what is said of a backing file; None if nothing is."""
        return None

    def node_names(self) -> Iterator[str]:
        """Yield the names that users give to the nodes which are defined here, at any depth."""
        if self.node_name is not None:
            yield self.node_name
        for ref in self.children().values():
            if isinstance(ref, BlockdevOptions):
                yield from ref.node_names()


@cache
def _child_members(cls: Any) -> tuple[str, ...]:
    """Return which members of a definition are children, by their annotations."""
    hints = get_type_hints(cls)
    return tuple(name for name, hint in hints.items() if BlockdevOptions in get_args(hint))


BlockdevRef = str | BlockdevOptions
"""A child: the name of a node, or its definition."""

BlockdevRefOrNull = BlockdevRef | Null


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsFile(BlockdevOptions):
    """Those with `x` make the file a volume (`rules/volume.py`) that can run full; in bytes."""

    filename: str
    locking: OnOffAuto | None = None
    aio: BlockdevAioOptions | None = None
    x_physical_size: Size | None = None
    x_extent_size: Size | None = None
    x_short_write: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsGenericFormat(BlockdevOptions):
    file: Annotated[BlockdevRef, BLOCKDEV_REF]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsGenericCOWFormat(BlockdevOptionsGenericFormat):
    """`backing` None is what the image says, a null is none."""

    backing: Annotated[BlockdevRefOrNull, BLOCKDEV_REF_OR_NULL] | None = None

    def asked_backing(self) -> BlockdevRefOrNull | None:
        """Return `backing`; the name of a node that is empty is an older way to ask for none."""
        return Null.NULL if self.backing == "" else self.backing


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsRaw(BlockdevOptionsGenericFormat):
    """`offset` and `size` in bytes: the part of the child that is shown."""

    offset: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsQcow2(BlockdevOptionsGenericCOWFormat):
    """Sizes in bytes.

    Of the caches only `l2_cache_size` has an effect; lazy refcounts and the
    cleaning of caches are accepted, since clients name them.  Stored bitmaps
    are removed with `x_drop_bitmaps`, without which an image that has some is
    not opened for writing.
    """

    lazy_refcounts: bool | None = None
    pass_discard_request: bool | None = None
    pass_discard_snapshot: bool | None = None
    pass_discard_other: bool | None = None
    cache_size: int | None = None
    l2_cache_size: int | None = None
    l2_cache_entry_size: int | None = None
    refcount_cache_size: int | None = None
    cache_clean_interval: UInt64 | None = None
    x_drop_bitmaps: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsProbed(BlockdevOptions):
    """A file whose format is not given, which only ``-drive`` and file names can do.

    `format_options` are those that are the format's own, not typed yet.
    """

    file: BlockdevRef
    format_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsBacking(BlockdevOptions):
    """What ``-drive`` says of a backing file, not typed yet: the image's header says the rest."""

    flat: tuple[tuple[str, str], ...]

    def node_names(self) -> Iterator[str]:
        for key, value in self.flat:
            if key.rpartition(".")[2] == "node-name":
                yield value


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNull(BlockdevOptions):
    """`size` in bytes (1 GiB if not given)."""

    size: int | None = None
    latency_ns: UInt64 | None = None
    read_zeroes: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    type: SocketAddressType


@dataclass(frozen=True, slots=True, kw_only=True)
class InetSocketAddress(SocketAddress):
    host: str
    port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocketAddress(SocketAddress):
    path: str


SOCKET_ADDRESS = FlatUnion(
    "SocketAddress",
    tag="type",
    base=SocketAddress,
    variants={"inet": InetSocketAddress, "unix": UnixSocketAddress},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNbd(BlockdevOptions):
    """`reconnect_delay` and `open_timeout` in seconds."""

    server: Annotated[SocketAddress, SOCKET_ADDRESS]
    export: str | None = None
    reconnect_delay: UInt32 | None = None
    open_timeout: UInt32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectError:
    """One fault; `state` 0 is any state, `sector` -1 any place, in units of 512 bytes."""

    event: BlkdebugEvent
    state: int = 0
    iotype: BlkdebugIOType | None = None
    errno: Annotated[int, ERRNO] = errno.EIO
    sector: int = -1
    once: bool = False
    immediately: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """On `event` in `state` (0: any), go to `new_state`, which QAPI spells so."""

    wire_names: ClassVar[dict[str, str]] = {"new_state": "new_state"}
    event: BlkdebugEvent
    state: int = 0
    new_state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsBlkdebug(BlockdevOptions):
    """`config` is the path of a rule file; limits in bytes."""

    image: Annotated[BlockdevRef, BLOCKDEV_REF]
    config: str | None = None
    max_transfer: int | None = None
    opt_write_zero: int | None = None
    max_write_zero: int | None = None
    opt_discard: int | None = None
    max_discard: int | None = None
    inject_error: list[InjectError] | None = None
    set_state: list[SetState] | None = None


BLOCKDEV_OPTIONS = FlatUnion(
    "BlockdevOptions",
    tag="driver",
    base=BlockdevOptions,
    variants={
        "blkdebug": BlockdevOptionsBlkdebug,
        "file": BlockdevOptionsFile,
        "nbd": BlockdevOptionsNbd,
        "null-co": BlockdevOptionsNull,
        "qcow2": BlockdevOptionsQcow2,
        "raw": BlockdevOptionsRaw,
    },
)

BLOCKDEV_REF = Alternate("BlockdevRef", BLOCKDEV_OPTIONS, str)

BLOCKDEV_REF_OR_NULL = Alternate("BlockdevRefOrNull", BLOCKDEV_OPTIONS, str, Null)


def check_node_name(name: str) -> None:
    """QmpError if a node could not be called `name`."""
    if not well_formed_id(name):
        raise QmpError(f"Invalid node-name: '{name}'")
    if len(name) > NODE_NAME_MAX:
        raise QmpError("Node name too long")


def parse_blockdev_options(
    value: Any, *, keyval: bool = False, absent: frozenset[str] = frozenset()
) -> BlockdevOptions:
    """Check a whole definition (an object as `blockdev-add` takes it).

    With `keyval` its scalars are strings, as `-blockdev` gives them.  Members
    in `absent` are not known (`qemu.Release.absent`).  QmpError in QEMU's words;
    whether nodes named in it exist is for the graph to say.
    """
    annotation = Annotated[BlockdevOptions, BLOCKDEV_OPTIONS]
    options = parse(annotation, value, keyval=keyval, absent=absent)
    assert isinstance(options, BlockdevOptions)
    return options
