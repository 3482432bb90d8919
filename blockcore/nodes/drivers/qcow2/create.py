# SPDX-License-Identifier: MIT
"""Creation of an empty image (qcow2_co_create), as `qemu-img create` makes it."""

from __future__ import annotations

from array import array

from blockcore.nodes.drivers.qcow2.header import (
    LAZY_REFCOUNTS,
    MAX_CLUSTER_BITS,
    MAX_L1_BYTES,
    MIN_CLUSTER_BITS,
    SECTOR,
    Header,
    l1_entries_for,
    serialize_header,
)
from blockcore.nodes.drivers.qcow2.tables import REFBLOCK_TYPE, to_disk
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError
from blockcore.rules.ranges import align_up

DEFAULT_CLUSTER_SIZE = 65536


async def create_image(
    file: BlockNode,
    size: int,
    *,
    cluster_size: int = DEFAULT_CLUSTER_SIZE,
    version: int = 3,
    lazy_refcounts: bool = False,
    backing_file: str | None = None,
    backing_format: str | None = None,
) -> None:
    """Create an image of `size` bytes, rounded up to sectors, in an open and empty `file`.

    The name and format of the backing file go into the header as they are; it is
    not opened.  Raises QmpError in QEMU's words, or OSError if the flush fails.
    """
    header = _new_header(size, cluster_size, version, lazy_refcounts)
    header.backing_file, header.backing_format = backing_file, backing_format
    per_block = cluster_size // 2
    l1_bytes = header.l1_entries * 8
    l1_clusters = -(-l1_bytes // cluster_size)
    # Refcount table and blocks count themselves: their number grows until it suffices.
    blocks = table = 0
    while (total := 1 + table + blocks + l1_clusters) > blocks * per_block or not table:
        blocks = -(-total // per_block)
        table = -(-blocks * 8 // cluster_size)
    header.reftable_offset, header.reftable_clusters = cluster_size, table
    first_block = (1 + table) * cluster_size
    header.l1_offset = first_block + blocks * cluster_size if l1_bytes else 0
    data = serialize_header(header)
    entries = array("Q", (first_block + number * cluster_size for number in range(blocks)))
    data += to_disk(entries).ljust(table * cluster_size, b"\0")
    counts = array(REFBLOCK_TYPE, [1] * total + [0] * (blocks * per_block - total))
    data += to_disk(counts)
    # The header comes last: an unfinished file is not recognised as an image.
    await _write(file, cluster_size, data[cluster_size:], "refcount table")
    if l1_bytes:
        await _write(file, header.l1_offset, bytes(l1_bytes), "L1 table")
    await _write(file, 0, data[:cluster_size], "qcow2 header")
    await file.flush()


async def _write(file: BlockNode, offset: int, data: bytes, what: str) -> None:
    try:
        await file.pwrite(offset, memoryview(data))
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not write {what}: {reason}") from None


def _new_header(size: int, cluster_size: int, version: int, lazy_refcounts: bool) -> Header:
    bits = cluster_size.bit_length() - 1
    if cluster_size != 1 << bits or not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
        raise QmpError("Cluster size must be a power of two between 512 and 2048k")
    if lazy_refcounts and version < 3:
        raise QmpError(
            "Lazy refcounts only supported with compatibility level 1.1 and above"
            " (use version=v3 or greater)"
        )
    size = align_up(size, SECTOR)
    entries = l1_entries_for(size, bits)
    if entries * 8 > MAX_L1_BYTES:
        raise QmpError(
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
        )
    return Header(
        version=version,
        cluster_bits=bits,
        size=size,
        l1_entries=entries,
        compatible=LAZY_REFCOUNTS if lazy_refcounts else 0,
    )
