# SPDX-License-Identifier: MIT
"""Compressed clusters, which this driver only reads."""

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
"""From compressed data, followed by anything, to a cluster of so many bytes; or OSError(EIO)."""


def inflater(compression: int) -> Inflate:
    """What decompresses an image's clusters; QmpError if this installation cannot."""
    if compression == ZLIB:
        return _inflate_zlib
    if zstandard is None:
        raise QmpError(
            "The image is compressed with zstd, which needs the Python package 'zstandard'"
        )
    return _inflate_zstd


def _inflate_zlib(data: bytes, size: int) -> bytes:
    """Raw deflate in a window of 4 KiB."""
    try:
        cluster = zlib.decompressobj(-12).decompress(data, size)
    except zlib.error:
        raise _damaged() from None
    if len(cluster) != size:
        raise _damaged()
    return cluster


def _inflate_zstd(data: bytes, size: int) -> bytes:
    """One or more frames; what follows them, or would be more than a cluster, is not looked at."""
    try:
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
