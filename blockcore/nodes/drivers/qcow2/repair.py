# SPDX-License-Identifier: MIT
"""Repair of the refcounts of an image that was not closed (qcow2_co_check with BDRV_FIX_ERRORS).

QEMU with lazy refcounts leaves such images behind after a crash: the dirty bit is
set, and refcounts may be too low.  L1 and L2 tables are right, and the counts are
computed from them.

The image is being opened, and no other code uses it: the functions that run
through `Copy`, without the big lock, have its tables to themselves.
"""

from __future__ import annotations

import errno
from array import array

from blockcore.bql.effects import Copy
from blockcore.nodes.drivers.qcow2.entries import (
    COMPRESSED,
    COPIED,
    ENTRY_MASK,
    OFFSET_MASK,
    compressed_range,
    used,
)
from blockcore.nodes.drivers.qcow2.header import DIRTY
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.refcount import MAX_REFCOUNT, Refcounts
from blockcore.nodes.drivers.qcow2.write_back import WriteBack
from blockcore.qapi.errnos import failure

MAX_CLUSTERS = 1 << 28
"""Most clusters of a file that is repaired: counting takes 2 bytes of memory for each."""


async def repair(image: Image, mapping: Mapping, write_back: WriteBack) -> None:
    """Count all references, correct refcounts and COPIED flags, and clear the dirty bit.

    Raises OSError(EIO) if the tables themselves are damaged.
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
    """Return the number of references to each cluster of the file."""
    total = image.clusters(image.file.size)
    if total > MAX_CLUSTERS or image.conflict is not None:
        raise failure(errno.EIO)
    counts = array("H", [0]) * total
    await Copy(_count_metadata, image, counts)
    for number, _ in used(mapping.l1):
        table = await mapping.table(number)
        if table is not None:
            await Copy(_count_table, image, counts, table.values)
    return counts


def _count_metadata(image: Image, counts: array[int]) -> None:
    """Count the clusters that hold metadata; runs without the big lock."""
    for cluster in image.metadata:
        _count(image, counts, cluster << image.cluster_bits, 1)


def _count_table(image: Image, counts: array[int], entries: array[int]) -> None:
    """Count the clusters of an L2 table; runs without the big lock."""
    for entry in entries:
        if entry & COMPRESSED:
            start, length = compressed_range(entry, image.cluster_bits)
            _count(image, counts, start, length)
        elif entry & OFFSET_MASK:
            if entry & OFFSET_MASK & image.cluster_mask:
                raise failure(errno.EIO)
            _count(image, counts, entry & OFFSET_MASK, 1)


def _count(image: Image, counts: array[int], start: int, length: int) -> None:
    """Count a reference to each cluster of a range, offset and length in bytes.

    Raises OSError(EIO) for a cluster beyond the end of the file
    (qcow2_inc_refcounts_imrt).
    """
    first = start >> image.cluster_bits
    for cluster in range(first, ((start + length - 1) >> image.cluster_bits) + 1):
        if cluster >= len(counts) or counts[cluster] == MAX_REFCOUNT:
            raise failure(errno.EIO)
        counts[cluster] += 1


async def _set_counts(counts: array[int], refcounts: Refcounts) -> None:
    """Correct the refcount blocks.

    Raises OSError(EIO) if a block is missing: before the counts are right, no free
    cluster can be found for it.
    """
    per_block = 1 << refcounts.block_bits
    for number in await Copy(_concerned_blocks, counts, refcounts):
        wanted = counts[number * per_block : (number + 1) * per_block]
        block = await refcounts.block(number)
        if block is None:
            if any(wanted):
                raise failure(errno.EIO)
            continue
        wanted.extend([0] * (per_block - len(wanted)))
        if block.values != wanted:
            block.values[:] = wanted
            refcounts.blocks.mark(block)


def _concerned_blocks(counts: array[int], refcounts: Refcounts) -> list[int]:
    """Return the numbers of blocks that exist or are needed; runs without the big lock."""
    per_block = 1 << refcounts.block_bits
    nothing = array("H", [0]) * per_block
    numbers = {number for number, _ in used(refcounts.table)}
    for start in range(0, len(counts), per_block):
        part = counts[start : start + per_block]
        if part != nothing[: len(part)]:
            numbers.add(start // per_block)
    return sorted(numbers)


async def _set_copied(image: Image, mapping: Mapping, counts: array[int]) -> None:
    """Set COPIED in entries whose cluster has one reference, and clear it in all others."""
    for number, entry in used(mapping.l1):
        offset = entry & OFFSET_MASK
        if not offset:
            continue
        right = _flagged(image, counts, entry)
        if right != entry:
            mapping.l1[number] = right
            mapping.l1_changed.add(number)
        table = await mapping.table(number)
        assert table is not None
        if await Copy(_flag_table, image, counts, table.values):
            mapping.tables.mark(table)


def _flag_table(image: Image, counts: array[int], entries: array[int]) -> bool:
    """Correct the flags in an L2 table; return whether any changed.  Runs without the big lock."""
    changed = False
    for index, old in enumerate(entries):
        if old & OFFSET_MASK and not old & COMPRESSED:
            new = _flagged(image, counts, old)
            changed |= new != old
            entries[index] = new
    return changed


def _flagged(image: Image, counts: array[int], entry: int) -> int:
    single = counts[(entry & OFFSET_MASK) >> image.cluster_bits] == 1
    return entry | COPIED if single else entry & ~COPIED & ENTRY_MASK
