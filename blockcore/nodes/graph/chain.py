# SPDX-License-Identifier: MIT
"""Walking down a chain of images: overlays, what they are on, and filters between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import takewhile

from blockcore.bql.effects import LaneCall
from blockcore.nodes.driver import OPENING
from blockcore.nodes.graph.backing import backing_name, has_protocol
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError


def chain(node: BlockNode | None) -> Iterator[BlockNode]:
    """A node and everything that its data comes from in turn (bdrv_filter_or_cow_bs)."""
    while node is not None:
        yield node
        node = node.filtered or node.cow


class FrozenChain:
    """Keeps the links from `top` down to `base` as they are (bdrv_freeze_backing_chain).

    QmpError if another job does so, or if one of the nodes is going to go.
    """

    def __init__(self, top: BlockNode, base: BlockNode) -> None:
        nodes = takewhile(lambda node: node is not base, chain(top))
        self._links = [(node, node.filters or "backing") for node in nodes if node.children]
        for node, name in self._links:
            if name in node.frozen:
                child = node.children[name].node_name
                raise QmpError(f"Cannot change '{name}' link from '{node.node_name}' to '{child}'")
        for node, name in self._links:
            if name in node.children and node.children[name].never_frozen:
                child = node.children[name].node_name
                raise QmpError(f"Cannot freeze '{name}' link to '{child}'")
        for node, name in self._links:
            node.frozen.add(name)

    def thaw(self) -> None:
        """Let others change them; once is enough."""
        while self._links:
            node, name = self._links.pop()
            node.frozen.discard(name)


def skip_filters(node: BlockNode) -> BlockNode:
    """The node itself, or the first one under it that is no filter."""
    while node.filtered is not None:
        node = node.filtered
    return node


def skip_implicit_filters(node: BlockNode) -> BlockNode:
    """The same for filters that the user has not asked for."""
    while node.implicit and node.filtered is not None:
        node = node.filtered
    return node


def backing_chain_next(node: BlockNode) -> BlockNode | None:
    """The image under this image, filters left out."""
    below = skip_filters(node).cow
    return None if below is None else skip_filters(below)


def find_base(node: BlockNode) -> BlockNode:
    """The lowest image of a chain, which may be the node's own (bdrv_find_base)."""
    lowest = skip_filters(node)
    while (below := backing_chain_next(lowest)) is not None:
        lowest = below
    return lowest


def find_overlay(active: BlockNode, node: BlockNode) -> BlockNode | None:
    """The image of the chain from `active` on that is on `node` (bdrv_find_overlay)."""
    node = skip_filters(node)
    above: BlockNode | None = skip_filters(active)
    while above is not None and backing_chain_next(above) is not node:
        above = backing_chain_next(above)
    return above


async def find_backing_image(
    node: BlockNode, name: str, path: Callable[[str], str]
) -> BlockNode | None:
    """The image under `node` that goes by a name, in its overlay or by itself.

    What the overlay says counts unless it is on something else; names of files
    are those of the same file, relative to the overlay's, which `path` makes
    absolute: one that does not exist there is not found.
    (bdrv_find_backing_image.)
    """
    above: BlockNode | None = skip_filters(node)
    while above is not None:
        below = backing_chain_next(above)
        if below is not None and await _goes_by(above, below, name, path):
            return below
        above = below
    return None


async def _goes_by(
    overlay: BlockNode, below: BlockNode, name: str, path: Callable[[str], str]
) -> bool:
    if not overlay.supports_backing or is_overridden(overlay):
        return name == below.filename
    if overlay.backing_file is None:
        return False
    said = overlay.backing_file.name
    try:
        full = [backing_name(overlay, one) for one in (name, said)]
    except QmpError:
        return has_protocol(name) and name == said
    if has_protocol(name) or has_protocol(said):
        return name in (said, full[1])
    same: bool = await LaneCall(OPENING, _is_same_file, *map(path, full))
    return same


def _is_same_file(*names: str) -> bool:
    try:
        return len({os.path.realpath(name, strict=True) for name in names}) == 1
    except OSError:
        return False


def is_overridden(node: BlockNode) -> bool:
    """Whether an image is on another than it says (bdrv_backing_overridden)."""
    if node.backing is None:
        return node.backing_file is not None
    return node.auto_backing_file != node.backing.filename


async def is_allocated_above(
    top: BlockNode | None,
    base: BlockNode | None,
    offset: int,
    length: int,
    *,
    include_base: bool = False,
) -> tuple[bool, int]:
    """Whether the beginning of a range is in an image above `base`, and how much of it.

    (bdrv_is_allocated_above.)  What is beyond the end of an image in the
    chain reads as zeroes, and counts as allocated there.  (False, 0) beyond
    the end of `top` itself.  Raises OSError.
    """
    reaches = length
    for node in chain(top):
        if node is base and not include_base:
            break
        if node.filtered is None:
            there = node.size - offset
            if there <= 0:
                return node is not top, 0 if node is top else reaches
            allocated, known = await node.is_allocated(offset, min(reaches, there))
            if allocated:
                return True, known
            reaches = min(reaches, known)
        if node is base:
            break
    return False, reaches
