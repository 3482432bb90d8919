"""Making the refcounts of an image right again that was not closed (qcow2_co_check, to fix).

QEMU with lazy refcounts leaves such images behind: their dirty bit is set, and
refcounts may be too low.  L1 and L2 tables are right; from them the counts are
made anew.
"""

from __future__ import annotations

import errno
import os
from array import array

from blockcore.nodes.qcow2.entries import (
    COMPRESSED,
    COPIED,
    ENTRY_MASK,
    OFFSET_MASK,
    compressed_range,
)
from blockcore.nodes.qcow2.header import DIRTY
from blockcore.nodes.qcow2.image import Image
from blockcore.nodes.qcow2.mapping import Mapping
from blockcore.nodes.qcow2.refcount import MAX_REFCOUNT, Refcounts
from blockcore.nodes.qcow2.write_back import WriteBack

MAX_CLUSTERS = 1 << 28
"""Larger files are not repaired: counting takes 2 bytes per cluster."""


async def repair(image: Image, mapping: Mapping, write_back: WriteBack) -> None:
    """Recount, correct the refcounts and the COPIED flags, clear the dirty bit.

    OSError(EIO) if the tables themselves are damaged.
    """
    await image.lock.free()
    with image.lock.held():
        counts = await _recount(image, mapping)
        await _set_counts(counts, write_back.refcounts)
        await _set_copied(image, mapping, counts)
        await write_back.run()
    await image.file.flush()
    await image.set_incompatible(image.header.incompatible & ~DIRTY)


async def _recount(image: Image, mapping: Mapping) -> array[int]:
    """The number of references to every cluster of the file."""
    total = image.clusters(image.file.size)
    if total > MAX_CLUSTERS or image.conflict is not None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    counts = array("H", [0]) * total
    for cluster in image.metadata:
        _count(image, counts, cluster << image.cluster_bits, 1)
    for number in range(len(mapping.l1)):
        table = await mapping.table(number)
        for entry in table.values if table else ():
            if entry & COMPRESSED:
                start, length = compressed_range(entry, image.cluster_bits)
                _count(image, counts, start, length)
            elif entry & OFFSET_MASK:
                if entry & OFFSET_MASK & image.cluster_mask:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                _count(image, counts, entry & OFFSET_MASK, 1)
    return counts


def _count(image: Image, counts: array[int], start: int, length: int) -> None:
    """Refer to clusters; what is not in the file is damage, as it is for QEMU (inc_refcounts)."""
    first = start >> image.cluster_bits
    for cluster in range(first, ((start + length - 1) >> image.cluster_bits) + 1):
        if cluster >= len(counts) or counts[cluster] == MAX_REFCOUNT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        counts[cluster] += 1


async def _set_counts(counts: array[int], refcounts: Refcounts) -> None:
    """Correct the blocks; OSError(EIO) if one would have to be made, for where is there room?"""
    per_block = 1 << refcounts.block_bits
    described = -(-len(counts) // per_block)
    for number in range(max(described, len(refcounts.table))):
        wanted = counts[number * per_block : (number + 1) * per_block]
        block = await refcounts.block(number)
        if block is None:
            if any(wanted):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            continue
        wanted.extend([0] * (per_block - len(wanted)))
        if block.values != wanted:
            block.values[:] = wanted
            refcounts.blocks.mark(block)


async def _set_copied(image: Image, mapping: Mapping, counts: array[int]) -> None:
    """COPIED belongs to entries whose cluster has one reference, and to no other."""
    for number, entry in enumerate(mapping.l1):
        offset = entry & OFFSET_MASK
        if not offset:
            continue
        right = _flagged(image, counts, entry)
        if right != entry:
            mapping.l1[number] = right
            mapping.l1_changed.add(number)
        table = await mapping.table(number)
        assert table is not None
        for index, old in enumerate(table.values):
            if old & OFFSET_MASK and not old & COMPRESSED:
                new = _flagged(image, counts, old)
                if new != old:
                    table.values[index] = new
                    mapping.tables.mark(table)


def _flagged(image: Image, counts: array[int], entry: int) -> int:
    single = counts[(entry & OFFSET_MASK) >> image.cluster_bits] == 1
    return entry | COPIED if single else entry & ~COPIED & ENTRY_MASK
