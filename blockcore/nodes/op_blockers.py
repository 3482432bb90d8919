# SPDX-License-Identifier: MIT
"""Operations on a node that something forbids as long as it lasts: QEMU's op blockers.

A job blocks all operations on the nodes that it works on, an overlay most of
those on its backing file.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum, auto


class BlockOpType(StrEnum):
    """What commands want to do with a node (BLOCK_OP_TYPE_*)."""

    BACKUP_SOURCE = auto()
    BACKUP_TARGET = auto()
    CHANGE = auto()
    COMMIT_SOURCE = auto()
    COMMIT_TARGET = auto()
    DRIVE_DEL = auto()
    EXTERNAL_SNAPSHOT = auto()
    MIRROR_SOURCE = auto()
    MIRROR_TARGET = auto()
    RESIZE = auto()
    STREAM = auto()
    REPLACE = auto()


ALL_OPS = frozenset(BlockOpType)

ALLOWED_ON_BACKING = frozenset(
    {
        *(BlockOpType.COMMIT_TARGET, BlockOpType.STREAM),
        *(BlockOpType.BACKUP_SOURCE, BlockOpType.BACKUP_TARGET),
    }
)
"""What an overlay does not forbid on its backing file (bdrv_backing_attach)."""


class OpBlockers:
    """What is forbidden on one node, each time with the owner and the reason, newest first."""

    def __init__(self) -> None:
        self._blockers: dict[BlockOpType, list[tuple[object, str]]] = {op: [] for op in BlockOpType}

    def block(self, owner: object, reason: str, ops: Collection[BlockOpType] = ALL_OPS) -> None:
        """Forbid operations; `reason` is what the user is told."""
        for op in ops:
            self._blockers[op].insert(0, (owner, reason))

    def unblock(self, owner: object, ops: Collection[BlockOpType] = ALL_OPS) -> None:
        """The owner does not forbid them any more; others may."""
        for op in ops:
            entries = self._blockers[op]
            self._blockers[op] = [entry for entry in entries if entry[0] is not owner]

    def reason(self, op: BlockOpType) -> str | None:
        """Why an operation is forbidden; None if it is not."""
        entries = self._blockers[op]
        return entries[0][1] if entries else None
