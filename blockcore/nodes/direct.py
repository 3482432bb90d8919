# SPDX-License-Identifier: MIT
"""How plain I/O of a node may go straight to a file descriptor, for `drive/short_path.py`.

Everything here that moves data is called by guests' worker threads, without
the big lock.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from blockcore.faults.gate import Gate
from blockcore.nodes.file_calls import FileSystem
from blockcore.rules.accounting import Slot
from blockcore.rules.bitmap import DirtyBitmap

_COPIED = 1 << 63
_OFFSETS = 0x00FF_FFFF_FFFF_FE00
_ENTRY = (1 << 64) - 1
_FLAGS = 1 << 56


class Counted(Protocol):
    """A node that direct I/O goes past."""

    size: int

    def wrote_directly(self, highest: int) -> None:
        """Writes have reached the file past the node, up to `highest`."""


@dataclass(slots=True)
class Direct:
    """A node whose I/O may go straight to a file descriptor, which is of a file of `system`.

    `shift` is added to the node's offsets.  The gates hold the ranges that a
    fault rule may concern, in the node's own offsets.  `read_passes` and
    `write_passes` are to be called for each request outside them.  `nodes` are
    those passed on the way, each with its shift, whose counters follow later.
    `bitmaps`, with shifts likewise, record the writes.  `has_rules` says that
    some node has fault rules, which may wait for any event.

    With a `translation`, the shifted offsets are those of a node that maps
    them to places in the file; what is below that node is the translation's.
    """

    fd: int
    system: FileSystem
    read_gate: Gate
    write_gate: Gate
    shift: int = 0
    nodes: list[tuple[Counted, int]] = field(default_factory=list)
    read_passes: list[Callable[[], None]] = field(default_factory=list)
    write_passes: list[Callable[[], None]] = field(default_factory=list)
    bitmaps: list[tuple[DirtyBitmap, int]] = field(default_factory=list)
    has_rules: bool = False
    translation: Translation | None = None

    def shifted(self, by: int) -> Direct:
        """The same, for a parent whose offset 0 is this node's offset `by`."""
        return replace(
            self,
            read_gate=Gate().union(self.read_gate, -by),
            write_gate=Gate().union(self.write_gate, -by),
            shift=self.shift + by,
            nodes=[(node, shift + by) for node, shift in self.nodes],
            bitmaps=[(bitmap, shift + by) for bitmap, shift in self.bitmaps],
        )


def watch(gate: Gate, passes: list[Callable[[], None]]) -> Callable[[int, int], bool] | None:
    """Whether rules may concern a range; whoever wants to know hears of those they do not."""
    if not passes:
        return gate.touches if gate else None

    def touches(offset: int, nbytes: int) -> bool:
        if gate.touches(offset, nbytes):
            return True
        for passing in passes:
            passing()
        return False

    return touches


class NewPlaces(Protocol):
    """How to write what has no place in the file yet (`qcow2.short_write`)."""

    def pwrite(self, buf: memoryview, offset: int) -> int:
        """Write all of `buf`; gives where in the file it ended, 0 for the long path."""


class Translation:
    """Guest clusters to places in a file, as qcow2's L2 tables have them.

    `tables` has the entries of tables by ``offset >> table_shift``; it and
    they change under the big lock while workers look.  That is safe because
    an entry changes in one step, and a cluster that lost its entry is not
    used for anything else as long as a slot may be busy with it
    (`qcow2.grace`).  `metadata` are the clusters never to be written.
    `below` is how to reach the file, `file` the node that grows, `new` what
    writes where there is no cluster, if that can be done here.
    """

    def __init__(
        self,
        tables: Mapping[int, array[int]],
        metadata: Container[int],
        cluster_bits: int,
        below: Direct,
        file: Counted,
        new: NewPlaces | None,
    ) -> None:
        self.nodes = tuple(below.nodes)
        self._new = new
        self._tables = tables
        self._metadata = metadata
        self._bits = cluster_bits
        self._size = 1 << cluster_bits
        self._within = self._size - 1
        self._table_bits = cluster_bits - 3
        self._index = (1 << (cluster_bits - 3)) - 1
        self._unusual = _ENTRY & ~_COPIED & ~(_OFFSETS & ~self._within)
        self._fd = below.fd
        self._shift = below.shift
        self._file = file
        self._read_touches = watch(below.read_gate, below.read_passes)
        self._write_touches = watch(below.write_gate, below.write_passes)

    def pread(self, buf: memoryview, offset: int) -> bool:
        """Read clusters that are plainly there; False if the long path has to do it."""
        length = len(buf)
        host = self._host(offset, length)
        if host and self._read_touches is None:
            return os.preadv(self._fd, (buf,), host + self._shift) == length
        places = self._places(offset, length, 0)
        return places is not None and self._pread_all(places, buf)

    def _pread_all(self, places: list[tuple[int, int]], buf: memoryview) -> bool:
        touches = self._read_touches
        if touches is not None and any(touches(host, length) for host, length in places):
            return False
        done = 0
        for host, length in places:
            if os.preadv(self._fd, (buf[done : done + length],), host + self._shift) != length:
                return False
            done += length
        return True

    def pwrite(self, slot: Slot, buf: memoryview, offset: int) -> bool:
        """Write clusters that are plainly there and nobody else's; False as for `pread`."""
        length = len(buf)
        host = self._host(offset, length)
        if host and self._write_touches is None and host >> self._bits not in self._metadata:
            end = host + length
            if end > self._file.size or os.pwrite(self._fd, buf, host + self._shift) != length:
                return False
        else:
            places = self._places(offset, length, _COPIED)
            if places is None:
                end = self._new.pwrite(buf, offset) if self._new is not None else 0
            else:
                end = self._pwrite_all(places, buf)
            if not end:
                return False
        if end > slot.wr_highest_below:
            slot.wr_highest_below = end
        return True

    def _pwrite_all(self, places: list[tuple[int, int]], buf: memoryview) -> int:
        """Where in the file the highest of them ends; 0 if the long path has to do it."""
        touches, size = self._write_touches, self._file.size
        for host, length in places:
            if host + length > size or (touches is not None and touches(host, length)):
                return 0
        done = 0
        for host, length in places:
            if os.pwrite(self._fd, buf[done : done + length], host + self._shift) != length:
                return 0
            done += length
        return max(sum(place) for place in places)

    def _host(self, offset: int, length: int) -> int:
        """Where a range is in the file if it is plain data in one cluster that is nobody else's.

        0 if that is not so: `_places` has to look.  Most requests are like
        this, and all that is done for them shows.
        """
        cluster = offset >> self._bits
        table = self._tables.get(cluster >> self._table_bits)
        if table is None:
            return 0
        within = offset & self._within
        host = table[cluster & self._index] ^ _COPIED
        if host & self._within or not 0 < host < _FLAGS or within + length > self._size:
            return 0
        return host + within

    def _places(self, offset: int, length: int, needed: int) -> list[tuple[int, int]] | None:
        """Where a range is in the file, offsets and lengths, neighbours put together.

        None if some of it is not there as plain data, with the flags `needed`.
        For writes (these need flags) it must not be metadata either.
        """
        places: list[tuple[int, int]] = []
        while True:
            table = self._tables.get(offset >> self._bits >> self._table_bits)
            if table is None:
                return None
            entry = table[(offset >> self._bits) & self._index]
            host = entry & _OFFSETS
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
