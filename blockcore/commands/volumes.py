# SPDX-License-Identifier: MIT
"""Thin volumes: looking at them, extending them, and the manager that extends them by itself."""

from __future__ import annotations

import os
from typing import Annotated

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import Until, never
from blockcore.machine.machine import Machine
from blockcore.machine.volume_responder import VolumeResponder, make_options
from blockcore.nodes.graph.abilities import allocated_file_size
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errno_types import ERRNO
from blockcore.qapi.events import XVolumeExtended
from blockcore.qapi.names import QmpError, Size, UInt32, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.volume import Volume

table = CommandTable()
table.event(XVolumeExtended)

CHUNK = 2560 << 20
"""The default size of an extension, in bytes (vdsm's volume_utilization_chunk_mb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResponderInfo:
    """A manager at work: where it acts next (bytes), and what it has done."""

    threshold: UInt64
    chunk: Size
    latency_min_ms: UInt32
    latency_max_ms: UInt32
    seed: int
    extensions: int
    resumes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInfo:
    """The volume under a `file` node; sizes in bytes.

    `virtual_size` is what the topmost node above it shows, `allocated` what the
    file occupies on the host.  `wr_highest_offset` is as in query-blockstats, so
    that writes that failed count.  `refusals` counts the requests that did not fit.
    """

    node_name: str
    filename: str
    virtual_size: Size
    physical_size: Size
    allocated: Size
    wr_highest_offset: Size
    extent_size: Size
    short_write: bool
    extensions: int
    refusals: int
    responder: VolumeResponderInfo | None = None


@table.command("x-query-volumes")
async def x_query_volumes(
    machine: Machine, *, node_name: str | None = None
) -> list[VolumeInfo]:
    """Return all volumes of limited physical size, or that of one node (or drive's id)."""
    only = None if node_name is None else _volume_of(machine, node_name)[0]
    # `wr_highest_offset` does not know yet of writes that went past the nodes.
    for blk in machine.backends:
        blk.publish_traces()
    return [
        await _info(machine, node, node.volume)
        for node in list(machine.graph.nodes.values())
        if node.volume is not None and only in (None, node)
    ]


@table.command("x-volume-extend")
async def x_volume_extend(
    machine: Machine,
    *,
    node_name: str,
    size: Size | None = None,
    add: Size | None = None,
    latency_ms: UInt32 = UInt32(0),
    errno: Annotated[int | None, ERRNO] = None,
) -> None:
    """Let a volume grow to `size` bytes, or by `add` bytes, rounded up to whole extents.

    `node-name` also takes a drive's id, and a node above the volume.  The
    reply comes when the extension is done, which takes `latency-ms`.  With an
    `errno` (a number or a name) the extension fails after that time, and the
    volume stays as it is.  Held requests stay held until `cont`.
    """
    node, volume = _volume_of(machine, node_name)
    if (size is None) == (add is None):
        raise QmpError("Need exactly one of 'size' and 'add'")
    if size is not None and volume.rounded(size) < volume.physical_size:
        raise QmpError(f"Volume of node '{node.node_name}' cannot shrink")
    await Until(never, machine.clock.monotonic_ns() + latency_ms * NS_OF_MS)
    if errno:
        raise QmpError(f"Failed to extend volume: {os.strerror(errno)}")
    # The node may have been closed during the wait.
    if node.closed:
        raise QmpError(f"Node '{node.node_name}' not found")
    node.extend_volume(volume.physical_size + (add or 0) if size is None else size)


@table.command("x-volume-responder")
def x_volume_responder(
    machine: Machine,
    *,
    node_name: str,
    enable: bool = True,
    threshold: Size | None = None,
    percent: UInt32 | None = None,
    chunk: Size = Size(CHUNK),
    latency_min_ms: UInt32 = UInt32(0),
    latency_max_ms: UInt32 | None = None,
    seed: int = 0,
) -> None:
    """Let the machine play the storage manager of a volume; `enable` false ends it.

    The manager extends the volume by `chunk` bytes when a write ends less than
    `threshold` bytes below the physical size, or when `percent` of the last
    chunk is in use (20 if neither is given, as with vdsm).  It lets a machine go
    on that has stopped because the volume was full.  Every extension takes
    between `latency-min-ms` and `latency-max-ms` (`latency-min-ms`, if not
    given); `seed` decides how long.  Meanwhile the write threshold of the
    `file` node belongs to the manager.
    """
    node, _ = _volume_of(machine, node_name)
    options = make_options(
        threshold=threshold,
        percent=percent,
        chunk=chunk,
        latency_min_ms=latency_min_ms,
        latency_max_ms=latency_min_ms if latency_max_ms is None else latency_max_ms,
        seed=seed,
    )
    previous = machine.volume_responders.pop(node.node_name, None)
    if previous is not None:
        previous.stop()
    if enable:
        responder = VolumeResponder(machine, node, options)
        machine.volume_responders[node.node_name] = responder
        machine.spawn(responder.run())


def _volume_of(machine: Machine, name: str) -> tuple[BlockNode, Volume]:
    """Return the node with the volume that carries a node's data, and the volume.

    Raise QmpError if there is no volume.
    """
    node: BlockNode | None = machine.find.node_or_device(name, name)
    while node is not None:
        if node.volume is not None:
            return node, node.volume
        node = node.file or node.filtered
    raise QmpError(f"Node '{name}' is not on a volume of limited physical size")


async def _info(machine: Machine, node: BlockNode, volume: Volume) -> VolumeInfo:
    responder = machine.volume_responders.get(node.node_name)
    return VolumeInfo(
        node_name=node.node_name,
        filename=node.filename,
        virtual_size=Size(_topmost(node).size),
        physical_size=Size(volume.physical_size),
        allocated=Size(await allocated_file_size(node) or 0),
        wr_highest_offset=Size(node.wr_highest_offset),
        extent_size=Size(volume.extent_size),
        short_write=volume.short_write,
        extensions=volume.extensions,
        refusals=volume.refusals,
        responder=None if responder is None else _responder_info(responder),
    )


def _topmost(node: BlockNode) -> BlockNode:
    """Return the last of the nodes that carry the data of `node` further up."""
    for parent in node.node_parents:
        if parent.file is node:
            return _topmost(parent)
    return node


def _responder_info(responder: VolumeResponder) -> VolumeResponderInfo:
    options = responder.options
    return VolumeResponderInfo(
        threshold=UInt64(responder.threshold),
        chunk=Size(options.chunk),
        latency_min_ms=UInt32(options.latency_min_ms),
        latency_max_ms=UInt32(options.latency_max_ms),
        seed=options.seed,
        extensions=responder.extensions,
        resumes=responder.resumes,
    )
