# SPDX-License-Identifier: MIT
"""The first line of a recording: all that a machine needs to begin as this one has begun."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from blockcore.bql.later import later
from blockcore.config.config import Config
from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.node import BlockNode
from blockcore.process.recorder import contents

_version = later("importlib.metadata:version")

VERSION = 1
"""The version of the format: another one for what older players would misunderstand."""

CONTENTS_MAX = 16 << 20
"""The most bytes of data of one file that are recorded; holes do not count.

More delays the start, by a second for each GiB or so, and makes larger recordings.
"""

Described = dict[str, Any]
"""A file: `filename`, `size`, and `contents`: [OFFSET, CONTENTS] of each part that is no hole."""

NOT_RECORDED = frozenset({"control", "record", "record-data"})
"""Keys that say where a machine is, not what it is."""


def header(
    machine: Machine, pairs: Iterable[tuple[str, str]], files: Iterable[Described], data: bool
) -> str:
    """Return the line, without its closing ``}``.

    `pairs` are the keys as they were given; `files` come from `described`.
    """
    keys = [pair for pair in pairs if pair[0] not in (*NOT_RECORDED, "seed", "qemu")]
    keys += [("seed", str(machine.seed)), ("qemu", machine.qemu.name)]
    return json.dumps(
        {
            "faultline-recording": VERSION,
            "faultline": _own_version(),
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "directory": machine.graph.directory,
            "keys": keys,
            "data": data,
            "drives": [_drive(blk) for blk in machine.backends],
            "files": list(files),
        },
        separators=(",", ":"),
    ).removesuffix("}")


def _drive(blk: BlockBackend) -> dict[str, Any]:
    node = blk.root
    return {
        "id": blk.export,
        "node-name": node.node_name,
        "driver": node.driver,
        "filename": _filename_of(node),
        "size": blk.size,
        "read-only": blk.read_only,
    }


def _filename_of(node: BlockNode) -> str | None:
    """Return the name of the file that has the data of a drive's root, if it is a file."""
    below: BlockNode | None = node
    while below is not None and below.driver != "file":
        below = below.file or below.filtered
    return None if below is None else below.filename


def files_in(config: Config) -> set[str]:
    """Return the names of files in the definitions of nodes."""
    definitions = [*config.blockdevs, *(drive.options for drive in config.drives)]
    return {name for definition in definitions for name in _files_of(definition)}


def _files_of(definition: BlockdevOptions) -> Iterator[str]:
    for member in ("filename", "config"):  # of a file, and of blkdebug
        name = getattr(definition, member, None)
        if isinstance(name, str):
            yield name
    for child in definition.children().values():
        if isinstance(child, BlockdevOptions):
            yield from _files_of(child)


def described(name: str, directory: str, *, data: bool) -> Described:
    """Return a file's name and size and, with `data`, its contents; raises OSError.

    There are no `contents` if that is too much data, or if the file is none that has a
    beginning and an end.  Names are relative to `directory`.
    """
    fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return {"filename": name, "size": os.lseek(fd, 0, os.SEEK_END)}
        described: Described = {"filename": name, "size": status.st_size}
        extents = extents_of(fd, status.st_size)
        if data and sum(length for _, length in extents) <= CONTENTS_MAX:
            described["contents"] = [
                [offset, json.loads(contents(os.pread(fd, length, offset)))]
                for offset, length in extents
            ]
        return described
    finally:
        os.close(fd)


def extents_of(fd: int, size: int) -> list[tuple[int, int]]:
    """Return offset and length of each part that is no hole."""
    extents, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: no data behind this place
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        extents.append((start, min(at, size) - start))
    return extents


def _own_version() -> str:
    try:
        version: str = _version()("faultline")
    except ModuleNotFoundError:  # a source tree that is not installed
        return "unknown"
    return version
