# SPDX-License-Identifier: MIT
"""The wait of `faultline serve --standby` for the line that says what to serve.

The line is a JSON object, here with line breaks:

    {"keys": ["drive=id=vda,file=disk.img", "name=one"],
     "directory": "/where/relative/names/begin"}

Both members may be missing: without keys there is a temporary drive, and without
a directory names are relative to that in which the command was started.
"""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import Any

from blockcore.config.sockets import require_drives
from blockcore.process.socket_file import socket_path
from blockcore.process.temporary_drive import with_files
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass

READ_BYTES = 1 << 16
"""The most bytes of stdin that are read at once."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a line asks for; `directory` None is the current directory."""

    pairs: tuple[tuple[str, str], ...] = ()
    directory: str | None = None


def wait_for_line(descriptor: int, parent: int) -> bytes | None:
    """Return what comes from a descriptor up to and including the first line break.

    It has none if the input ends within the line.  None stands for an input that ends
    before any byte, and for the end of the process of which `parent` is a pidfd (-1:
    of none).  Bytes that come together with the line, and after it, are dropped.
    """
    poller = select.poll()
    for awaited in (descriptor, parent):
        if awaited >= 0:
            poller.register(awaited, select.POLLIN)
    line = b""
    while b"\n" not in line:
        ready = {found for found, _ in poller.poll()}
        if descriptor not in ready:
            return None
        data = os.read(descriptor, READ_BYTES)
        if not data:
            return line or None
        line += data
    return line[: line.index(b"\n") + 1]


def parse_order(line: bytes) -> Order:
    """Return what a line asks for; raises QmpError if it is not as it should be."""
    if not line.endswith(b"\n"):
        raise QmpError("it ended within the line")
    try:
        # File names are bytes: those that are not UTF-8 become what `os.fsencode` undoes.
        given = json.loads(os.fsdecode(line))
    except (ValueError, RecursionError) as exc:
        raise QmpError(f"the line is no JSON: {exc}") from None
    if not isinstance(given, dict):
        raise QmpError('the line is no object: it takes {"keys": [...], "directory": "..."}')
    for name in given:
        if name not in ("keys", "directory"):
            raise QmpError(f"'{name}' is no member of the line: it has 'keys' and 'directory'")
    keys = given.get("keys", [])
    if not isinstance(keys, list):
        raise QmpError("'keys' is no array of KEY=VALUE")
    return Order(tuple(map(_pair, keys)), _directory(given))


def _pair(key: Any) -> tuple[str, str]:
    if not isinstance(key, str):
        raise QmpError(f"{json.dumps(key)} in 'keys' is no string KEY=VALUE")
    name, equals, value = key.partition("=")
    if not equals or not name:
        raise QmpError(f"'{key}' in 'keys' is not KEY=VALUE")
    if "\0" in key:
        raise QmpError(f"{json.dumps(key)} in 'keys' has a NUL")
    return name, value


def _directory(given: dict[str, Any]) -> str | None:
    if "directory" not in given:
        return None
    directory = given["directory"]
    if not isinstance(directory, str) or not directory.startswith("/") or "\0" in directory:
        raise QmpError(f"'directory' is no absolute path: {json.dumps(directory)}")
    return directory


def completed(order: Order, private: str, control: str | None, nbd: str | None) -> Order:
    """Return an order with what `serve` makes of the keys of a command line.

    The control socket's path becomes absolute.  A temporary drive in the directory
    `private` is added if no drive is named, and a control socket there if none is.
    `control` is the path of one that an option has named, `nbd` that of the NBD socket,
    if there is one.  Raises QmpError for keys that `serve` refuses, and OSError if the
    drive's file cannot be made.
    """
    directory = order.directory or os.getcwd()
    names = [name for name, _ in order.pairs]
    is_named = control is not None or "control" in names
    if names.count("control") + (control is not None) > 1:
        raise QmpError("the control socket is given twice")
    require_drives(names, is_named)
    pairs = []
    for name, value in order.pairs:
        if name == "control":
            value = socket_path(name, value, directory)
            if value == nbd:
                raise QmpError("the NBD and the control socket cannot be the same")
        pairs.append((name, value))
    keys = with_files([f"{name}={value}" for name, value in pairs], Path(private))
    pairs = [(name, value) for name, _, value in (key.partition("=") for key in keys)]
    if not is_named:
        pairs.append(("control", os.path.join(private, "control")))
    return Order(tuple(pairs), directory)
