# SPDX-License-Identifier: MIT
"""Options that a definition leaves out: most are those of the node's parent."""

from __future__ import annotations

from dataclasses import replace

from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.definitions.structs import BlockdevCacheOptions
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import BlockdevDetectZeroesOptions, BlockdevDiscardOptions


def inherit(
    options: BlockdevOptions, parent: NodeOptions | None, node_name: str
) -> NodeOptions:
    """Return a node's options: given, or inherited from `parent` (bdrv_inherited_options).

    A child takes read-only and the cache mode from its parent.  It always unmaps
    unless told otherwise: the node above has decided already which discards to
    pass on.  A node without a parent ignores discards by default.
    """
    cache = options.cache or BlockdevCacheOptions()
    auto = options.auto_read_only
    up = parent or NodeOptions(node_name="")
    unmap = options.discard is BlockdevDiscardOptions.UNMAP
    return NodeOptions(
        node_name=node_name,
        read_only=up.read_only if options.read_only is None else options.read_only,
        auto_read_only=up.auto_read_only if auto is None else auto,
        discard_unmap=parent is not None if options.discard is None else unmap,
        detect_zeroes=options.detect_zeroes or BlockdevDetectZeroesOptions.OFF,
        direct=up.direct if cache.direct is None else cache.direct,
        no_flush=up.no_flush if cache.no_flush is None else cache.no_flush,
    )


def options_for_backing(options: NodeOptions) -> NodeOptions:
    """Return the options that a backing file inherits: its overlay's, but read-only."""
    return replace(options, read_only=True, auto_read_only=False)
