# SPDX-License-Identifier: MIT
"""Clusters that a mirror has to copy as a whole (`block/mirror.c`: cow_bitmap)."""

from __future__ import annotations

from blockcore.nodes.graph.chain import skip_filters
from blockcore.nodes.node import BlockNode
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.ranges import align_down, align_up


class Clusters:
    """The clusters of a target that cannot fill them from below yet; offsets in bytes.

    Each has to be copied as a whole at first, also for a guest's small write, around
    which QEMU leaves zeroes.
    """

    def __init__(self, size: int, cluster: int, granularity: int) -> None:
        self._size = size
        self._cluster = cluster
        self._there = DirtyBitmap(size, min(granularity, cluster))

    def widened(self, offset: int, end: int) -> tuple[int, int]:
        """Return the range, widened to whole clusters if one is missing that it covers in part."""
        cluster = self._cluster
        start, stop = align_down(offset, cluster), min(align_up(end, cluster), self._size)
        if (start, stop) == (offset, end) or self._there.next_clean(offset, end) is None:
            return offset, end
        return start, stop

    def has(self, offset: int, length: int) -> None:
        """Take note that the target has a range now."""
        self._there.set(offset, length)


def clusters_without_backing(target: BlockNode, bitmap: DirtyBitmap) -> Clusters | None:
    """Return the clusters of a target whose backing file is named, but not opened until the end.

    None if the target can fill its clusters from below, or has no backing file.
    """
    image = skip_filters(target)
    if image.backing_file is None or image.cow is not None:
        return None
    return Clusters(bitmap.size, image.cluster_size or 1, bitmap.granularity)
