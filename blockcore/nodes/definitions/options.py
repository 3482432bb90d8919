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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
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
from blockcore.qapi.schema import Alternate, FlatUnion, Null, parse, to_wire

NODE_NAME_MAX = 31

FILENAME_MAX: Final = 4095
"""What fits into QEMU's field of PATH_MAX bytes; a chain of images given by name has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptions:
    """What every node has; None is "not given", which a child inherits from its parent."""

    is_format: ClassVar[bool] = False
    """Whether the node is an image of some format, not a protocol's or a filter."""

    weak_options: ClassVar[frozenset[str]] = frozenset()
    """Members of its own that do not decide about data; QEMU lists the others.

    (strong_runtime_opts.)
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
        """Return what is said of a backing file; None if nothing is."""
        return None

    def node_names(self) -> Iterator[str]:
        """Yield the names that users give to the nodes which are defined here, at any depth."""
        if self.node_name is not None:
            yield self.node_name
        for ref in self.children().values():
            if isinstance(ref, BlockdevOptions):
                yield from ref.node_names()

    def strong_options(self) -> Flat:
        """Return the members that decide about data; no children, no structs, lists flat."""
        left_out = {*_COMMON, *self.child_members(), *self.weak_options}
        return flatten(
            {
                key: value
                for key, value in to_wire(self).items()
                if key.replace("-", "_") not in left_out and not isinstance(value, dict)
            }
        )

    def exact_filename(self, resolve: Resolve) -> str | None:
        """Return a plain name that gives back the same data, or None (bdrv_refresh_filename).

        `resolve` gives the definitions of nodes that are given by name.  A
        format's name is its file's, unless that is an image of some format itself.
        """
        refs = {name for name in self.child_members() if getattr(self, name) is not None}
        if refs != {"file"} or self.strong_options():
            return None
        file = resolved(self.children()["file"], resolve)
        return None if file.is_format else file.exact_filename(resolve)

    def full_options(self, resolve: Resolve) -> dict[str, object]:
        """Return all that decides about data, children included, as JSON has it."""
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
"""What is known of a node that is given by its name only."""


def resolved(ref: BlockdevRef, resolve: Resolve) -> BlockdevOptions:
    """Return the definition of a child."""
    return resolve(ref) if isinstance(ref, str) else ref


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
    is_format = True
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
    """A file whose format is not given, which only ``-drive`` and file names can do.

    `format_options` are those that are the format's own, not typed yet.
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
    """What ``-drive`` says of a backing file, not typed yet: the image's header says the rest."""

    flat: tuple[tuple[str, str], ...]

    def node_names(self) -> Iterator[str]:
        for key, value in self.flat:
            if key.rpartition(".")[2] == "node-name":
                yield value


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNull(BlockdevOptions):
    """`size` in bytes (1 GiB if not given)."""

    weak_options = frozenset(("latency_ns",))
    size: int | None = None
    latency_ns: UInt64 | None = None
    read_zeroes: bool | None = None

    def exact_filename(self, resolve: Resolve) -> str | None:
        return "null-co://" if self.size is None and not self.read_zeroes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevOptionsNbd(BlockdevOptions):
    """`reconnect_delay` and `open_timeout` in seconds."""

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

    def strong_options(self) -> Flat:
        """Members of rules that have their defaults are left out."""
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
