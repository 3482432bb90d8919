# SPDX-License-Identifier: MIT
"""What a node is and can do by its driver, or else by the child that has its data."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from blockcore.nodes.node import BlockNode


def has_zero_init(node: BlockNode) -> bool:
    """Whether a new image of this kind reads as zeroes (bdrv_has_zero_init)."""
    if node.has_zero_init:
        return True
    below = node.file or node.filtered
    return below is not None and node.cow is None and has_zero_init(below)


def zeroes_with_unmap(node: BlockNode) -> bool:
    """Whether write-zeroes can deallocate there (supported_zero_flags, BDRV_REQ_MAY_UNMAP)."""
    if node.zeroes_unmap is not None:
        return node.zeroes_unmap
    below = node.file or node.filtered
    return below is not None and zeroes_with_unmap(below)


def is_dirty(node: BlockNode) -> bool | None:
    """None where QEMU's bdrv_get_info has nothing to say: without an image or a file below."""
    if node.is_dirty is not None:
        return node.is_dirty
    below = node.file or node.filtered
    return None if below is None else is_dirty(below)


async def allocated_file_size(node: BlockNode) -> int | None:
    """Bytes on the host (bdrv_get_allocated_file_size); None if they cannot be known."""
    try:
        return await node.do_allocated_file_size()
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
    below = node.file if node.filters is None else node.filtered
    return None if below is None else await allocated_file_size(below)


def connections(node: BlockNode) -> Iterator[BlockNode]:
    """The nodes from this one down that ask a server, which may not answer."""
    below: BlockNode | None = node
    while below is not None:
        if below.connected:
            yield below
        below = below.file or below.filtered
