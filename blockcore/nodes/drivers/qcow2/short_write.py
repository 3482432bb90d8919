# SPDX-License-Identifier: MIT
"""Guests' writes of whole clusters that have none yet, without a coroutine.

The bulk of what fills an image is like this, and nothing has to be copied or
read for it.  Two moments under the big lock register the cluster and link it;
between them a worker thread writes the data, as the short path does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from blockcore.nodes.direct import Counted, Direct, watch
from blockcore.nodes.drivers.qcow2.allocation import Allocation, Allocator
from blockcore.nodes.tracking import RequestTracker, TrackedRequest

Region = Callable[[], AbstractContextManager[object]]


class GrowingFile(Counted, Protocol):
    """The node with the image's data, of which new clusters are beyond the end."""

    def resized(self, size: int) -> None:
        """It is longer now."""


class NewClusters:
    """How a worker writes new clusters to `file`, which `below` says how to reach.

    `region` holds the big lock.  `requests` are those of the image's node,
    which some may have to wait for.
    """

    def __init__(
        self,
        region: Region,
        requests: RequestTracker,
        allocator: Allocator,
        file: GrowingFile,
        below: Direct,
    ) -> None:
        self._region = region
        self._requests = requests
        self._allocator = allocator
        self._file = file
        self._fd = below.fd
        self._within = allocator.image.cluster_mask
        self._table_shift = allocator.image.table_shift
        self._touches = watch(below.write_gate, below.write_passes)

    def pwrite(self, buf: memoryview, offset: int) -> int:
        """Write all of `buf` to new clusters; gives where in the file it ended.

        0 if the long path has to do it; OSError if the write itself failed.
        """
        length = len(buf)
        if offset & self._within or length & self._within:
            return 0
        if offset >> self._table_shift != (offset + length - 1) >> self._table_shift:
            return 0
        with self._region():
            begun = self._begin(offset, length)
        if begun is None:
            return 0
        new, request = begun
        done = 0
        try:
            done = os.pwrite(self._fd, buf, new.host)
        finally:
            with self._region():
                self._end(new, request, written=done == length)
        return new.host + length if done == length else 0

    def _begin(self, offset: int, length: int) -> tuple[Allocation, TrackedRequest] | None:
        if self._requests.serialising:
            return None
        new = self._allocator.begin_at_once(offset, length)
        if new is None:
            return None
        if self._touches is not None and self._touches(new.host, length):
            self._allocator.end(new, written=False)
            return None
        request = self._requests.tracked(offset, length)
        self._requests.begin(request)
        return new, request

    def _end(self, new: Allocation, request: TrackedRequest, *, written: bool) -> None:
        """Leave the traces that the file node's own write would have left.

        At once, and not when the drive counts its short writes: a flush that
        writes the new entries must flush the data first.
        """
        end = new.host + (new.count << self._allocator.image.cluster_bits)
        self._file.wrote_directly(end)
        if written and end > self._file.size:
            self._file.resized(end)
        self._allocator.end(new, written=written)
        self._requests.end(request)


def new_clusters(
    region: Region,
    requests: RequestTracker | None,
    allocator: Allocator,
    file: GrowingFile,
    below: Direct,
) -> NewClusters | None:
    """The way to new clusters, if there may be one; the arguments are as for `NewClusters`.

    Not if a rule could wait for an event of an allocation, or for a node that
    stands between, since that may have a length of its own.
    """
    if requests is None or below.has_rules or len(below.nodes) > 1:
        return None
    return NewClusters(region, requests, allocator, file, below)
