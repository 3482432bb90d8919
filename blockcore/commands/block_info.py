# SPDX-License-Identifier: MIT
"""What drives and nodes are: query-block and query-named-block-nodes."""

from __future__ import annotations

from typing import Any, ClassVar

from blockcore.commands.bitmaps import BlockDirtyInfo, dirty_bitmaps
from blockcore.commands.image_info import ImageInfo, Known, image_info
from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.machine import Machine
from blockcore.nodes.graph.chain import skip_implicit_filters
from blockcore.nodes.node import BlockNode
from blockcore.qapi.events import BlockImageCorrupted
from blockcore.qapi.names import BlockdevDetectZeroesOptions, BlockDeviceIoStatus, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.throttle import Limit

table = CommandTable()
table.event(BlockImageCorrupted)

BUCKET_MEMBERS = {
    "bps": "bps_total",
    "bps_rd": "bps_read",
    "bps_wr": "bps_write",
    "iops": "iops_total",
    "iops_rd": "iops_read",
    "iops_wr": "iops_write",
}
"""QAPI's names of the six limits, and the names of the buckets in `ThrottleConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevCacheInfo:
    writeback: bool
    direct: bool
    no_flush: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDeviceInfo:
    """QAPI's BlockDeviceInfo; limits in bytes and requests per second, lengths in seconds."""

    answer: ClassVar[bool] = True
    wire_names: ClassVar[dict[str, str]] = {
        name: name
        for name in (
            *("backing_file", "backing_file_depth", "detect_zeroes"),
            *("write_threshold", "iops_size"),
            *("bps_rd", "bps_wr", "iops_rd", "iops_wr"),
            *(f"{bucket}_max" for bucket in BUCKET_MEMBERS),
            *(f"{bucket}_max_length" for bucket in BUCKET_MEMBERS),
        )
    }
    file: str
    node_name: str
    ro: bool
    drv: str
    active: bool = True
    backing_file: str | None = None
    backing_file_depth: int = 0
    encrypted: bool = False
    detect_zeroes: BlockdevDetectZeroesOptions
    bps: int = 0
    bps_rd: int = 0
    bps_wr: int = 0
    iops: int = 0
    iops_rd: int = 0
    iops_wr: int = 0
    image: ImageInfo
    bps_max: int | None = None
    bps_rd_max: int | None = None
    bps_wr_max: int | None = None
    iops_max: int | None = None
    iops_rd_max: int | None = None
    iops_wr_max: int | None = None
    bps_max_length: int | None = None
    bps_rd_max_length: int | None = None
    bps_wr_max_length: int | None = None
    iops_max_length: int | None = None
    iops_rd_max_length: int | None = None
    iops_wr_max_length: int | None = None
    iops_size: int | None = None
    group: str | None = None
    cache: BlockdevCacheInfo
    write_threshold: int
    dirty_bitmaps: list[BlockDirtyInfo] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockInfo:
    """QAPI's BlockInfo; `io_status` is there only while a policy can stop the machine."""

    answer: ClassVar[bool] = True
    device: str
    qdev: str | None = None
    type: str = "unknown"
    removable: bool = False
    locked: bool = False
    inserted: BlockDeviceInfo | None = None
    io_status: BlockDeviceIoStatus | None = None


@table.command("query-block")
async def query_block(machine: Machine) -> list[BlockInfo]:
    """Return all drives, in the order in which they were made."""
    known: Known = {}
    # An answer may wait for a file system: the list is copied before.
    return [await _info(blk, known) for blk in list(machine.backends)]


async def _info(blk: BlockBackend, known: Known) -> BlockInfo:
    node = skip_implicit_filters(blk.root)
    return BlockInfo(
        device=blk.name,
        qdev=blk.device.qdev,
        inserted=await device_info(node, blk, known) if node.inserted else None,
        io_status=blk.iostatus if blk.iostatus_enabled else None,
    )


@table.command("query-named-block-nodes")
async def query_named_block_nodes(
    machine: Machine, *, flat: bool = False
) -> list[BlockDeviceInfo]:
    """Return all nodes, the newest first; `flat` leaves out the information on backing images."""
    known: Known = {}
    # QEMU puts each node before those it has listed (bdrv_named_nodes_list).  The list is a copy:
    # an answer may wait for a file system, while nodes come and go.
    nodes = list(reversed(machine.graph.nodes.values()))
    return [await device_info(node, None, known, flat=flat) for node in nodes]


async def device_info(
    node: BlockNode, blk: BlockBackend | None, known: Known, *, flat: bool = False
) -> BlockDeviceInfo:
    """Return what a node is, as seen from a drive, or from none (bdrv_block_device_info).

    Limits are the drive's, and shown only with one.  `known` has the images that
    the command has looked at already.  Raise QmpError if the node has no medium.
    """
    if not node.inserted:
        raise QmpError(f"Block device {node.node_name} is ejected")
    backing = node.cow
    image, depth = await image_info(node, flat=flat, of_drive=blk is not None, known=known)
    return BlockDeviceInfo(
        file=node.filename,
        node_name=node.node_name,
        ro=node.read_only,
        drv=node.driver,
        backing_file=None if backing is None else backing.filename,
        backing_file_depth=depth,
        detect_zeroes=node.options.detect_zeroes,
        image=image,
        cache=BlockdevCacheInfo(
            writeback=blk.writeback if blk is not None else True,
            direct=node.options.direct,
            no_flush=node.options.no_flush,
        ),
        write_threshold=_signed(node.write_threshold),
        dirty_bitmaps=dirty_bitmaps(node),
        **_limits(blk),
    )


def _limits(blk: BlockBackend | None) -> dict[str, Any]:
    if blk is None or blk.throttle is None:
        return {}
    group = blk.throttle.group
    config = group.state.config
    shown: dict[str, Any] = {"group": group.name}
    for member, name in BUCKET_MEMBERS.items():
        limit: Limit = config.buckets[name]
        shown[member] = limit.avg
        if limit.max:
            shown[f"{member}_max"] = limit.max
            shown[f"{member}_max_length"] = limit.length
    if config.iops_size:
        shown["iops_size"] = config.iops_size
    return shown


def _signed(threshold: int) -> int:
    """Return a threshold as the query shows it: as a signed number of 64 bits.

    QAPI has `int` there, and `uint64` in block-set-write-threshold.
    """
    return threshold - (1 << 64) if threshold >= 1 << 63 else threshold
