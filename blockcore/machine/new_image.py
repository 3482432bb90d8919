# SPDX-License-Identifier: MIT
"""Images that commands make or find: overlays, and the targets of jobs."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    BlockdevOptionsGenericCOWFormat,
    BlockdevOptionsProbed,
)
from blockcore.nodes.definitions.structs import BlockdevCacheOptions
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlockdevDiscardOptions, QmpError
from blockcore.qapi.schema import Null

_NO_BACKING = QmpError("Block format 'qcow2' does not support the option 'backing'")


class NewImageMode(StrEnum):
    """Whether a command makes the image or finds it."""

    EXISTING = "existing"
    ABSOLUTE_PATHS = "absolute-paths"


def opened_like(
    node: BlockNode,
    filename: str,
    image_format: str | None,
    node_name: str | None,
    *,
    read_only: bool = False,
    with_backing: bool = False,
) -> BlockdevOptions:
    """The definition of an image with the cache mode of a node, and that discards as it does.

    A backing file is not opened, unless it is to be (BDRV_O_NO_BACKING).
    Without a format it is probed.  QmpError if the name cannot be understood.
    """
    flat = {} if image_format is None else {"driver": image_format}
    flat |= {} if node_name is None else {"node-name": node_name}
    unmap = node.options.discard_unmap
    definition = replace(
        open_options(flat, filename),
        cache=BlockdevCacheOptions(direct=node.options.direct, no_flush=node.options.no_flush),
        read_only=read_only,
        auto_read_only=node.options.auto_read_only,
        discard=BlockdevDiscardOptions.UNMAP if unmap else BlockdevDiscardOptions.IGNORE,
    )
    if with_backing:
        return definition
    if isinstance(definition, BlockdevOptionsProbed):
        given = dict(definition.format_options)
        if given.pop("backing", "") or any(name.startswith("backing.") for name in given):
            raise _NO_BACKING
        return replace(definition, format_options=(*given.items(), ("backing", "")))
    if not isinstance(definition, BlockdevOptionsGenericCOWFormat):
        return definition
    if definition.backing is not None and not isinstance(definition.backing, Null):
        raise _NO_BACKING
    return replace(definition, backing=Null.NULL)
