# SPDX-License-Identifier: MIT
"""The events that qcow2 raises at its file, for the fault rules that wait for one."""

from __future__ import annotations

from typing import Final

from blockcore.qapi.names import BlkdebugEvent

RAISED: Final = frozenset(
    {
        *(BlkdebugEvent.CLUSTER_ALLOC, BlkdebugEvent.CLUSTER_ALLOC_SPACE),
        *(BlkdebugEvent.CLUSTER_FREE, BlkdebugEvent.COW_READ),
        *(BlkdebugEvent.COW_WRITE, BlkdebugEvent.L1_GROW_ACTIVATE_TABLE),
        *(BlkdebugEvent.L1_GROW_ALLOC_TABLE, BlkdebugEvent.L1_GROW_WRITE_TABLE),
        *(BlkdebugEvent.L1_SHRINK_FREE_L2_CLUSTERS, BlkdebugEvent.L1_SHRINK_WRITE_TABLE),
        *(BlkdebugEvent.L1_UPDATE, BlkdebugEvent.L2_ALLOC_COW_READ),
        *(BlkdebugEvent.L2_ALLOC_WRITE, BlkdebugEvent.L2_LOAD),
        *(BlkdebugEvent.L2_UPDATE, BlkdebugEvent.READ_AIO),
        *(BlkdebugEvent.READ_BACKING_AIO, BlkdebugEvent.READ_COMPRESSED),
        *(BlkdebugEvent.REFBLOCK_ALLOC, BlkdebugEvent.REFBLOCK_ALLOC_HOOKUP),
        *(BlkdebugEvent.REFBLOCK_ALLOC_SWITCH_TABLE, BlkdebugEvent.REFBLOCK_ALLOC_WRITE),
        *(BlkdebugEvent.REFBLOCK_ALLOC_WRITE_TABLE, BlkdebugEvent.REFBLOCK_LOAD),
        *(BlkdebugEvent.REFBLOCK_UPDATE_PART, BlkdebugEvent.REFTABLE_GROW),
        *(BlkdebugEvent.REFTABLE_LOAD, BlkdebugEvent.WRITE_AIO),
    }
)
