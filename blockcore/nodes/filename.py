"""File names as ``-drive file=`` takes them, and as ``query-block`` shows them.

A name stands for flat options, whose keys are dotted: ``blkdebug:c:disk`` is
``driver=blkdebug,config=c,image.driver=file,image.filename=disk``.  Nothing is
looked up or made absolute here: paths stay as the user typed them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from errno import EIO
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from blockcore.keyval import flatten
from blockcore.nodes.filter_options import (
    BlockdevOptionsCbw,
    BlockdevOptionsCor,
    BlockdevOptionsTop,
)
from blockcore.nodes.options import (
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
from blockcore.qapi import QmpError
from blockcore.qmp.jsonstream import parse_json
from blockcore.qmp.schema import Null, to_wire

Flat = dict[str, str | int | bool]
"""Options of one node and, under prefixes, of its children."""

Resolve = Callable[[str], BlockdevOptions]
"""What is known of a node that is given by its name only."""

_PROTOCOL = re.compile(r"([^:/]*):")
_INET = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([^,]+)")
_NBD_PORT = "10809"
_EXPORT_NAME = ":exportname="


def parse_filename(filename: str) -> Flat:
    """The options that a file name of any kind stands for; QmpError in QEMU's words."""
    if filename.startswith("json:"):
        return parse_json_filename(filename)
    driver = protocol_of(filename)
    return {"driver": driver, **FILENAME_PARSERS[driver](filename)}


def parse_json_filename(filename: str) -> Flat:
    """The options in a ``json:{...}`` name; members that are null count as not given.

    A backing file that is null is none.
    """
    try:
        value = parse_json(filename.removeprefix("json:"))
    except QmpError as error:
        raise QmpError(f"Could not parse the JSON options: {error.desc}") from None
    if not isinstance(value, dict):
        raise QmpError("Invalid JSON object given")
    leaves: dict[str, Any] = flatten(value)
    return {
        key: "" if leaf is None else leaf
        for key, leaf in leaves.items()
        if leaf is not None or key.rpartition(".")[2] == "backing"
    }


def protocol_of(filename: str) -> str:
    """The driver that a name's prefix asks for; a name without a prefix is a file."""
    match = _PROTOCOL.match(filename)
    if match is None:
        return "file"
    protocol = match[1]
    driver = "nbd" if protocol in ("nbd+tcp", "nbd+unix") else protocol
    if driver not in FILENAME_PARSERS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return driver


def _parse_file(filename: str) -> Flat:
    """``file:a:b`` becomes ``./a:b``, so that it is not taken for a prefix again."""
    path = filename.removeprefix("file:")
    if path != filename and _PROTOCOL.match(path):
        path = f"./{path}"
    return {"filename": path}


def _parse_null(filename: str) -> Flat:
    if filename != "null-co://":
        raise QmpError("The only allowed filename for this driver is 'null-co://'")
    return {}


def _parse_blkdebug(filename: str) -> Flat:
    """``blkdebug:CONF:IMAGE``; a name without the prefix is the image's."""
    config, image = "", filename
    if filename.startswith("blkdebug:"):
        config, colon, image = filename.removeprefix("blkdebug:").partition(":")
        if not colon:
            raise QmpError("blkdebug requires both config file and image path")
    options: Flat = {f"image.{key}": value for key, value in parse_filename(image).items()}
    return {"config": config, **options} if config else options


def _parse_nbd(filename: str) -> Flat:
    if "://" in filename:
        return _parse_nbd_uri(filename)
    if not filename.startswith("nbd:"):
        raise QmpError("File name string for NBD must start with 'nbd:'")
    address, named, export = filename.removeprefix("nbd:").partition(_EXPORT_NAME)
    if not address or (named and not export):
        raise QmpError("NBD server address missing")
    options: Flat = {"export": export} if named else {}
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return {"server.type": "unix", "server.path": path, **options}
    match = _INET.fullmatch(address)
    if match is None:
        raise QmpError(f"error parsing address '{address}'")
    host = match[2] if match[1] is None else match[1]
    return {"server.type": "inet", "server.host": host, "server.port": match[3], **options}


def _parse_nbd_uri(filename: str) -> Flat:
    """``nbd://host[:port][/export]`` or ``nbd+unix:///[export]?socket=path``."""
    invalid = QmpError("No valid URL specified")
    try:
        uri = urlsplit(filename)
        host, port = uri.hostname, uri.port
    except ValueError:
        raise invalid from None
    export = unquote(uri.path).removeprefix("/")
    options: Flat = {"export": export} if export else {}
    query = parse_qsl(uri.query, keep_blank_values=True)
    if uri.scheme == "nbd+unix":
        if host or port or len(query) != 1 or query[0][0] != "socket":
            raise invalid
        return {"server.type": "unix", "server.path": query[0][1], **options}
    if not host or query:
        raise invalid
    port_text = _NBD_PORT if port is None else str(port)
    return {"server.type": "inet", "server.host": host, "server.port": port_text, **options}


FILENAME_PARSERS: Final[dict[str, Callable[[str], Flat]]] = {
    "blkdebug": _parse_blkdebug,
    "file": _parse_file,
    "nbd": _parse_nbd,
    "null-co": _parse_null,
}
"""By driver: what a name, which may lack the driver's prefix, means to it."""


def filename(options: BlockdevOptions, resolve: Resolve) -> str:
    """What QEMU shows as the file name of a node.

    A plain name if one stands for all of the node's data: a path, ``nbd://``,
    ``blkdebug:CONF:IMAGE``...  Otherwise ``json:{...}`` with the options that
    decide about data; cache modes, names and the like are never shown.
    `resolve` is asked about children that are given by name.
    """
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
            return f"blkdebug:{options.config or ''}:{image}"
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
    + ("cache-clean-interval", "bottom")
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
    tree: dict[str, object] = {"driver": options.driver}
    for key, value in _own(options).items():
        if key not in ("file", "image", "backing", "target"):
            tree[key] = value
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
        case BlockdevOptionsTop():
            tree = _tree(_child(options.backing, resolve), resolve)
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
