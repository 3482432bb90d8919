# SPDX-License-Identifier: MIT
"""The shortcut through an image, for guest clusters that have a place in the file or get one.

Workers call this module without the big lock.  They look up existing clusters in
the L2 tables in memory.  A write of whole clusters that have no place yet, which
is how an image fills, takes the big lock twice for a moment: to register the
clusters and to link them; no old data has to be read for it.  The worker moves
all data itself, without a coroutine.
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
    """The node with the image's file, which grows by new clusters."""

    size: int

    def resized(self, size: int) -> None:
        """Note that the node is `size` bytes long now."""


class NewPlaces(Protocol):
    """The writer of clusters that have no place in the file yet (`NewClusters`)."""

    def pwrite(self, offset: int, buf: memoryview) -> int:
        """Write all of `buf`, and return where it ends in the file; 0: take the long way."""


class ClusterTranslation:
    """The translation of guest offsets to places in the file, by L2 tables in memory.

    `tables` has the entries of L2 tables by ``offset >> table_shift``.  The tables
    change under the big lock while workers look at them.  That is safe because an
    entry changes in one step, and because a cluster that lost its entry is not
    used for anything else while a slot may be busy with it (`grace`).

    `metadata` has the clusters that must not be written.  `below` is the way to the
    file, `file` its node.  `new` writes clusters that have no place yet; None if
    such writes need the long way.

    The long way repeats a request from its beginning.  After a part was done here
    that is right, because reads and writes of equal data can be repeated.
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
        """Read plain data clusters into `buf`; False if the request needs the long way.

        Raises OSError if the read fails.
        """
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
        """Write `buf` to plain data clusters with one reference, or to new clusters.

        Returns False if the request needs the long way, raises OSError if the write
        fails.  The slot notes where the write ended in the file.
        """
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
        """Write `buf` to `places`, and return where the highest ends; 0: take the long way."""
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
        """Return the place of a range within one plain data cluster that has one reference.

        Returns 0 for any other range, which `_places` examines.  Most requests are
        within one such cluster, and every step here costs measurable throughput.
        """
        cluster = offset >> self._bits
        table = self._tables.get(cluster >> self._table_bits)
        if table is None:
            return 0
        within = offset & self._within
        # The entry is read only once, because it may change before a second look.  A plain entry
        # is COPIED and the cluster's offset, nothing else.  Inverting COPIED clears the bit there,
        # and sets it in an entry without it.  One comparison with OFFSET_END then finds COPIED,
        # COMPRESSED and the reserved bits above the offset.  ZERO, the reserved bits below it and
        # an unaligned offset are within the cluster's size.
        host = table[cluster & self._index] ^ COPIED
        if host & self._within or not 0 < host < OFFSET_END or within + length > self._size:
            return 0
        return host + within

    def _places(self, offset: int, length: int, needed: int) -> list[Place] | None:
        """Return the places of a range in the file, with contiguous clusters in one place.

        None if any cluster is not plain data with the flags `needed`: COPIED for
        writes, 0 for reads.  For writes no cluster may be metadata either.  The loop
        reads each entry once, because it may change before a second look.
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
    """The writer of new clusters to `file`, through the way `below`.

    `region` returns a context that holds the big lock.  `requests` are the requests
    of the image's node: serialising ones must see this write, and wait for it.
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
        """Write all of `buf` to new clusters, and return where it ends in the file.

        Returns 0 if the request needs the long way: it is not of whole clusters,
        crosses L2 tables, or its allocation needs I/O.  Raises OSError if the write
        fails.

        Between the two regions other threads run.  The clusters are counted but not
        linked, and the guest clusters are registered as in flight, so other writes
        to them wait, reads find the old entry, and nothing else gets the clusters.
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
            # Without a shift: `new_clusters` allows no node in between that could have one.
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
        """Leave the traces of the write at the file, and link the clusters if `written`.

        The traces do not wait until the drive publishes those of its slots: a flush
        that writes the new entries must know that the file has data to flush first.
        The guard has raised the events, and there are no bitmaps (`Qcow2Node.do_way`).
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
    """Return a `NewClusters` with these arguments, or None if it must not be used.

    It must not if a fault rule below could wait for an event of an allocation, or
    if a node is between image and file: that may have a length and offset of its own.
    """
    if requests is None or below.has_rules or len(below.traces.nodes) > 1:
        return None
    return NewClusters(region, requests, allocator, file, below)
