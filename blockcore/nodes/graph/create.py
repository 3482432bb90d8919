# SPDX-License-Identifier: MIT
"""Creation of image files for snapshots and for the targets of jobs (bdrv_img_create)."""

from __future__ import annotations

import os
from typing import Final

from blockcore.bql.effects import LaneCall
from blockcore.nodes.definitions.filename import FILENAME_PARSERS, protocol_of
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import BLOCKDEV_OPTIONS, BlockdevRef
from blockcore.nodes.driver import OPENING, BackingFile, NodeHost, NodeOptions
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.graph.make import driver_named, make_node
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError

MODE = 0o644
"""The mode of a new file before the umask is applied, as QEMU's (qemu_create)."""

FIRST_BYTES: Final = 512
"""How many bytes are zeroed in a target that exists and cannot be created, such as an export.

A header that was there before must not be recognised as an image.
"""

async def create_image_file(
    graph: BlockGraph,
    host: NodeHost,
    filename: str,
    image_format: str,
    size: int,
    backing: BackingFile | None = None,
) -> None:
    """Create an empty image of `size` bytes at `filename`, which may have a protocol prefix.

    An existing file is overwritten, unless a node of the graph uses it.  The
    backing file is not opened.  On QmpError, an unfinished image is deleted.
    """
    protocol = await _check(filename, image_format, backing)
    driver = await driver_named(image_format)
    first_size = 0 if driver.creates_in_empty else size
    file = await _create_below(graph, host, filename, protocol, first_size)
    try:
        await driver.do_create(file, size, backing)
    except QmpError:
        await file.do_delete_file()
        raise
    finally:
        await _let_go(graph, file)


async def _let_go(graph: BlockGraph, node: BlockNode) -> None:
    await node.do_close()
    graph.unlisted.discard(node)


async def _check(filename: str, image_format: str, backing: BackingFile | None) -> str:
    """Return the protocol of `filename`; raise QmpError if no image can be created there."""
    if image_format not in BLOCKDEV_OPTIONS.variants:
        raise QmpError(f"Unknown file format '{image_format}'")
    protocol = "json" if filename.startswith("json:") else protocol_of(filename)
    if protocol not in FILENAME_PARSERS:
        raise QmpError(f"Unknown protocol '{protocol}'")
    driver = await driver_named(image_format)
    if not driver.creates_images:
        raise QmpError(f"Format driver '{image_format}' does not support image creation")
    if not (await driver_named(protocol)).creates_images:
        raise QmpError(f"Protocol driver '{protocol}' does not support image creation")
    if backing is not None and not driver.supports_backing:
        raise QmpError(f"Backing file not supported for file format '{image_format}'")
    if backing is not None and filename == backing.name:
        raise QmpError(
            "Error: Trying to create an image with the same filename as the backing file"
        )
    return protocol


async def _create_below(
    graph: BlockGraph, host: NodeHost, filename: str, protocol: str, size: int
) -> BlockNode:
    """Create the file of an image, and return it open as a node that is not in the graph."""
    if protocol == "nbd":
        return await _existing(graph, host, filename, size)
    name = str(FILENAME_PARSERS["file"](filename)["filename"])
    path = graph.path(name) if name else ""
    used = [node.identity for node in graph.nodes.values() if node.identity is not None]
    try:
        await LaneCall(OPENING, _create, path, size, used)
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not create '{name}': {reason}") from None
    file = FileNode(NodeOptions(node_name="new image"), host, filename, path)
    await file.do_open()
    return file


async def _existing(
    graph: BlockGraph, host: NodeHost, filename: str, size: int
) -> BlockNode:
    """Open and clear a target that exists and cannot be created (bdrv_co_create_opts_simple).

    The node is in `unlisted` meanwhile: its server may hang, and `yank` must find it.
    """

    async def child(ref: BlockdevRef) -> BlockNode:
        raise AssertionError(ref)

    node: BlockNode | None = None
    try:
        options = open_options({}, filename, protocol=True)
        effective = NodeOptions(node_name="new image")
        node = await make_node(options, Making(effective, host, graph.path, child))
        graph.unlisted.add(node)
        await node.do_open()
    except QmpError as exc:
        graph.unlisted -= {node}
        text = host.qemu.not_created
        raise QmpError(
            text.format(driver=protocol_of(filename), reason=exc.desc)
        ) from None
    try:
        if size > node.size:
            await node.do_truncate(size)
        if node.size:
            await node.do_pwrite(0, memoryview(bytes(min(node.size, FIRST_BYTES))))
    except OSError as exc:
        await _let_go(graph, node)
        reason = reason_of(exc)
        raise QmpError(f"Failed to clear the new image's first sector: {reason}") from None
    except QmpError:
        await _let_go(graph, node)
        raise
    return node


def _create(path: str, size: int, used: list[tuple[int, int]]) -> None:
    """Create or empty a file and give it `size` bytes (raw_co_create).  Runs in a lane.

    `used` has device and inode number of each file that must not be overwritten.
    """
    # No O_TRUNC: whether the file is in use is known only after it was opened.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in used:
            raise QmpError('Failed to get "write" lock')
        try:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
        except OSError as exc:
            reason = reason_of(exc)
            raise QmpError(f"Could not resize file: {reason}") from None
    finally:
        os.close(fd)
