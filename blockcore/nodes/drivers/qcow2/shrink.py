# SPDX-License-Identifier: MIT
"""The cut of an image's file after the image was made smaller (as qcow2_co_truncate does)."""

from __future__ import annotations

from contextlib import suppress

from blockcore.nodes.drivers.qcow2.entries import used
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.nodes.drivers.qcow2.write_back import WriteBack
from blockcore.qapi.names import QmpError


async def cut_file(image: Image, write_back: WriteBack) -> None:
    """Remove unused refcount blocks, and cut off free clusters at the end of the file.

    The caller holds the image's lock.  Clusters that a request may still be reading
    count as used.  An error of the cut itself is ignored; raises OSError if tables
    cannot be written.
    """
    refcounts = write_back.refcounts
    await write_back.run()
    unused = [n for n, _ in used(refcounts.table) if await _is_unused(refcounts, n)]
    for cluster in await refcounts.remove_blocks(unused):
        write_back.give_back(cluster, 1)
    await write_back.run()
    await image.file.flush()
    end = await _end(refcounts, image.clusters(image.file.size)) << image.cluster_bits
    if end < image.file.size:
        with suppress(OSError, QmpError):
            await image.file.truncate(end)


async def _is_unused(refcounts: Refcounts, number: int) -> bool:
    """Tell whether a block counts nothing, or only itself (qcow2_shrink_reftable)."""
    block = await refcounts.block(number)
    if block is None:
        return False
    cluster = block.offset >> refcounts.image.cluster_bits
    counts_itself = cluster >> refcounts.block_bits == number
    return len(block.values) - block.values.count(0) <= counts_itself


async def _end(refcounts: Refcounts, clusters: int) -> int:
    """Return how many of the first `clusters` clusters there are up to the last used one.

    (qcow2_get_last_cluster.)
    """
    within = ((clusters - 1) >> refcounts.block_bits) + 1
    numbers = [number for number, _ in used(refcounts.table[:within])]
    for number in reversed(numbers):
        block = await refcounts.block(number)
        first = number << refcounts.block_bits
        counts = block.values[: clusters - first] if block else ()
        if any(counts):
            return first + max(index for index, count in enumerate(counts) if count) + 1
    return 0
