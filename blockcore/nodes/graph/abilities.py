# SPDX-License-Identifier: MIT
"""Properties of a node that its driver has, or otherwise the child with its data."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from blockcore.nodes.node import BlockNode


def has_zero_init(node: BlockNode) -> bool:
    """Tell whether a new image of this kind reads as zeroes (bdrv_has_zero_init)."""
    if node.has_zero_init:
        return True
    below = node.file or node.filtered
    return below is not None and node.cow is None and has_zero_init(below)


def zeroes_with_unmap(node: BlockNode) -> bool:
    """Tell whether write-zeroes may deallocate (BDRV_REQ_MAY_UNMAP in supported_zero_flags)."""
    if node.zeroes_unmap is not None:
        return node.zeroes_unmap
    below = node.file or node.filtered
    return below is not None and zeroes_with_unmap(below)


def is_dirty(node: BlockNode) -> bool | None:
    """Tell whether the image was not closed properly (bdrv_get_info).

    None if neither the node nor one below it knows: QEMU's function fails there.
    """
    if node.is_dirty is not None:
        return node.is_dirty
    below = node.file or node.filtered
    return None if below is None else is_dirty(below)


async def allocated_file_size(node: BlockNode) -> int | None:
    """Return the bytes occupied on the host, or None if unknown (bdrv_get_allocated_file_size).

    Raises OSError.
    """
    try:
        return await node.do_allocated_file_size()
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
    below = node.file if node.filters is None else node.filtered
    return None if below is None else await allocated_file_size(below)


def connections(node: BlockNode) -> Iterator[BlockNode]:
    """Yield the nodes, from this one down, whose requests a server answers."""
    below: BlockNode | None = node
    while below is not None:
        if below.connected:
            yield below
        below = below.file or below.filtered
