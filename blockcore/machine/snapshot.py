# SPDX-License-Identifier: MIT
"""External snapshots: an overlay takes the place of a node, which becomes its backing file.

(QEMU's `blockdev.c`: external_snapshot_action.)  The functions prepare an action
of a transaction: they do what can fail, and register the rest on it.
"""

from __future__ import annotations

from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.machine.new_image import NewImageMode, opened_like
from blockcore.machine.transaction import Transaction
from blockcore.nodes.driver import BackingFile
from blockcore.nodes.graph.conflicts import needed
from blockcore.nodes.graph.create import create_image_file
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import Perm
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError


async def prepare_snapshot_sync(
    machine: Machine,
    transaction: Transaction,
    old: BlockNode,
    filename: str,
    image_format: str,
    mode: NewImageMode,
    node_name: str | None,
) -> None:
    """Make or open the image `filename` and put it over `old`; raise QmpError.

    `image_format` is the format in which the image is made or opened,
    `node_name` the name of its node (None: one is made up).
    """
    await _prepare_old(machine, old)
    if mode is not NewImageMode.EXISTING:
        backing = BackingFile(old.filename, old.driver)
        graph = machine.graph
        await create_image_file(graph, machine, filename, image_format, old.size, backing)
    overlay = await machine.graph.open(
        opened_like(old, filename, image_format, node_name, read_only=old.read_only)
    )

    async def let_go() -> None:
        """Close the overlay if nothing uses it: after an abort, or if `old` had no user."""
        await machine.graph.release(overlay)

    transaction.on_abort(let_go)
    await put_over(machine, transaction, old, overlay)
    transaction.on_commit(let_go)


async def prepare_snapshot(
    machine: Machine, transaction: Transaction, old: BlockNode, overlay: BlockNode
) -> None:
    """Put a node that exists over `old`; raise QmpError."""
    await _prepare_old(machine, old)
    await put_over(machine, transaction, old, overlay)


async def _prepare_old(machine: Machine, old: BlockNode) -> None:
    old.check_op(BlockOpType.EXTERNAL_SNAPSHOT)
    if not old.read_only:
        try:
            await old.flush()
        except OSError as exc:
            reason = reason_of(exc)
            text = machine.qemu.failed_flush
            raise QmpError(text.format(node=old.device_or_node_name, reason=reason)) from None


async def put_over(
    machine: Machine, transaction: Transaction, old: BlockNode, overlay: BlockNode
) -> None:
    """Let `overlay` take the place of `old`, which becomes its backing file (bdrv_append).

    Raise QmpError if the overlay is in use, is a filter, has a backing file or
    cannot have one.  The change is made at once, and undone if the transaction
    fails; at the commit `old` becomes read-only.
    """
    # The order of the checks is QEMU's (external_snapshot_action): it decides which error is given.
    if needed(overlay)[0] & Perm.CONSISTENT_READ:
        raise QmpError("The overlay is already in use")
    if overlay.filters is not None:
        raise QmpError("Filters cannot be used as overlays")
    if overlay.backing is not None:
        raise QmpError("The overlay already has a backing image")
    if not overlay.supports_backing:
        raise QmpError("The overlay does not support backing images")
    graph = machine.graph
    if overlay in graph.subtree(old):
        raise QmpError(
            f"Making '{old.node_name}' a backing child of '{overlay.node_name}'"
            " would create a cycle"
        )

    async with Relink(graph) as change:
        change.attach(overlay, "backing", old)
        change.replace(old, overlay)

    async def commit() -> None:
        """Make `old` read-only, where it may be (external_snapshot_commit).

        A failure is not reported.  A node that copies on read writes to itself, and has to
        stay writable.
        """
        if old.copies_on_read or old.read_only:
            return
        try:
            await set_read_only(machine, old, True)
        except QmpError:
            return

    transaction.on_abort(change.undo)
    transaction.on_commit(commit)
