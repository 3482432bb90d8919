# SPDX-License-Identifier: MIT
"""The first cluster of an image: header, extensions, backing file name.

Pure functions convert bytes to a `Header`, with all of QEMU's checks, and back
(`qcow2_do_open`, `qcow2_read_extensions`, `qcow2_update_header`).  Errors are
QmpErrors in QEMU's words, except those about features that QEMU supports and
this driver does not.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import field
from typing import Final

from blockcore.nodes.drivers.qcow2.extensions import (
    BACKING_FORMAT,
    FEATURE_NAMES,
    FEATURES,
    extensions,
    names_of_features,
    pack,
)
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass

MAGIC: Final = b"QFI\xfb"
SECTOR: Final = 512

# QEMU's limits (block/qcow2.h): MIN_CLUSTER_BITS, MAX_CLUSTER_BITS, QCOW_MAX_L1_SIZE,
# QCOW_MAX_REFTABLE_SIZE.
MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
MAX_L1_BYTES: Final = 32 << 20
MAX_REFTABLE_BYTES: Final = 8 << 20
MAX_BACKING_NAME: Final = 1023

_SNAPSHOT_BYTES: Final = 40
MAX_SNAPSHOT_BYTES: Final = _SNAPSHOT_BYTES << 16
"""Limit of the fixed parts of all entries of the snapshot table (QCOW_MAX_SNAPSHOTS)."""

DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
DATA_FILE: Final = 1 << 2
COMPRESSION_TYPE: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4
LAZY_REFCOUNTS: Final = 1 << 0
"""A bit of the compatible features; the bits above are incompatible features."""

VALID_BITMAPS: Final = 1 << 0
RAW_DATA_FILE: Final = 1 << 1
"""Autoclear bits: a program that does not know such a bit clears it when it writes."""

_QEMUS_INCOMPATIBLE: Final = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

ZLIB: Final = 0
ZSTD: Final = 1

INCOMPATIBLE_AT: Final = 72
AUTOCLEAR_AT: Final = 88
"""Offsets of the fields that are overwritten in place, in bytes."""

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_V2_BYTES: Final = 72
_V3_BYTES: Final = 104
_WRITTEN_BYTES: Final = 112

_NAMED_FROM: Final = 8192
"""Smallest cluster in which the feature name table is written.

QEMU leaves the table out of smaller clusters, which need the room for the backing
file's name.
"""


@dataclass(slots=True, kw_only=True)
class Header:
    """The fields of a header: offsets and `size` in bytes, tables in entries or clusters.

    `extensions` are kept and written back: all but backing format and feature names.
    """

    version: int = 3
    cluster_bits: int = 16
    size: int = 0
    l1_entries: int = 0
    l1_offset: int = 0
    reftable_offset: int = 0
    reftable_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    compression: int = ZLIB
    refcount_order: int = 4
    backing_file: str | None = None
    backing_format: str | None = None
    extensions: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits


def cluster_bits_of(data: bytes) -> int:
    """Return the unchecked number of cluster bits in the first bytes of an image."""
    return int(_V2.unpack_from(data)[4])


def parse_header(data: bytes, *, read_only: bool) -> Header:
    """Parse and check the first cluster of an image; raise QmpError.

    `data` is the first cluster, filled up with zeroes if the file is shorter;
    512 bytes are enough if the size of a cluster is invalid.

    The checks are in the order of qcow2_do_open, because the first failing check
    decides about the message.  The features that only QEMU supports are checked
    last, so that a damaged image gets QEMU's message.
    """
    magic, version, *v2 = _V2.unpack_from(data)
    if magic != MAGIC:
        raise QmpError("Image is not in qcow2 format")
    if version not in (2, 3):
        raise QmpError(f"Unsupported qcow2 version {version}")
    backing_offset, backing_length, cluster_bits, size, crypt, *tables = v2
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        raise QmpError(f"Unsupported cluster size: 2^{cluster_bits}")
    header = Header(version=version, cluster_bits=cluster_bits, size=size // SECTOR * SECTOR)
    header.l1_entries, header.l1_offset = tables[0], tables[1]
    header.reftable_offset, header.reftable_clusters = tables[2], tables[3]
    header.snapshots, header.snapshots_offset = tables[4], tables[5]
    length = _parse_v3(header, data) if version == 3 else _V2_BYTES
    if backing_offset > header.cluster_size:
        raise QmpError("Invalid backing file offset")
    end = backing_offset or header.cluster_size
    _check_compression(header)
    _check_features(header, data[length:end], read_only)
    _check_tables(header, size)
    _parse_extensions(header, data[length:end])
    if header.autoclear & RAW_DATA_FILE and not header.incompatible & DATA_FILE:
        raise QmpError("data-file-raw requires a data file")
    _check_encryption(crypt)
    if backing_offset:
        if backing_length > min(MAX_BACKING_NAME, header.cluster_size - backing_offset):
            raise QmpError("Backing file name too long")
        name = data[backing_offset : backing_offset + backing_length]
        header.backing_file = name.split(b"\0")[0].decode(errors="surrogateescape") or None
    _check_what_is_lacking(header)
    return header


def _parse_v3(header: Header, data: bytes) -> int:
    """Read the fields that version 2 lacks, and return the header's length in bytes."""
    incompatible, compatible, autoclear, order, length = _V3.unpack_from(data, _V2_BYTES)
    header.incompatible, header.compatible = incompatible, compatible
    header.autoclear = autoclear
    if length < _V3_BYTES:
        raise QmpError("qcow2 header too short")
    if length > header.cluster_size:
        raise QmpError("qcow2 header exceeds cluster size")
    header.compression = data[_V3_BYTES] if length > _V3_BYTES else ZLIB
    header.refcount_order = order
    return int(length)


def _parse_extensions(header: Header, data: bytes) -> None:
    for kind, body in extensions(data):
        if kind == BACKING_FORMAT:
            if len(body) >= 16:
                raise QmpError(f"ERROR: ext_backing_format: len={len(body)} too large (>=16)")
            text = body.split(b"\0")[0]
            header.backing_format = text.decode(errors="surrogateescape") or None
        elif kind != FEATURES:
            header.extensions.append((kind, body))


def _check_features(header: Header, extensions: bytes, read_only: bool) -> None:
    """Raise QmpError for unknown incompatible features, listed by name, or a corrupt image.

    Names come from the image's feature name table; bits without a name are shown
    together as one number (report_unsupported_feature).
    """
    unknown = header.incompatible & ~_QEMUS_INCOMPATIBLE
    if unknown:
        names = names_of_features(extensions)
        listed = [name for bit, name in names.items() if unknown >> bit & 1]
        rest = sum(1 << bit for bit in range(64) if unknown >> bit & 1 and bit not in names)
        if rest:
            listed.append(f"Unknown incompatible feature: {rest:x}")
        raise QmpError(f"Unsupported qcow2 feature(s): {', '.join(listed)}")
    if header.incompatible & CORRUPT and not read_only:
        raise QmpError("qcow2: Image is corrupt; cannot be opened read/write")
    if header.refcount_order > 6:
        raise QmpError("Reference count entry width too large; may not exceed 64 bits")


def _check_encryption(crypt: int) -> None:
    if crypt == 1:
        raise QmpError(
            "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators"
        )
    if crypt == 2:
        raise QmpError("LUKS encrypted qcow2 images are not supported")
    if crypt:
        signed = crypt - (1 << 32) * (crypt >> 31)
        raise QmpError(f"Unsupported encryption method {signed}")


def _check_what_is_lacking(header: Header) -> None:
    """Raise QmpError for features that QEMU supports and this driver does not."""
    if header.refcount_order != 4:
        bits = 1 << header.refcount_order
        raise QmpError(f"Reference counts of {bits} bits are not supported, only of 16")
    if header.incompatible & EXTENDED_L2:
        raise QmpError("Extended L2 entries of qcow2 images are not supported")
    if header.incompatible & DATA_FILE:
        raise QmpError("External data files of qcow2 images are not supported")
    if header.snapshots:
        raise QmpError("qcow2 images with internal snapshots are not supported")


def _check_compression(header: Header) -> None:
    if header.compression not in (ZLIB, ZSTD):
        raise QmpError(f"qcow2: unknown compression type: {header.compression}")
    announced = bool(header.incompatible & COMPRESSION_TYPE)
    if announced and header.compression == ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must not be set")
    if not announced and header.compression != ZLIB:
        raise QmpError("qcow2: Compression type incompatible feature bit must be set")


def _check_tables(header: Header, size: int) -> None:
    """Raise QmpError if place or size of a table is impossible (qcow2_validate_table)."""
    cluster = header.cluster_size
    if not header.reftable_clusters:
        raise QmpError("Image does not contain a reference count table")
    what = "Reference count table"
    reftable_bytes = header.reftable_clusters * cluster
    _check_table(what, header.reftable_offset, reftable_bytes, cluster, MAX_REFTABLE_BYTES)
    snapshots = header.snapshots * _SNAPSHOT_BYTES
    _check_table("Snapshot table", header.snapshots_offset, snapshots, cluster, MAX_SNAPSHOT_BYTES)
    l1_bytes = header.l1_entries * 8
    _check_table("Active L1 table", header.l1_offset, l1_bytes, cluster, MAX_L1_BYTES)
    needed = l1_entries_for(size, header.cluster_bits)
    if size < 1 << 63 and needed >= 1 << 31:
        raise QmpError("Image is too big")
    if size < 1 << 63 and header.l1_entries < needed:
        raise QmpError("L1 table is too small")


def _check_table(what: str, offset: int, nbytes: int, cluster: int, limit: int) -> None:
    if nbytes > limit:
        raise QmpError(f"{what} too large")
    if offset % cluster or offset + nbytes >= 1 << 63:
        raise QmpError(f"{what} offset invalid")


def l1_entries_for(size: int, cluster_bits: int) -> int:
    """Return how many L1 entries an image of `size` bytes needs."""
    covered_bits = 2 * cluster_bits - 3
    return (size + (1 << covered_bits) - 1) >> covered_bits


def rewritten_header(header: Header) -> bytes:
    """Return the first cluster of an existing image.

    Raises OSError with QEMU's errno: EINVAL if the backing file's name is too
    long, ENOSPC if the cluster is too small.
    """
    name = (header.backing_file or "").encode(errors="surrogateescape")
    if len(name) > MAX_BACKING_NAME:
        raise failure(errno.EINVAL)
    try:
        return serialize_header(header)
    except QmpError:
        raise failure(errno.ENOSPC) from None


def serialize_header(header: Header) -> bytes:
    """Return the first cluster as QEMU writes it; raise QmpError if it is too small.

    After the fields come the extensions (backing format, feature names, and those
    that the image had), an empty extension as their end, and the backing file's
    name (qcow2_update_header).
    """
    fixed = _V2_BYTES if header.version == 2 else _WRITTEN_BYTES
    tail = pack(BACKING_FORMAT, (header.backing_format or "").encode(errors="surrogateescape"))
    if header.version == 3 and header.cluster_size >= _NAMED_FROM:
        tail += pack(FEATURES, FEATURE_NAMES)
    tail += b"".join(pack(kind, body) for kind, body in header.extensions)
    tail += bytes(8)
    name = (header.backing_file or "").encode(errors="surrogateescape")
    if len(name) > MAX_BACKING_NAME:
        raise QmpError("Backing file name too long")
    v2 = _V2.pack(
        *(MAGIC, header.version, fixed + len(tail) if name else 0, len(name)),
        *(header.cluster_bits, header.size, 0, header.l1_entries, header.l1_offset),
        *(header.reftable_offset, header.reftable_clusters),
        *(header.snapshots, header.snapshots_offset),
    )
    features = header.incompatible, header.compatible, header.autoclear
    v3 = _V3.pack(*features, 4, _WRITTEN_BYTES) + bytes((header.compression,)) + bytes(7)
    data = v2 + (v3 if header.version == 3 else b"") + tail + name
    if len(data) > header.cluster_size:
        raise QmpError("Could not update qcow2 header")
    return data.ljust(header.cluster_size, b"\0")
