# SPDX-License-Identifier: MIT
"""File names as ``query-block`` shows them: what would open the same data again."""

from __future__ import annotations

import json
from collections.abc import Callable
from errno import EIO
from typing import Final

from blockcore.nodes.definitions.filename import Flat
from blockcore.nodes.definitions.filter_options import (
    BlockdevOptionsCbw,
    BlockdevOptionsCor,
    BlockdevOptionsTop,
)
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    BlockdevOptionsBlkdebug,
    BlockdevOptionsFile,
    BlockdevOptionsNbd,
    BlockdevOptionsNull,
    BlockdevOptionsProbed,
    BlockdevOptionsQcow2,
    BlockdevOptionsRaw,
    BlockdevRef,
    InetSocketAddress,
    UnixSocketAddress,
)
from blockcore.qapi.keyval import flatten
from blockcore.qapi.schema import Null, to_wire

Resolve = Callable[[str], BlockdevOptions]
"""What is known of a node that is given by its name only."""

LONGEST: Final = 4095
"""What fits into QEMU's field of PATH_MAX bytes; a chain of images given by name has more."""


def filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """What QEMU shows as the file name of a node, as much as it has room for.

    A plain name if one stands for all of the node's data: a path, ``nbd://``,
    ``blkdebug:CONF:IMAGE``...  Otherwise ``json:{...}`` with the options that
    decide about data; cache modes, names and the like are never shown.
    `resolve` is asked about children that are given by name.
    """
    full = full_filename(options, resolve)
    return full if len(full) <= LONGEST else full[: LONGEST - 3] + "..."


def full_filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """The same, however long: what tells one node from another."""
    exact = _exact(options, resolve)
    return "json:" + json.dumps(_tree(options, resolve)) if exact is None else exact


def _child(ref: BlockdevRef, resolve: Resolve) -> BlockdevOptions:
    return resolve(ref) if isinstance(ref, str) else ref


def _exact(options: BlockdevOptions, resolve: Resolve) -> str | None:
    """A plain name that gives back the same data, or None."""
    match options:
        case BlockdevOptionsFile():
            return options.filename
        case BlockdevOptionsNull():
            return "null-co://" if options.size is None and not options.read_zeroes else None
        case BlockdevOptionsNbd():
            return _exact_nbd(options)
        case BlockdevOptionsRaw():
            if _own(options).keys() - {"file"}:
                return None
            return _exact_file(options.file, resolve)
        case BlockdevOptionsProbed():
            return _exact(_child(options.file, resolve), resolve)
        case BlockdevOptionsQcow2():
            if options.backing is not None:
                return None
            return _exact_file(options.file, resolve)
        case BlockdevOptionsBlkdebug():
            image = _exact(_child(options.image, resolve), resolve)
            if image is None or _own(options).keys() - {"config", "image"}:
                return None
            name = f"blkdebug:{options.config or ''}:{image}"
            return name if len(name) <= LONGEST else None
        case BlockdevOptionsTop():
            return _exact(_child(options.backing, resolve), resolve)
        case BlockdevOptionsCbw():
            return _exact(_child(options.file, resolve), resolve)
        case BlockdevOptionsCor():
            # Only an implicit one has no name of the user's, and copies everything of its child.
            named = options.node_name is not None
            return None if named else _exact(_child(options.file, resolve), resolve)
    raise AssertionError(options.driver)


def _exact_file(ref: BlockdevRef, resolve: Resolve) -> str | None:
    """A format's name is its file's, unless that is an image of some format itself."""
    file = _child(ref, resolve)
    if isinstance(file, BlockdevOptionsRaw | BlockdevOptionsQcow2 | BlockdevOptionsProbed):
        return None
    return _exact(file, resolve)


def _exact_nbd(options: BlockdevOptionsNbd) -> str:
    export = options.export
    match options.server:
        case UnixSocketAddress(path=path):
            slash = "" if export is None else f"/{export}"
            return f"nbd+unix://{slash}?socket={path}"
        case InetSocketAddress(host=host, port=port):
            slash = "" if export is None else f"/{export}"
            return f"nbd://{host}:{port}{slash}"
    raise AssertionError(options.server.type)


_WEAK: Final = frozenset(
    ("node-name", "discard", "cache", "read-only", "auto-read-only", "force-share")
    + ("detect-zeroes", "locking", "aio", "latency-ns", "reconnect-delay", "open-timeout")
    + ("lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other")
    + ("cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size")
    + ("cache-clean-interval", "x-drop-bitmaps")
    + ("bottom",)
    + ("x-physical-size", "x-extent-size", "x-short-write")
)
"""Members that do not decide about data."""

_RULE_DEFAULTS: Final = {
    "state": 0,
    "errno": EIO,
    "sector": -1,
    "once": False,
    "immediately": False,
}


def _own(options: BlockdevOptions) -> Flat:
    """The members that decide about data, driver and definitions left out, lists flat."""
    wire = {
        key: value
        for key, value in to_wire(options).items()
        if key not in _WEAK and key != "driver" and not isinstance(value, dict)
    }
    return {
        key: value
        for key, value in flatten(wire).items()
        if "." not in key or _RULE_DEFAULTS.get(key.rpartition(".")[2]) != value
    }


def _tree(options: BlockdevOptions, resolve: Resolve) -> dict[str, object]:
    children = ("file", "image", "backing", "target")
    own = {key: value for key, value in _own(options).items() if key not in children}
    tree: dict[str, object] = {"driver": options.driver, **own}
    match options:
        case BlockdevOptionsRaw():
            tree["file"] = _tree(_child(options.file, resolve), resolve)
        case BlockdevOptionsQcow2():
            tree["file"] = _tree(_child(options.file, resolve), resolve)
            if isinstance(options.backing, Null):
                tree["backing"] = None
            elif options.backing is not None:
                tree["backing"] = _tree(_child(options.backing, resolve), resolve)
        case BlockdevOptionsProbed():
            tree = _tree(_child(options.file, resolve), resolve)
        case BlockdevOptionsTop(node_name=None):
            tree = _tree(_child(options.backing, resolve), resolve)
        case BlockdevOptionsTop():
            tree["backing"] = _tree(_child(options.backing, resolve), resolve)
        case BlockdevOptionsCor(node_name=None):
            tree = _tree(_child(options.file, resolve), resolve)
        case BlockdevOptionsCor():
            tree["file"] = _tree(_child(options.file, resolve), resolve)
        case BlockdevOptionsCbw():
            tree["file"] = _tree(_child(options.file, resolve), resolve)
            tree["target"] = _tree(_child(options.target, resolve), resolve)
        case BlockdevOptionsBlkdebug():
            tree["image"] = _tree(_child(options.image, resolve), resolve)
        case BlockdevOptionsNbd():
            tree |= flatten({"server": to_wire(options.server)})
    return tree
