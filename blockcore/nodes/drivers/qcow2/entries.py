# SPDX-License-Identifier: MIT
"""The entries of L1 and L2 tables, 64 bits each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import Enum
from typing import Final

COPIED: Final = 1 << 63
"""Nothing else refers to the cluster: it may be written in place."""

COMPRESSED: Final = 1 << 62
ZERO: Final = 1 << 0
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
OFFSET_END: Final = 1 << 56
"""Offsets are below; `COPIED`, `COMPRESSED` and the reserved bits above them are not."""

ENTRY_MASK: Final = (1 << 64) - 1

STRETCH: Final = 512
"""Entries of a table that are looked at in one go, where most are 0."""


class Kind(Enum):
    """What a guest cluster is (QCow2ClusterType)."""

    UNALLOCATED = "unallocated"
    ZERO_PLAIN = "zero"
    ZERO_ALLOC = "zero, with a cluster"
    NORMAL = "data"
    COMPRESSED = "compressed"


HAS_CLUSTER: Final = frozenset((Kind.ZERO_ALLOC, Kind.NORMAL, Kind.COMPRESSED))
READS_AS_ZERO: Final = frozenset((Kind.ZERO_PLAIN, Kind.ZERO_ALLOC))


def kind_of(entry: int) -> Kind:
    """The kind of an L2 entry (qcow2_get_cluster_type)."""
    if entry & COMPRESSED:
        return Kind.COMPRESSED
    if entry & ZERO:
        return Kind.ZERO_ALLOC if entry & OFFSET_MASK else Kind.ZERO_PLAIN
    return Kind.NORMAL if entry & OFFSET_MASK else Kind.UNALLOCATED


def writable_in_place(entry: int) -> bool:
    """Whether a write may go to the entry's cluster, with or without clearing its ZERO flag."""
    return bool(entry & COPIED and entry & OFFSET_MASK and not entry & COMPRESSED)


def compressed_range(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Where the compressed data of an entry lies: offset and length in bytes."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry >> shift) & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * 512 - offset % 512


def used(values: array[int]) -> Iterator[tuple[int, int]]:
    """The entries that are not 0, and their indices; tables of millions are mostly empty."""
    zeroes = array(values.typecode, [0]) * STRETCH
    for start in range(0, len(values), STRETCH):
        part = values[start : start + STRETCH]
        if part != zeroes[: len(part)]:
            for index, entry in enumerate(part, start):
                if entry:
                    yield index, entry
