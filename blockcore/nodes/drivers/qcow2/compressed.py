# SPDX-License-Identifier: MIT
"""Decompression of clusters; this driver does not write compressed ones."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable

from blockcore.nodes.drivers.qcow2.header import ZLIB
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError

try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

Inflate = Callable[[bytes, int], bytes]
"""A function that takes compressed data and a cluster's size, and returns the cluster.

The data may be followed by anything.  Raises OSError(EIO) if it is damaged.
"""


def inflater(compression: int) -> Inflate:
    """Return the function that decompresses an image's clusters.

    Raises QmpError if the package for zstd is not installed.
    """
    if compression == ZLIB:
        return _inflate_zlib
    if zstandard is None:
        raise QmpError(
            "The image is compressed with zstd, which needs the Python package 'zstandard'"
        )
    return _inflate_zstd


def _inflate_zlib(data: bytes, size: int) -> bytes:
    """Decompress raw deflate data with a window of 4 KiB (qcow2_zlib_decompress)."""
    try:
        cluster = zlib.decompressobj(-12).decompress(data, size)
    except zlib.error:
        raise _damaged() from None
    if len(cluster) != size:
        raise _damaged()
    return cluster


def _inflate_zstd(data: bytes, size: int) -> bytes:
    """Decompress one or more zstd frames, up to a cluster's size (qcow2_zstd_decompress)."""
    try:
        # The window is limited as in libzstd's default (ZSTD_WINDOWLOG_LIMIT_DEFAULT).
        frames = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        with frames.stream_reader(data, read_across_frames=True) as reader:
            cluster: bytes = reader.read(size)
    except zstandard.ZstdError:
        raise _damaged() from None
    if len(cluster) != size:
        raise _damaged()
    return cluster


def _damaged() -> OSError:
    return failure(errno.EIO)
