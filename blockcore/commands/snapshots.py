# SPDX-License-Identifier: MIT
"""Snapshots, and the name of the backing file in an image.

Each snapshot command is a transaction of one action, as in QEMU.
"""

from __future__ import annotations

from blockcore.commands import transaction
from blockcore.commands.actions import ActionTable, TransactionAction
from blockcore.machine.graph_changes import changing_graph, set_read_only
from blockcore.machine.machine import Machine
from blockcore.machine.new_image import NewImageMode
from blockcore.machine.snapshot import prepare_snapshot, prepare_snapshot_sync
from blockcore.machine.transaction import Transaction
from blockcore.nodes.graph.chain import chain
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()
actions = ActionTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevSnapshotSync:
    """QAPI's BlockdevSnapshotSync: the node, by its drive or its name, and the new image."""

    device: str | None = None
    node_name: str | None = None
    snapshot_file: str
    snapshot_node_name: str | None = None
    format: str | None = None
    mode: NewImageMode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevSnapshotSyncAction(TransactionAction):
    data: BlockdevSnapshotSync


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevSnapshot:
    """QAPI's BlockdevSnapshot: the node to cover, and the overlay, which has no backing file."""

    node: str
    overlay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevSnapshotAction(TransactionAction):
    data: BlockdevSnapshot


@actions.action("blockdev-snapshot-sync", BlockdevSnapshotSyncAction)
async def _snapshot_sync(
    machine: Machine, action: BlockdevSnapshotSyncAction, under_way: Transaction
) -> None:
    data = action.data
    old = machine.find.node_or_device(data.device, data.node_name)
    await under_way.drain(machine, old)
    # The order of the checks decides which error is given (external_snapshot_action).
    _require_medium(machine, old, data.device or old.node_name)
    old.check_op(BlockOpType.EXTERNAL_SNAPSHOT)
    if data.node_name is not None and data.snapshot_node_name is None:
        raise QmpError("New overlay node-name missing")
    if data.snapshot_node_name is not None and _is_taken(machine, data.snapshot_node_name):
        raise QmpError("New overlay node-name already in use")
    await prepare_snapshot_sync(
        machine,
        under_way,
        old,
        data.snapshot_file,
        data.format or "qcow2",
        data.mode or NewImageMode.ABSOLUTE_PATHS,
        data.snapshot_node_name,
    )


def _require_medium(machine: Machine, node: BlockNode, typed: str) -> None:
    """Raise QmpError if the node has no medium; the message names what the release names.

    `typed` is what the user has typed.
    """
    if not machine.find.is_inserted(node):
        by_drive = machine.qemu.no_medium_names_drive
        raise QmpError(
            f"Device '{node.device_or_node_name if by_drive else typed}' has no medium"
        )


def _is_taken(machine: Machine, name: str) -> bool:
    return machine.find.drive(name) is not None or name in machine.graph.nodes


@actions.action("blockdev-snapshot", BlockdevSnapshotAction)
async def _snapshot(
    machine: Machine, action: BlockdevSnapshotAction, under_way: Transaction
) -> None:
    data = action.data
    old = machine.find.node_or_device(data.node, data.node)
    await under_way.drain(machine, old)
    _require_medium(machine, old, data.node)
    old.check_op(BlockOpType.EXTERNAL_SNAPSHOT)
    overlay = machine.find.node_or_device(data.overlay, data.overlay)
    await prepare_snapshot(machine, under_way, old, overlay)


@table.command("blockdev-snapshot-sync")
async def blockdev_snapshot_sync(
    machine: Machine,
    *,
    device: str | None = None,
    node_name: str | None = None,
    snapshot_file: str,
    snapshot_node_name: str | None = None,
    format: str | None = None,
    mode: NewImageMode | None = None,
) -> None:
    """Let a new image take the place of a drive's root, which becomes its backing file.

    From then on the old root is read-only.  With mode `existing` the image
    exists already.
    """
    data = BlockdevSnapshotSync(
        device=device,
        node_name=node_name,
        snapshot_file=snapshot_file,
        snapshot_node_name=snapshot_node_name,
        format=format,
        mode=mode,
    )
    action = BlockdevSnapshotSyncAction(type="blockdev-snapshot-sync", data=data)
    await transaction.transaction(machine, wanted=[action])


@table.command("blockdev-snapshot")
async def blockdev_snapshot(machine: Machine, *, node: str, overlay: str) -> None:
    """Let a node take the place of another, which becomes its backing file.

    `blockdev-add` has opened the overlay, without a backing file.
    """
    data = BlockdevSnapshot(node=node, overlay=overlay)
    action = BlockdevSnapshotAction(type="blockdev-snapshot", data=data)
    await transaction.transaction(machine, wanted=[action])


@table.command("change-backing-file")
async def change_backing_file(
    machine: Machine, *, device: str, image_node_name: str, backing_file: str
) -> None:
    """Write another backing file name into an image of a drive's chain (qmp_change_backing_file).

    The nodes stay as they are.  The format that is written is that of the
    backing node; QEMU writes the image's own.
    """
    async with changing_graph(machine, device, image_node_name):
        root = machine.find.root_node(device)
        image = machine.find.node_or_device(None, image_node_name)
        if not image.supports_backing or image.backing is None:
            raise QmpError(
                "not allowing backing file change on an image without a backing file"
            )
        root.check_op(BlockOpType.CHANGE)
        if image not in chain(root):
            raise QmpError(f"'{device}' and image file are not in the same chain")
        was_read_only = image.read_only
        if was_read_only:
            await set_read_only(machine, image, False)
        try:
            await _rename_backing(image, image.backing, backing_file)
        finally:
            if was_read_only:
                await set_read_only(machine, image, True)
    machine.graph.refresh_filenames()


async def _rename_backing(image: BlockNode, backing: BlockNode, name: str) -> None:
    try:
        await image.do_change_backing_file(name, backing.driver)
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not change backing file to '{name}': {reason}") from None
