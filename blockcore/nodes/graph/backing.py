# SPDX-License-Identifier: MIT
"""Where the backing file of an image is, by what the image says."""

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
"""Images on top of each other; QEMU runs out of stack or of file descriptors at some depth."""

_PROTOCOL = re.compile(r"[^/]*:")


def has_protocol(name: str) -> bool:
    """Whether a name is more than a path (path_has_protocol)."""
    return _PROTOCOL.match(name) is not None


def backing_name(node: BlockNode, name: str) -> str:
    """The full name of the backing file that an image calls `name`.

    A relative name is relative to the directory of the image's own file
    (bdrv_get_full_backing_filename).
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
    """The same; QmpError if an image may not name it.  Relative paths are below `directory`."""
    name = backing_name(node, name)

    def resolve(path: str) -> str:
        return os.path.realpath(os.path.join(directory, path))

    if allowed.directories is not None:
        reason = await LaneCall(OPENING, allowed.refusal, name, resolve)
        if reason is not None:
            raise QmpError(f"Could not open backing file: {reason}")
    return name


def name_counts(asked: BlockdevRef | None) -> bool:
    """Whether the backing file is the one that the header names."""
    if isinstance(asked, BlockdevOptionsBacking):
        return "file.filename" not in dict(asked.flat)
    return asked is None


def backing_ref(
    asked: BlockdevRef | None, name: str | None, image_format: str | None
) -> BlockdevRef:
    """The backing file that is asked for, in which the header counts where nothing is.

    `name` is the full name that the header gives it; without any format it
    is probed.  QmpError in QEMU's words.
    """
    if asked is not None and not isinstance(asked, BlockdevOptionsBacking):
        return asked
    return backing_options(() if asked is None else asked.flat, name, image_format)
