# SPDX-License-Identifier: MIT
"""Resolution of the backing file that an image's header names."""

from __future__ import annotations

import os
import re

from blockcore.bql.effects import LaneCall
from blockcore.nodes.definitions.allowed_backing import AllowedBacking
from blockcore.nodes.definitions.flat_options import backing_options
from blockcore.nodes.definitions.options import BlockdevOptionsBacking, BlockdevRef
from blockcore.nodes.driver import OPENING
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError

MAX_CHAIN = 200
"""Longest chain of images that is opened.

QEMU has no fixed limit; at some depth it runs out of stack or of file descriptors.
"""

_PROTOCOL = re.compile(r"[^/]*:")


def has_protocol(name: str) -> bool:
    """Tell whether a name has a protocol's prefix, and is no plain path (path_has_protocol)."""
    return _PROTOCOL.match(name) is not None


def backing_name(node: BlockNode, name: str) -> str:
    """Return the full name of the backing file that an image calls `name`.

    A relative path is relative to the directory of the image's own file
    (bdrv_get_full_backing_filename).  Raises QmpError if that has no directory.
    """
    if has_protocol(name) or os.path.isabs(name):
        return name
    below: BlockNode | None = node
    while below is not None and below.dirname is None:
        below = below.file
    if below is None or below.dirname is None:
        raise QmpError(f"Cannot use relative backing file names for '{node.filename}'")
    return os.path.join(below.dirname, name)


async def named_file(
    node: BlockNode, name: str, allowed: AllowedBacking, directory: str
) -> str:
    """Return the full name of a backing file; raise QmpError if `allowed` does not allow it.

    `directory` is the one that relative paths of the user are relative to.
    """
    name = backing_name(node, name)

    def resolve(path: str) -> str:
        return os.path.realpath(os.path.join(directory, path))

    if allowed.directories is not None:
        # A call, because resolving links waits for the file system.
        reason = await LaneCall(OPENING, allowed.refusal, name, resolve)
        if reason is not None:
            raise QmpError(f"Could not open backing file: {reason}")
    return name


def name_counts(asked: BlockdevRef | None) -> bool:
    """Tell whether the definition leaves the file name of the backing file to the header."""
    if isinstance(asked, BlockdevOptionsBacking):
        return "file.filename" not in dict(asked.flat)
    return asked is None


def backing_ref(
    asked: BlockdevRef | None, name: str | None, image_format: str | None
) -> BlockdevRef:
    """Return the backing file: as the definition asks, completed by the header.

    `name` is the full name according to the header.  Without a format from either,
    the result asks for probing.  Raises QmpError in QEMU's words.
    """
    if asked is not None and not isinstance(asked, BlockdevOptionsBacking):
        return asked
    return backing_options(() if asked is None else asked.flat, name, image_format)
