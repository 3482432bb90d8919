# SPDX-License-Identifier: MIT
"""Changing drives and nodes: size, limits, thresholds, policies; adding and removing nodes."""

from __future__ import annotations

from typing import Annotated

from blockcore.commands.block_info import BUCKET_MEMBERS
from blockcore.machine import graph_changes
from blockcore.machine.drain import Drain
from blockcore.machine.graph_changes import changing_graph, reopen_nodes, using
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BLOCKDEV_OPTIONS, BlockdevOptions
from blockcore.nodes.graph.changing import references
from blockcore.nodes.graph.reopen import asked_changes
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import Perm
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.events import BlockWriteThreshold
from blockcore.qapi.names import QmpError, UInt64
from blockcore.qapi.schema import CommandTable
from blockcore.rules.throttle import Limit, ThrottleConfig

table = CommandTable()

MAX_LENGTH = (1 << 63) - (1 << 30)
"""The largest size of a node, in bytes (BDRV_MAX_LENGTH)."""
table.event(BlockWriteThreshold)


@table.command("block_resize", wire_names={"node_name": "node-name"})
async def block_resize(
    machine: Machine, *, device: str | None = None, node_name: str | None = None, size: int
) -> None:
    """Change the size of a node to `size` bytes; growing is sparse, shrinking loses data.

    The drives above are drained meanwhile.  An NBD client learns the new size
    when it connects again: the protocol has no message for it.
    """
    async with changing_graph(machine, device, node_name):
        node = machine.find.node_or_device(device, node_name)
        if size < 0:
            raise QmpError("Parameter 'size' expects a >0 size")
        if not machine.qemu.resize_names_blocker and node.op_blockers.reason(BlockOpType.RESIZE):
            raise QmpError(f"Device '{device or node_name}' is in use")
        node.check_op(BlockOpType.RESIZE)
        async with Drain(machine, [node]):
            await _resize(node, size)


async def _resize(node: BlockNode, size: int) -> None:
    with using(node, Perm.RESIZE):
        if node.read_only:
            raise QmpError("Image is read-only")
        if size > MAX_LENGTH:
            raise QmpError(f"offset({size}) exceeds maximum({MAX_LENGTH})")
        try:
            await node.truncate(size)
        except OSError as exc:
            reason = reason_of(exc)
            raise QmpError(f"Could not resize file: {reason}") from None


@table.command("block-set-write-threshold")
def block_set_write_threshold(
    machine: Machine, *, node_name: str, write_threshold: UInt64
) -> None:
    """Send BLOCK_WRITE_THRESHOLD once, when a write ends beyond this offset in bytes; 0: never."""
    node = machine.graph.nodes.get(node_name)
    if node is None:
        raise QmpError(f"Device '{node_name}' not found")
    node.set_write_threshold(write_threshold)


@table.command("block_set_io_throttle", underscores=True)
def block_set_io_throttle(
    machine: Machine,
    *,
    device: str | None = None,
    id: str | None = None,
    bps: int,
    bps_rd: int,
    bps_wr: int,
    iops: int,
    iops_rd: int,
    iops_wr: int,
    bps_max: int | None = None,
    bps_rd_max: int | None = None,
    bps_wr_max: int | None = None,
    iops_max: int | None = None,
    iops_rd_max: int | None = None,
    iops_wr_max: int | None = None,
    bps_max_length: int | None = None,
    bps_rd_max_length: int | None = None,
    bps_wr_max_length: int | None = None,
    iops_max_length: int | None = None,
    iops_rd_max_length: int | None = None,
    iops_wr_max_length: int | None = None,
    iops_size: int | None = None,
    group: str | None = None,
) -> None:
    """Limit a drive, together with all others of its group, in bytes and requests per second.

    The drive stays in its group unless another is named; a drive without a group
    gets one of its own name.  All zero takes the drive out of its group.  Lengths
    are seconds of burst at the `max` rate.
    """
    # All parameters by name: this comes first, while there are no other local names.
    given = dict(locals())
    blk = machine.find.drive_or_qdev(device, id)
    config = ThrottleConfig(
        iops_size=iops_size or 0,
        **{
            name: Limit(
                avg=given[member],
                max=given[f"{member}_max"] or 0,
                length=_or(given[f"{member}_max_length"], 1),
            )
            for member, name in BUCKET_MEMBERS.items()
        },
    )
    config.validate()
    own = device or id or "" if blk.throttle is None else blk.throttle.group.name
    machine.set_throttle(blk, config, own if group is None else group)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


@table.command("blockdev-add", boxed=True)
async def blockdev_add(
    machine: Machine, *, options: Annotated[BlockdevOptions, BLOCKDEV_OPTIONS]
) -> None:
    """Open a node, as `-blockdev` does; it stays until `blockdev-del`."""
    async with changing_graph(machine, *references(options)):
        await graph_changes.blockdev_add(machine, options)


@table.command("blockdev-del")
async def blockdev_del(machine: Machine, *, node_name: str) -> None:
    """Close a node that `blockdev-add` has opened and that has no user."""
    async with changing_graph(machine, node_name):
        await graph_changes.blockdev_del(machine, node_name)


@table.command("blockdev-reopen")
async def blockdev_reopen(
    machine: Machine, *, options: list[Annotated[BlockdevOptions, BLOCKDEV_OPTIONS]]
) -> None:
    """Give nodes other options; an option that is not given has its default again.

    If `file` or `backing` names another node, that node replaces the child.
    """
    names = [name for one in options for name in (one.node_name, *references(one))]
    async with changing_graph(machine, *names):
        await reopen_nodes(machine, asked_changes(machine.graph, options))
