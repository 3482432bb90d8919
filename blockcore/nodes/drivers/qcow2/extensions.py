# SPDX-License-Identifier: MIT
"""Header extensions: pieces of data, each with a number that tells its type."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from blockcore.qapi.names import QmpError

_END: Final = 0
BACKING_FORMAT: Final = 0xE2792ACA
FEATURES: Final = 0x6803F857
BITMAPS: Final = 0x23852875

_FEATURES: Final = (
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
)
"""The feature name table that QEMU 7.2 writes: type, bit, name."""

FEATURE_NAMES: Final = b"".join(
    struct.pack(">BB46s", kind, bit, name.encode()) for kind, bit, name in _FEATURES
)


def extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the body of each extension in `data`, up to the end marker.

    Raises QmpError if an extension exceeds `data`.
    """
    at = 0
    while at < len(data):
        kind, length = struct.unpack(">II", data[at : at + 8].ljust(8, b"\0"))
        at += 8
        if length > len(data) - at:
            raise QmpError("Header extension too large")
        if kind == _END:
            break
        yield kind, data[at : at + length]
        at += (length + 7) & ~7


def names_of_features(data: bytes) -> dict[int, str]:
    """Return the image's own names of incompatible features, by bit.

    A damaged extension ends the search without an error: the names only serve a message.
    """
    names: dict[int, str] = {}
    with suppress(QmpError):
        for kind, body in extensions(data):
            if kind == FEATURES:
                for entry in range(0, len(body) - 47, 48):
                    if body[entry] == 0:
                        text = body[entry + 2 : entry + 48].split(b"\0")[0]
                        names[body[entry + 1]] = text.decode(errors="replace")
    return names


def pack(kind: int, body: bytes) -> bytes:
    """Return the bytes of an extension, or none if its body is empty."""
    if not body:
        return b""
    padding = -len(body) % 8
    return struct.pack(">II", kind, len(body)) + body + bytes(padding)
