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
    """Whether a command makes the image or finds it there.  QAPI's NewImageMode."""

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
    """Return the definition of an image that is opened with the cache mode and discards of `node`.

    The image's backing file is not opened, unless `with_backing` (BDRV_O_NO_BACKING).
    Without `image_format` the format is probed.  Raise QmpError if `filename`
    cannot be understood, or names a backing file although `with_backing` is not set.
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
    # What follows says "no backing file", in the form that each kind of definition has for it:
    # a probed one passes options on to the format that is found; a format without backing files
    # needs nothing.  A `json:` file name that names a backing file contradicts it.
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
