# SPDX-License-Identifier: MIT
"""Recognition of a format by the first bytes of a file (bdrv_probe_all)."""

from __future__ import annotations

import re
from typing import Final

from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError

PROBE_BYTES: Final = 512
"""How many bytes are looked at (BLOCK_PROBE_BUF_SIZE)."""

# What QEMU's drivers look for in their bdrv_probe; a format that this program lacks counts too.
_MAGICS: Final = (
    (0, b"QFI\xfb\0\0\0\1", "qcow"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"LUKS\xba\xbe\0\1", "luks"),
    (0, b"WithoutFreeSpace\2\0\0\0", "parallels"),
    (0, b"WithouFreSpacExt\2\0\0\0", "parallels"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)

_QCOW2: Final = re.compile(rb"QFI\xfb(?!\0\0\0[\0\1])", re.DOTALL)
_VMDK_TEXT: Final = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")
_BOCHS: Final = re.compile(
    rb"Bochs Virtual HD Image\0.{9}Redolog\0.{8}Growing\0.{8}\0\0[\1\2]\0", re.DOTALL
)
_PATTERNS: Final = ((_QCOW2, "qcow2"), (_VMDK_TEXT, "vmdk"), (_BOCHS, "bochs"))


def format_of(data: bytes | bytearray) -> str:
    """Return the format that the first `PROBE_BYTES` of a file show; raw if they show none."""
    for offset, magic, name in _MAGICS:
        if data[offset : offset + len(magic)] == magic:
            return name
    for pattern, name in _PATTERNS:
        if pattern.match(data):
            return name
    return "raw"


async def probe(file: BlockNode) -> str:
    """Return the format of the data in a node; raise QmpError if it cannot be read."""
    data = bytearray(min(file.size, PROBE_BYTES))
    try:
        await file.pread(0, memoryview(data))
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not read image for determining its format: {reason}") from None
    return format_of(data)
