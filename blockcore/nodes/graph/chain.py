# SPDX-License-Identifier: MIT
"""Walks down a chain of images: overlays, backing files, and the filters between them."""

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
    """Yield a node, then the node that its data comes from, and so on (bdrv_filter_or_cow_bs)."""
    while node is not None:
        yield node
        node = node.filtered or node.cow


class FrozenChain:
    """The links from `top` down to `base`, kept from changes (bdrv_freeze_backing_chain).

    Raises QmpError if another job has frozen one of the links, or if a node on
    the way must not be frozen because it is about to be removed.
    """

    def __init__(self, top: BlockNode, base: BlockNode) -> None:
        # Nothing is frozen before all links were checked: a refusal leaves no trace.
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
        """Let others change the links again; further calls do nothing."""
        while self._links:
            node, name = self._links.pop()
            node.frozen.discard(name)


def skip_filters(node: BlockNode) -> BlockNode:
    """Return the node itself or, under filters, the first node that is no filter."""
    while node.filtered is not None:
        node = node.filtered
    return node


def skip_implicit_filters(node: BlockNode) -> BlockNode:
    """Return the node itself or, under implicit filters of jobs, the first other node."""
    while node.implicit and node.filtered is not None:
        node = node.filtered
    return node


def backing_chain_next(node: BlockNode) -> BlockNode | None:
    """Return the image below this image, filters left out, or None (bdrv_backing_chain_next)."""
    below = skip_filters(node).cow
    return None if below is None else skip_filters(below)


def find_base(node: BlockNode) -> BlockNode:
    """Return the lowest image of a chain, which may be the node's own (bdrv_find_base)."""
    lowest = skip_filters(node)
    while (below := backing_chain_next(lowest)) is not None:
        lowest = below
    return lowest


def find_overlay(active: BlockNode, node: BlockNode) -> BlockNode | None:
    """Return the image of the chain below `active` that has `node` as its backing file.

    None if there is none (bdrv_find_overlay).
    """
    node = skip_filters(node)
    above: BlockNode | None = skip_filters(active)
    while above is not None and backing_chain_next(above) is not node:
        above = backing_chain_next(above)
    return above


async def find_backing_image(
    node: BlockNode, name: str, path: Callable[[str], str]
) -> BlockNode | None:
    """Return the image below `node` that has the file name `name`, or None.

    Names are compared with the one in the overlay's header; if the overlay has
    another backing file than its header says, with the file name that the image
    itself shows.  Paths in headers are relative to the overlay's directory, and
    equal if they lead to one file; a path without a file matches nothing.  `path`
    makes a name absolute.  (bdrv_find_backing_image.)
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
    """Tell whether `name` means `below`, the backing file of `overlay`."""
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
    """Tell whether the backing node is not the one in the header (bdrv_backing_overridden)."""
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
    """Return whether an image above `base` has a range's beginning, and for how many bytes.

    Bytes beyond the end of an image below `top` read as zeroes, and count as
    allocated there.  The result beyond the end of `top` itself is (False, 0).
    With `include_base`, `base` counts as well.  Raises OSError.
    (bdrv_is_allocated_above.)
    """
    reaches = length  # the part that no image so far has
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
