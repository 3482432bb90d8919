# SPDX-License-Identifier: MIT
"""Extensions of the header: pieces of data, each with a number that says what it is."""

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
    """All extensions in `data`, which they need not fill; QmpError if one is longer than that."""
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
    """Of incompatible ones, by their bits, as far as the extensions can be understood."""
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
    """One extension; an empty one is left out."""
    if not body:
        return b""
    padding = -len(body) % 8
    return struct.pack(">II", kind, len(body)) + body + bytes(padding)
