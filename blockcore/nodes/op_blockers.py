# SPDX-License-Identifier: MIT
"""Op blockers: operations on a node that a job or an overlay forbids while it exists.

A job blocks all operations on its nodes, an overlay most operations on its
backing file.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum, auto


class BlockOpType(StrEnum):
    """The operations of commands on a node (BLOCK_OP_TYPE_*)."""

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
"""The operations on its backing file that an overlay allows (bdrv_backing_attach)."""


class OpBlockers:
    """The blockers of one node: for each operation owners and reasons, the newest first."""

    def __init__(self) -> None:
        self._blockers: dict[BlockOpType, list[tuple[object, str]]] = {op: [] for op in BlockOpType}

    def block(self, owner: object, reason: str, ops: Collection[BlockOpType] = ALL_OPS) -> None:
        """Forbid operations; `reason` is the text that users get."""
        for op in ops:
            self._blockers[op].insert(0, (owner, reason))

    def unblock(self, owner: object, ops: Collection[BlockOpType] = ALL_OPS) -> None:
        """Remove an owner's blockers of operations; those of other owners stay."""
        for op in ops:
            entries = self._blockers[op]
            self._blockers[op] = [entry for entry in entries if entry[0] is not owner]

    def reason(self, op: BlockOpType) -> str | None:
        """Return why an operation is forbidden, or None if it is allowed."""
        entries = self._blockers[op]
        return entries[0][1] if entries else None
