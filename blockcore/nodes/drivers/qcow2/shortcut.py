# SPDX-License-Identifier: MIT
"""The shortcut through an image: guest clusters that have a place in the file, or get one.

What a table says of a cluster is looked at without the lock.  What fills an
image, whole clusters that have no place yet, needs two moments under the big
lock, to register a cluster and to link it; nothing has to be copied or read
for that.  All data is moved by the worker, without a coroutine.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from blockcore.nodes.drivers.qcow2.allocation import Allocation, Allocator
from blockcore.nodes.drivers.qcow2.entries import COPIED, ENTRY_MASK, OFFSET_END, OFFSET_MASK
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.tracking import RequestTracker, TrackedRequest

Region = Callable[[], AbstractContextManager[object]]

Place = tuple[int, int]
"""Offset in the file and length, in bytes."""


class GrowingFile(Protocol):
    """The node with the image's data, of which new clusters are beyond the end."""

    size: int

    def resized(self, size: int) -> None:
        """It is longer now."""


class NewPlaces(Protocol):
    """How to write what has no place in the file yet (`NewClusters`)."""

    def pwrite(self, offset: int, buf: memoryview) -> int:
        """Write all of `buf`; gives where in the file it ended, 0 for the long way."""


class ClusterTranslation:
    """Guest clusters to places in a file, as L2 tables have them.

    `tables` has the entries of tables by ``offset >> table_shift``; it and
    they change under the big lock while workers look.  That is safe because
    an entry changes in one step, and a cluster that lost its entry is not
    used for anything else as long as a slot may be busy with it (`grace`).
    `metadata` are the clusters never to be written.  `below` is how to reach
    the file, `file` the node that grows, `new` what writes where there is no
    cluster, if that can be done here.
    """

    def __init__(
        self,
        tables: Mapping[int, array[int]],
        metadata: Container[int],
        cluster_bits: int,
        below: Way,
        file: GrowingFile,
        new: NewPlaces | None,
    ) -> None:
        self.traces = below.traces
        self._new = new
        self._tables = tables
        self._metadata = metadata
        self._bits = cluster_bits
        self._size = 1 << cluster_bits
        self._within = self._size - 1
        self._table_bits = cluster_bits - 3
        self._index = (1 << (cluster_bits - 3)) - 1
        self._unusual = ENTRY_MASK & ~COPIED & ~(OFFSET_MASK & ~self._within)
        self._fd = below.fd
        self._shift = below.shift
        self._file = file
        self._read_guard = below.read_guard()
        self._write_guard = below.write_guard()

    def pread(self, offset: int, buf: memoryview) -> bool:
        """Read clusters that are plainly there; False if the long way has to do it."""
        length = len(buf)
        host = self._host(offset, length)
        if host and self._read_guard is None:
            return os.preadv(self._fd, (buf,), host + self._shift) == length
        places = self._places(offset, length, 0)
        return places is not None and self._pread_all(places, buf)

    def _pread_all(self, places: list[Place], buf: memoryview) -> bool:
        guard = self._read_guard
        if guard is not None and any(guard(host, length) for host, length in places):
            return False
        done = 0
        for host, length in places:
            if os.preadv(self._fd, (buf[done : done + length],), host + self._shift) != length:
                return False
            done += length
        return True

    def pwrite(self, slot: Slot, offset: int, buf: memoryview) -> bool:
        """Write clusters that are plainly there and nobody else's; False as for `pread`."""
        length = len(buf)
        host = self._host(offset, length)
        if host and self._write_guard is None and host >> self._bits not in self._metadata:
            end = host + length
            if end > self._file.size or os.pwrite(self._fd, buf, host + self._shift) != length:
                return False
        else:
            places = self._places(offset, length, COPIED)
            if places is None:
                end = self._new.pwrite(offset, buf) if self._new is not None else 0
            else:
                end = self._pwrite_all(places, buf)
            if not end:
                return False
        if end > slot.wr_highest_below:
            slot.wr_highest_below = end
        return True

    def _pwrite_all(self, places: list[Place], buf: memoryview) -> int:
        """Return where in the file the highest of them ends; 0 if the long way has to do it."""
        guard, size = self._write_guard, self._file.size
        for host, length in places:
            if host + length > size or (guard is not None and guard(host, length)):
                return 0
        done = 0
        for host, length in places:
            if os.pwrite(self._fd, buf[done : done + length], host + self._shift) != length:
                return 0
            done += length
        return max(sum(place) for place in places)

    def _host(self, offset: int, length: int) -> int:
        """Return where a range is in the file, if it is plain data in one cluster of its own.

        0 if that is not so: `_places` has to look.  Most requests are like
        this, and all that is done for them shows.
        """
        cluster = offset >> self._bits
        table = self._tables.get(cluster >> self._table_bits)
        if table is None:
            return 0
        within = offset & self._within
        # The entry is read once: the next look may find another.  Without COPIED, a plain one is
        # the cluster's offset and nothing else.  With the bit turned over, one comparison finds
        # all that is wrong above the offset: turned on, where nothing had been set, it is
        # beyond OFFSET_END, and so are COMPRESSED and the reserved bits.  ZERO and the reserved
        # bits below are within the cluster's size, as is an offset that is not aligned.
        host = table[cluster & self._index] ^ COPIED
        if host & self._within or not 0 < host < OFFSET_END or within + length > self._size:
            return 0
        return host + within

    def _places(self, offset: int, length: int, needed: int) -> list[Place] | None:
        """Return where a range is in the file, neighbours put together.

        None if some of it is not there as plain data, with the flags `needed`.
        For writes (these need flags) it must not be metadata either.
        """
        places: list[Place] = []
        while True:
            table = self._tables.get(offset >> self._bits >> self._table_bits)
            if table is None:
                return None
            entry = table[(offset >> self._bits) & self._index]
            host = entry & OFFSET_MASK
            if not host or entry & self._unusual or entry & needed != needed:
                return None
            if needed and host >> self._bits in self._metadata:
                return None
            within = offset & self._within
            here = min(length, self._size - within)
            if places and sum(places[-1]) == host:
                places[-1] = places[-1][0], places[-1][1] + here
            else:
                places.append((host + within, here))
            length -= here
            if not length:
                return places
            offset += here


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
        below: Way,
    ) -> None:
        self._region = region
        self._requests = requests
        self._allocator = allocator
        self._file = file
        self._fd = below.fd
        self._traces = below.traces
        self._within = allocator.image.cluster_mask
        self._table_shift = allocator.image.table_shift
        self._guard = below.write_guard()

    def pwrite(self, offset: int, buf: memoryview) -> int:
        """Write all of `buf` to new clusters; gives where in the file it ended.

        0 if the long way has to do it; OSError if the write itself failed.
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
        if self._guard is not None and self._guard(new.host, length):
            self._allocator.end(new, written=False)
            return None
        request = self._requests.tracked(offset, length)
        self._requests.begin(request)
        return new, request

    def _end(self, new: Allocation, request: TrackedRequest, *, written: bool) -> None:
        """Leave the traces of the file's write, and link the clusters if it was done.

        At once, and not when the drive publishes those of its slots: a flush
        that writes the new entries must flush the data first.  Events have
        been raised by the guard, and there are no bitmaps (`Qcow2Node.do_way`).
        """
        end = new.host + (new.count << self._allocator.image.cluster_bits)
        self._traces.reached(end)
        if written and end > self._file.size:
            self._file.resized(end)
        self._allocator.end(new, written=written)
        self._requests.end(request)


def new_clusters(
    region: Region,
    requests: RequestTracker | None,
    allocator: Allocator,
    file: GrowingFile,
    below: Way,
) -> NewClusters | None:
    """Return the way to new clusters, if there may be one; the arguments are `NewClusters`'.

    Not if a rule could wait for an event of an allocation, or for a node that
    stands between, since that may have a length of its own.
    """
    if requests is None or below.has_rules or len(below.traces.nodes) > 1:
        return None
    return NewClusters(region, requests, allocator, file, below)
