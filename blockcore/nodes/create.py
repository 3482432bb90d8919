"""New image files for snapshots (bdrv_img_create)."""

from __future__ import annotations

import errno
import os

from blockcore.effects import Call
from blockcore.nodes.driver import NodeOptions, Surroundings
from blockcore.nodes.file import FileNode
from blockcore.nodes.filename import FILENAME_PARSERS, protocol_of
from blockcore.nodes.graph import BlockGraph
from blockcore.nodes.node import BlockNode
from blockcore.nodes.options import BLOCKDEV_OPTIONS
from blockcore.nodes.qcow2.create import create_image
from blockcore.qapi import QmpError

MODE = 0o644
"""What QEMU gives a new file, less the umask."""


async def create_overlay(
    graph: BlockGraph, around: Surroundings, filename: str, image_format: str, below: BlockNode
) -> None:
    """Make an empty image over `below`, whose name and format go into it as they are.

    `filename` may have any form that names a file.  QmpError in QEMU's words.
    """
    if image_format not in BLOCKDEV_OPTIONS.variants:
        raise QmpError(f"Unknown file format '{image_format}'")
    protocol = "json" if filename.startswith("json:") else protocol_of(filename)
    if protocol not in FILENAME_PARSERS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    if image_format != "qcow2":
        raise QmpError(f"Backing file not supported for file format '{image_format}'")
    if protocol != "file":
        raise QmpError(f"Protocol driver '{protocol}' does not support image creation")
    if filename == below.filename:
        raise QmpError(
            "Error: Trying to create an image with the same filename as the backing file"
        )
    path = graph.path(str(FILENAME_PARSERS["file"](filename)["filename"]))
    file = FileNode(NodeOptions(node_name="new image"), around, filename, path)
    try:
        await Call(_create, path if filename else "")
        await file.do_open()
        try:
            await create_image(
                file, below.size, backing_file=below.filename, backing_format=below.driver
            )
        finally:
            await file.do_close()
    except OSError as exc:
        reason = os.strerror(exc.errno or errno.EIO)
        raise QmpError(f"Could not create '{filename}': {reason}") from None


def _create(path: str) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE))
