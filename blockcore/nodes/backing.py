"""Where the backing file of an image is, by what the image says."""

from __future__ import annotations

import os
import re

from blockcore.nodes.file import FileNode
from blockcore.nodes.flat_options import open_options
from blockcore.nodes.node import BlockNode
from blockcore.nodes.options import BlockdevOptions
from blockcore.qapi import QmpError

MAX_CHAIN = 200
"""Images on top of each other; QEMU runs out of stack or of file descriptors at some depth."""

_PROTOCOL = re.compile(r"[^/]*:")


def backing_name(node: BlockNode, name: str) -> str:
    """The full name of the backing file that an image calls `name`.

    A relative name is relative to the directory of the image's own file
    (bdrv_get_full_backing_filename).
    """
    if _PROTOCOL.match(name) or os.path.isabs(name):
        return name
    below: BlockNode | None = node
    while below is not None and not isinstance(below, FileNode):
        below = below.file
    if below is None:
        raise QmpError(f"Cannot use relative backing file names for '{node.filename}'")
    return os.path.join(os.path.dirname(below.filename), name)


def backing_definition(name: str, image_format: str | None) -> BlockdevOptions:
    """The definition of a backing file; its format is probed if the image does not say."""
    return open_options({"driver": image_format} if image_format else {}, name)
