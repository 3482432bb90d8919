# SPDX-License-Identifier: MIT
"""QAPI's BlockdevOptions as dataclasses, one for each supported driver.

Members are in QAPI's order.  These members of QAPI have no implementation here,
and are refused as "unexpected":

- file: pr-manager, aio-max-batch, drop-cache, x-check-cache-dropped;
- nbd: tls-creds, tls-hostname, x-dirty-bitmap; of an address all but type,
  host and port (inet) or path (unix), and the types vsock and fd;
- blkdebug: align, take-child-perms, unshare-child-perms;
- qcow2: overlap-check, encrypt, data-file.

A child is a definition in place, or the name of an existing node.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, ClassVar, Final, get_args, get_type_hints

from blockcore.nodes.definitions.filename import Flat
from blockcore.nodes.definitions.structs import (
    SOCKET_ADDRESS,
    BlockdevAioOptions,
    BlockdevCacheOptions,
    InetSocketAddress,
    InjectError,
    OnOffAuto,
    SetState,
    SocketAddress,
    UnixSocketAddress,
)
from blockcore.qapi.keyval import flatten, well_formed_id
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    QmpError,
    Size,
    UInt32,
    UInt64,
)
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import Alternate, FlatUnion, Null, parse, to_wire

NODE_NAME_MAX = 31
"""Longest node name, in characters (BlockDriverState.node_name has 32 bytes)."""

FILENAME_MAX: Final = 4095
"""Longest file name that is shown: BlockDriverState.filename has PATH_MAX (4096) bytes.

The ``json:`` name of a long chain of images exceeds it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptions:
    """The members that every definition has; None means not given, or inherited by a child."""

    is_format: ClassVar[bool] = False
    """Whether the node interprets an image format, and is no protocol and no filter."""

    weak_options: ClassVar[frozenset[str]] = frozenset()
    """The driver's own members that do not decide about data.

    QEMU lists the complement (BlockDriver.strong_runtime_opts).
    """

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
        refs = {name: getattr(self, name) for name in self.child_members()}
        return {name: ref for name, ref in refs.items() if isinstance(ref, str | BlockdevOptions)}

    @classmethod
    def child_members(cls) -> tuple[str, ...]:
        """Return the names of the members that are children."""
        known: Any = cls
        return _child_members(known)

    def asked_backing(self) -> BlockdevRefOrNull | None:
        """Return the `backing` member of a format that has one; None leaves it to the image."""
        return None

    def node_names(self) -> Iterator[str]:
        """Yield the node names in the definition and in the definitions of its children."""
        if self.node_name is not None:
            yield self.node_name
        for ref in self.children().values():
            if isinstance(ref, BlockdevOptions):
                yield from ref.node_names()

    def strong_options(self) -> Flat:
        """Return the driver's own members that decide about data (append_strong_runtime_options).

        Children and structs are left out, lists become dotted keys.
        """
        left_out = {*_COMMON, *self.child_members(), *self.weak_options}
        return flatten(
            {
                key: value
                for key, value in to_wire(self).items()
                if key.replace("-", "_") not in left_out and not isinstance(value, dict)
            }
        )

    def exact_filename(self, resolve: Resolve) -> str | None:
        """Return a plain file name that opens equal data, or None (bdrv_refresh_filename).

        `resolve` returns the definitions of nodes that are given by name.  The name
        of a format is that of its file, unless the file is an image in a format itself.
        """
        refs = {name for name in self.child_members() if getattr(self, name) is not None}
        if refs != {"file"} or self.strong_options():
            return None
        file = resolved(self.children()["file"], resolve)
        return None if file.is_format else file.exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        """Return all members that decide about data, children included, as a JSON object."""
        tree: dict[str, object] = {"driver": self.driver, **self.strong_options()}
        for name in self.child_members():
            ref = getattr(self, name)
            if isinstance(ref, Null):
                tree[name] = None
            elif ref is not None:
                tree[name] = resolved(ref, resolve).full_options(resolve)
        return tree


_COMMON: Final = frozenset(field.name for field in fields(BlockdevOptions))

Resolve = Callable[[str], BlockdevOptions]
"""A function that returns the definition of an existing node by its name."""


def resolved(ref: BlockdevRef, resolve: Resolve) -> BlockdevOptions:
    """Return the definition of a child that is given by name or in place."""
    return resolve(ref) if isinstance(ref, str) else ref


@cache
def _child_members(cls: Any) -> tuple[str, ...]:
    """Return the names of the members whose annotations allow a definition."""
    hints = get_type_hints(cls)
    return tuple(name for name, hint in hints.items() if BlockdevOptions in get_args(hint))


BlockdevRef = str | BlockdevOptions
"""A child: the name of an existing node, or a definition."""

BlockdevRefOrNull = BlockdevRef | Null


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsFile(BlockdevOptions):
    """Options of `file`; those with `x` make it a volume that can run full (`rules/volume.py`).

    Sizes are in bytes.
    """

    weak_options = frozenset(
        ("locking", "aio", "x_physical_size", "x_extent_size", "x_short_write")
    )
    filename: str
    locking: OnOffAuto | None = None
    aio: BlockdevAioOptions | None = None
    x_physical_size: Size | None = None
    x_extent_size: Size | None = None
    x_short_write: bool | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        return self.filename


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsGenericFormat(BlockdevOptions):
    """The base of formats, which have a `file`."""

    is_format = True
    file: Annotated[BlockdevRef, BLOCKDEV_REF]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsGenericCOWFormat(BlockdevOptionsGenericFormat):
    """A format with a backing file: `backing` None is the one in the header, null is none."""

    backing: Annotated[BlockdevRefOrNull, BLOCKDEV_REF_OR_NULL] | None = None

    def asked_backing(self) -> BlockdevRefOrNull | None:
        """Return `backing`; an empty node name means none, as null does (bdrv_open_inherit)."""
        return Null.NULL if self.backing == "" else self.backing


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsRaw(BlockdevOptionsGenericFormat):
    """Options of raw: `offset` and `size` (bytes) select the part of the child that is shown."""

    offset: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsQcow2(BlockdevOptionsGenericCOWFormat):
    """Options of qcow2; sizes are in bytes.

    Of the cache options only `l2_cache_size` has an effect; the others and
    `lazy_refcounts` are accepted because clients name them.  `x_drop_bitmaps`
    removes stored bitmaps; without it an image that has some is not opened for
    writing.
    """

    weak_options = frozenset(
        ("lazy_refcounts", "pass_discard_request", "pass_discard_snapshot", "pass_discard_other")
        + ("cache_size", "l2_cache_size", "l2_cache_entry_size", "refcount_cache_size")
        + ("cache_clean_interval", "x_drop_bitmaps")
    )
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
    """A file whose format is not given: only ``-drive`` and file names can leave it out.

    `format_options` are the keys and texts that only some format has.
    """

    is_format = True
    file: BlockdevRef
    format_options: tuple[tuple[str, str], ...] = ()

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.file, resolve).exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        return resolved(self.file, resolve).full_options(resolve)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsBacking(BlockdevOptions):
    """A backing file as ``-drive`` describes it, as keys and texts.

    The image's header supplies what they leave out (`flat_options.backing_options`).
    """

    flat: tuple[tuple[str, str], ...]

    def node_names(self) -> Iterator[str]:
        for key, value in self.flat:
            if key.rpartition(".")[2] == "node-name":
                yield value


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNull(BlockdevOptions):
    """Options of null-co; `size` is in bytes (default: 1 GiB)."""

    weak_options = frozenset(("latency_ns",))
    size: int | None = None
    latency_ns: UInt64 | None = None
    read_zeroes: bool | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        return "null-co://" if self.size is None and not self.read_zeroes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNbd(BlockdevOptions):
    """Options of nbd; `reconnect_delay` and `open_timeout` are in seconds."""

    weak_options = frozenset(("reconnect_delay", "open_timeout"))
    server: Annotated[SocketAddress, SOCKET_ADDRESS]
    export: str | None = None
    reconnect_delay: UInt32 | None = None
    open_timeout: UInt32 | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        slash = "" if self.export is None else f"/{self.export}"
        match self.server:
            case UnixSocketAddress(path=path):
                return f"nbd+unix://{slash}?socket={path}"
            case InetSocketAddress(host=host, port=port):
                return f"nbd://{host}:{port}{slash}"
        raise AssertionError(self.server.type)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        server = flatten({"server": to_wire(self.server)})
        return BlockdevOptions.full_options(self, resolve) | server


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsBlkdebug(BlockdevOptions):
    """Options of blkdebug; `config` is the path of a rule file, limits are in bytes."""

    image: Annotated[BlockdevRef, BLOCKDEV_REF]
    config: str | None = None
    max_transfer: int | None = None
    opt_write_zero: int | None = None
    max_write_zero: int | None = None
    opt_discard: int | None = None
    max_discard: int | None = None
    inject_error: list[InjectError] | None = None
    set_state: list[SetState] | None = None

    def strong_options(self) -> Flat:
        """Return the strong options without members of rules that have their defaults."""
        return {
            key: value
            for key, value in BlockdevOptions.strong_options(self).items()
            if "." not in key or _RULE_DEFAULTS.get(key.rpartition(".")[2]) != value
        }

    def exact_filename(self, resolve: Resolve) -> str | None:
        image = resolved(self.image, resolve).exact_filename(resolve)
        if image is None or self.strong_options().keys() - {"config"}:
            return None
        name = f"blkdebug:{self.config or ''}:{image}"
        return name if len(name) <= FILENAME_MAX else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsVolatileCache(BlockdevOptions):
    """Options of x-volatile-cache; `size` is in bytes (default: 64 MiB)."""

    weak_options = frozenset(("size",))
    file: Annotated[BlockdevRef, BLOCKDEV_REF]
    size: Size | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        return resolved(self.file, resolve).exact_filename(resolve)


_RULE_DEFAULTS: Final = {
    "state": 0,
    "errno": errno.EIO,
    "sector": -1,
    "once": False,
    "immediately": False,
}

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
        "x-volatile-cache": BlockdevOptionsVolatileCache,
    },
)

BLOCKDEV_REF = Alternate("BlockdevRef", BLOCKDEV_OPTIONS, str)

BLOCKDEV_REF_OR_NULL = Alternate("BlockdevRefOrNull", BLOCKDEV_OPTIONS, str, Null)


def check_node_name(name: str) -> None:
    """Raise QmpError if `name` is not allowed as the name of a node."""
    if not well_formed_id(name):
        raise QmpError(f"Invalid node-name: '{name}'")
    if len(name) > NODE_NAME_MAX:
        raise QmpError("Node name too long")


def parse_blockdev_options(
    value: Any, *, keyval: bool = False, absent: frozenset[str] = frozenset()
) -> BlockdevOptions:
    """Convert an object as `blockdev-add` takes it to a typed definition.

    With `keyval` its scalars are strings, as in `-blockdev`.  Members in
    `absent` are unknown (`qemu.Release.absent`).  Raises QmpError in QEMU's
    words.  Whether the nodes named in it exist is checked by the graph.
    """
    annotation = Annotated[BlockdevOptions, BLOCKDEV_OPTIONS]
    options = parse(annotation, value, keyval=keyval, absent=absent)
    assert isinstance(options, BlockdevOptions)
    return options
