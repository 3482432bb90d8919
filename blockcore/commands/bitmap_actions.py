# SPDX-License-Identifier: MIT
"""The actions of a transaction on dirty bitmaps.

An action makes its change when it is prepared, where later actions see it, and
keeps what undoes it.  Only a removal waits for the commit.
"""

from __future__ import annotations

from blockcore.commands.actions import ActionTable, TransactionAction
from blockcore.commands.bitmaps import (
    BlockDirtyBitmap,
    BlockDirtyBitmapAdd,
    BlockDirtyBitmapMerge,
    add_bitmap,
    find_bitmap,
    find_usable_bitmap,
    merge_bitmaps,
    switch,
)
from blockcore.machine.machine import Machine
from blockcore.machine.transaction import Transaction
from blockcore.qapi.record import dataclass

actions = ActionTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapAddAction(TransactionAction):
    data: BlockDirtyBitmapAdd


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapAction(TransactionAction):
    data: BlockDirtyBitmap


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapMergeAction(TransactionAction):
    data: BlockDirtyBitmapMerge


@actions.action("block-dirty-bitmap-add", BlockDirtyBitmapAddAction)
async def _add(
    machine: Machine, action: BlockDirtyBitmapAddAction, transaction: Transaction
) -> None:
    node, bitmap = await add_bitmap(machine, action.data)
    transaction.on_abort(lambda: node.bitmaps.remove(bitmap))


@actions.action("block-dirty-bitmap-remove", BlockDirtyBitmapAction)
async def _remove(
    machine: Machine, action: BlockDirtyBitmapAction, transaction: Transaction
) -> None:
    """Reserve the bitmap until the commit, which removes it.

    Until then it is there, and busy, so that later actions cannot use it.
    """
    node, bitmap = find_usable_bitmap(machine, action.data.node, action.data.name)
    bitmap.busy = True

    def undo() -> None:
        bitmap.busy = False

    transaction.on_abort(undo)
    transaction.on_commit(lambda: node.bitmaps.remove(bitmap))


@actions.action("block-dirty-bitmap-clear", BlockDirtyBitmapAction)
async def _clear(
    machine: Machine, action: BlockDirtyBitmapAction, transaction: Transaction
) -> None:
    _, bitmap = find_usable_bitmap(machine, action.data.node, action.data.name)
    before = bitmap.bits()
    bitmap.clear()
    transaction.on_abort(lambda: bitmap.restore(before))


@actions.action("block-dirty-bitmap-enable", BlockDirtyBitmapAction)
async def _enable(
    machine: Machine, action: BlockDirtyBitmapAction, transaction: Transaction
) -> None:
    node, bitmap = find_usable_bitmap(machine, action.data.node, action.data.name)
    before = bitmap.enabled
    await switch(machine, node, lambda: node.bitmaps.enable(bitmap))
    transaction.on_abort(lambda: node.bitmaps.enable(bitmap, before))


@actions.action("block-dirty-bitmap-disable", BlockDirtyBitmapAction)
async def _disable(
    machine: Machine, action: BlockDirtyBitmapAction, transaction: Transaction
) -> None:
    node, bitmap = find_usable_bitmap(machine, action.data.node, action.data.name)
    before = bitmap.enabled
    node.bitmaps.enable(bitmap, False)
    transaction.on_abort(lambda: node.bitmaps.enable(bitmap, before))


@actions.action("block-dirty-bitmap-merge", BlockDirtyBitmapMergeAction)
async def _merge(
    machine: Machine, action: BlockDirtyBitmapMergeAction, transaction: Transaction
) -> None:
    _, target = find_bitmap(machine, action.data.node, action.data.target)
    before = target.bits()
    merge_bitmaps(machine, action.data)
    transaction.on_abort(lambda: target.restore(before))
