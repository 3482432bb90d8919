# SPDX-License-Identifier: MIT
"""What drives have done: query-blockstats."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.machine import Machine
from blockcore.nodes.graph.chain import skip_implicit_filters
from blockcore.nodes.node import BlockNode
from blockcore.nodes.specific import BlockStatsSpecificFile
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.accounting import AcctType, BlockAcctStats

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDeviceTimedStats:
    """QAPI's BlockDeviceTimedStats, reduced to its key: no intervals are kept."""

    wire_names: ClassVar[dict[str, str]] = {"interval_length": "interval_length"}
    interval_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDeviceStats:
    """QAPI's BlockDeviceStats: counts, bytes and nanoseconds.

    No device here has zones, so that the members for zones are always 0.
    """

    answer: ClassVar[bool] = True
    wire_names: ClassVar[dict[str, str]] = {
        name: name
        for name in (
            *("rd_bytes", "wr_bytes", "unmap_bytes"),
            *("rd_operations", "wr_operations", "flush_operations", "unmap_operations"),
            *("rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns"),
            *("unmap_total_time_ns", "wr_highest_offset", "idle_time_ns"),
            *("rd_merged", "wr_merged", "unmap_merged"),
            *("failed_rd_operations", "failed_wr_operations"),
            *("failed_flush_operations", "failed_unmap_operations"),
            *("invalid_rd_operations", "invalid_wr_operations"),
            *("invalid_flush_operations", "invalid_unmap_operations"),
            *("account_invalid", "account_failed", "timed_stats"),
            *("zone_append_bytes", "zone_append_operations", "zone_append_merged"),
            *("zone_append_total_time_ns", "failed_zone_append_operations"),
            "invalid_zone_append_operations",
        )
    }
    rd_bytes: int = 0
    wr_bytes: int = 0
    zone_append_bytes: int = 0
    unmap_bytes: int = 0
    rd_operations: int = 0
    wr_operations: int = 0
    zone_append_operations: int = 0
    flush_operations: int = 0
    unmap_operations: int = 0
    rd_total_time_ns: int = 0
    wr_total_time_ns: int = 0
    zone_append_total_time_ns: int = 0
    flush_total_time_ns: int = 0
    unmap_total_time_ns: int = 0
    wr_highest_offset: int = 0
    rd_merged: int = 0
    wr_merged: int = 0
    zone_append_merged: int = 0
    unmap_merged: int = 0
    idle_time_ns: int | None = None
    failed_rd_operations: int = 0
    failed_wr_operations: int = 0
    failed_zone_append_operations: int = 0
    failed_flush_operations: int = 0
    failed_unmap_operations: int = 0
    invalid_rd_operations: int = 0
    invalid_wr_operations: int = 0
    invalid_zone_append_operations: int = 0
    invalid_flush_operations: int = 0
    invalid_unmap_operations: int = 0
    account_invalid: bool = False
    account_failed: bool = False
    timed_stats: list[BlockDeviceTimedStats] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStats:
    """QAPI's BlockStats; `parent` is, despite its name, the child that carries the data."""

    device: str | None = None
    qdev: str | None = None
    node_name: str | None = None
    stats: BlockDeviceStats
    driver_specific: BlockStatsSpecificFile | None = None
    parent: BlockStats | None = None
    backing: BlockStats | None = None


@table.command("query-blockstats")
def query_blockstats(machine: Machine, *, query_nodes: bool = False) -> list[BlockStats]:
    """Return the counters of all drives with the nodes below them, or of all nodes."""
    # `wr_highest_offset` does not know yet of writes that went past the nodes.
    for blk in machine.backends:
        blk.publish_traces()
    if query_nodes:
        return [_node_stats(node) for node in machine.graph.nodes.values()]
    now_ns = machine.clock.monotonic_ns()
    return [
        _node_stats(
            blk.root,
            below_device=True,
            device=blk.name,
            qdev=blk.device.qdev,
            stats=_device_stats(blk.stats(), _highest(blk), now_ns),
        )
        for blk in machine.backends
    ]


def _highest(blk: BlockBackend) -> int:
    return skip_implicit_filters(blk.root).wr_highest_offset


def _node_stats(
    node: BlockNode,
    *,
    below_device: bool = False,
    device: str | None = None,
    qdev: str | None = None,
    stats: BlockDeviceStats | None = None,
) -> BlockStats:
    """Return the counters of a node and of the nodes below it (bdrv_query_bds_stats).

    Below a device backing files are shown, implicit filters are not, and the
    child of another filter is reported twice, as `parent` and as `backing`, as
    QEMU does (recorded: misc-block-commands).
    """
    node = skip_implicit_filters(node) if below_device else node
    data = node.file or node.filtered
    child = None if data is None else _node_stats(data, below_device=below_device)
    backing = None
    if below_device and node.filtered is not None:
        backing = child
    elif below_device and node.cow is not None:
        backing = _node_stats(node.cow, below_device=True)
    return BlockStats(
        device=device,
        qdev=qdev,
        node_name=node.node_name,
        stats=stats or BlockDeviceStats(wr_highest_offset=node.wr_highest_offset),
        driver_specific=node.specific_stats(),
        parent=child,
        backing=backing,
    )


def _device_stats(acct: BlockAcctStats, wr_highest_offset: int, now_ns: int) -> BlockDeviceStats:
    read, write = acct.tallies[AcctType.READ], acct.tallies[AcctType.WRITE]
    flush, unmap = acct.tallies[AcctType.FLUSH], acct.tallies[AcctType.UNMAP]
    return BlockDeviceStats(
        rd_bytes=read.bytes,
        wr_bytes=write.bytes,
        unmap_bytes=unmap.bytes,
        rd_operations=read.operations,
        wr_operations=write.operations,
        flush_operations=flush.operations,
        unmap_operations=unmap.operations,
        rd_total_time_ns=read.time_ns,
        wr_total_time_ns=write.time_ns,
        flush_total_time_ns=flush.time_ns,
        unmap_total_time_ns=unmap.time_ns,
        wr_highest_offset=wr_highest_offset,
        idle_time_ns=now_ns - acct.last_access_ns if acct.last_access_ns else None,
        failed_rd_operations=read.failed,
        failed_wr_operations=write.failed,
        failed_flush_operations=flush.failed,
        failed_unmap_operations=unmap.failed,
        invalid_rd_operations=read.invalid,
        invalid_wr_operations=write.invalid,
        invalid_flush_operations=flush.invalid,
        invalid_unmap_operations=unmap.invalid,
        account_invalid=acct.account_invalid,
        account_failed=acct.account_failed,
    )
