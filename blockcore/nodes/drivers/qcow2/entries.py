# SPDX-License-Identifier: MIT
"""The 64-bit entries of L1 and L2 tables."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import Enum
from typing import Final

COPIED: Final = 1 << 63
"""The flag that the cluster has one reference, and may be written in place."""

COMPRESSED: Final = 1 << 62
"""The flag of a compressed cluster, whose entry has offset and length (`compressed_range`)."""

ZERO: Final = 1 << 0
"""The flag that the guest cluster reads as zeroes, whether it has a cluster or not."""

OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
"""The bits of an entry that are the cluster's offset in the file (L2E_OFFSET_MASK)."""

OFFSET_END: Final = 1 << 56
"""The lowest number above all offsets: COPIED, COMPRESSED and reserved bits are at or above it."""

ENTRY_MASK: Final = (1 << 64) - 1

STRETCH: Final = 512
"""How many entries `used` compares with zeroes at a time.

Larger stretches skip empty parts in fewer steps, but cost more where any entry is set.
"""


class Kind(Enum):
    """The kind of a guest cluster (QCow2ClusterType)."""

    UNALLOCATED = "unallocated"
    ZERO_PLAIN = "zero"
    ZERO_ALLOC = "zero, with a cluster"
    NORMAL = "data"
    COMPRESSED = "compressed"


HAS_CLUSTER: Final = frozenset((Kind.ZERO_ALLOC, Kind.NORMAL, Kind.COMPRESSED))
READS_AS_ZERO: Final = frozenset((Kind.ZERO_PLAIN, Kind.ZERO_ALLOC))


def kind_of(entry: int) -> Kind:
    """Return the kind of an L2 entry (qcow2_get_cluster_type)."""
    if entry & COMPRESSED:
        return Kind.COMPRESSED
    if entry & ZERO:
        return Kind.ZERO_ALLOC if entry & OFFSET_MASK else Kind.ZERO_PLAIN
    return Kind.NORMAL if entry & OFFSET_MASK else Kind.UNALLOCATED


def writable_in_place(entry: int) -> bool:
    """Tell whether data may be written to the entry's cluster, of kind NORMAL or ZERO_ALLOC."""
    return bool(entry & COPIED and entry & OFFSET_MASK and not entry & COMPRESSED)


def compressed_range(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Return offset and length in bytes of an entry's compressed data.

    The data may end earlier: the entry counts sectors of 512 bytes
    (qcow2_parse_compressed_l2_entry).
    """
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry >> shift) & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * 512 - offset % 512


def used(values: array[int]) -> Iterator[tuple[int, int]]:
    """Yield index and value of each entry that is not 0.

    Whole stretches of zeroes are skipped, because large tables are mostly empty.
    """
    zeroes = array(values.typecode, [0]) * STRETCH
    for start in range(0, len(values), STRETCH):
        part = values[start : start + STRETCH]
        if part != zeroes[: len(part)]:
            for index, entry in enumerate(part, start):
                if entry:
                    yield index, entry
