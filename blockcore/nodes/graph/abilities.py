# SPDX-License-Identifier: MIT
"""What a node can do for a job that writes to it, by what is below it."""

from __future__ import annotations

from collections.abc import Iterator

from blockcore.nodes.connected import ConnectedNode
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.nbd import NbdNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.node import BlockNode


def has_zero_init(node: BlockNode) -> bool:
    """Whether a new image of this kind reads as zeroes (bdrv_has_zero_init)."""
    if isinstance(node, FileNode):
        return True
    below = node.file or node.filtered
    return below is not None and node.cow is None and has_zero_init(below)


def zeroes_with_unmap(node: BlockNode) -> bool:
    """Whether write-zeroes can deallocate there (supported_zero_flags, BDRV_REQ_MAY_UNMAP)."""
    if isinstance(node, Qcow2Node):
        return node.header.version >= 3
    if isinstance(node, NbdNode):
        return node.can_zero
    below = node.file or node.filtered
    return node.zeroes_unmap if below is None else zeroes_with_unmap(below)


def connections(node: BlockNode) -> Iterator[ConnectedNode]:
    """The nodes from this one down that ask a server, which may not answer."""
    below: BlockNode | None = node
    while below is not None:
        if isinstance(below, ConnectedNode):
            yield below
        below = below.file or below.filtered
