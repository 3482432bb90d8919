# SPDX-License-Identifier: MIT
"""Parser of file names as ``-drive file=`` takes them; `shown_filename` is the inverse.

A name stands for flat options with dotted keys: ``blkdebug:c:disk`` is
``driver=blkdebug,config=c,image.driver=file,image.filename=disk``.  No file is
looked up, and no path is made absolute: paths stay as the user typed them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from blockcore.qapi.json.stream import parse_json
from blockcore.qapi.keyval import NESTING_MAX, flatten
from blockcore.qapi.names import QmpError

Flat = dict[str, str | int | bool]
"""Options of one node and, with dotted prefixes, of its children."""

JSON_NAME_MAX = 64 << 10
"""Longest ``json:`` name, in characters.

The name is parsed under the big lock, while all guests wait.
"""

_PROTOCOL = re.compile(r"([^:/]*):")
_INET = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([^,]+)")
_NBD_PORT = "10809"
_EXPORT_NAME = ":exportname="


def parse_filename(filename: str) -> Flat:
    """Return the options that a file name of any kind stands for.

    Raises QmpError, in QEMU's words, if the name is malformed.
    """
    if filename.startswith("json:"):
        return parse_json_filename(filename)
    driver = protocol_of(filename)
    return {"driver": driver, **FILENAME_PARSERS[driver](filename)}


def parse_json_filename(filename: str) -> Flat:
    """Return the options in a ``json:{...}`` name, or raise QmpError.

    A member that is null counts as not given, except ``backing``: null means
    no backing file there, which flat options spell as an empty string.
    """
    if len(filename) > JSON_NAME_MAX:
        raise QmpError("Could not parse the JSON options: File name too long")
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
    """Return the driver that the prefix of a name asks for; without one it is ``file``.

    Raises QmpError for an unknown prefix (bdrv_find_protocol).
    """
    match = _PROTOCOL.match(filename)
    if match is None:
        return "file"
    protocol = match[1]
    driver = "nbd" if protocol in ("nbd+tcp", "nbd+unix") else protocol
    if driver not in FILENAME_PARSERS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    return driver


def _parse_file(filename: str) -> Flat:
    """Parse ``file:PATH``.

    ``file:a:b`` becomes ``./a:b``: the ``a:`` would be taken for a prefix if the
    path were parsed again (bdrv_parse_filename_strip_prefix).
    """
    path = filename.removeprefix("file:")
    if path != filename and _PROTOCOL.match(path):
        path = f"./{path}"
    return {"filename": path}


def _parse_null(filename: str) -> Flat:
    if filename != "null-co://":
        raise QmpError("The only allowed filename for this driver is 'null-co://'")
    return {}


def _parse_blkdebug(filename: str) -> Flat:
    """Parse ``blkdebug:CONF:IMAGE``; a name without the prefix is the name of the image."""
    config, image = "", filename
    if filename.startswith("blkdebug:"):
        config, colon, image = filename.removeprefix("blkdebug:").partition(":")
        if not colon:
            raise QmpError("blkdebug requires both config file and image path")
        if image.count("blkdebug:") >= NESTING_MAX:
            raise QmpError(f"More than {NESTING_MAX} blkdebug devices in one file name")
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
    """Parse ``nbd://host[:port][/export]`` or ``nbd+unix:///[export]?socket=path``.

    Everything that QEMU refuses gets one message (nbd_parse_uri): a Unix socket
    with a host, a port or another query; a TCP address without a host or with a query.
    """
    invalid = QmpError("No valid URL specified")
    try:
        uri = urlsplit(filename)
        host, port = uri.hostname, uri.port  # `port` raises ValueError if it is no number
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
"""The parser of each driver's file names; the prefix may be missing if ``driver=`` is given."""
