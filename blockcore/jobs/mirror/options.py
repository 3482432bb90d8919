# SPDX-License-Identifier: MIT
"""The options of a mirror."""

from __future__ import annotations

from enum import StrEnum

from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlockdevOnError, MirrorCopyMode
from blockcore.qapi.record import dataclass

DEFAULT_BUF_SIZE = 16 << 20
"""How much data is in memory at most, in bytes (mirror.c: DEFAULT_MIRROR_BUF_SIZE)."""


class BackingMode(StrEnum):
    """What the target's backing file is in the end (MirrorBackingMode)."""

    SOURCE_CHAIN = "source"
    OPEN_CHAIN = "open"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """How to mirror; `granularity` and `buf_size` in bytes.

    Everything above `base` is copied (None: all of the chain), with
    `is_none_mode` only what is written from now on.  `zero_target`: what is not copied
    has to be made zero.  `replaces`: the name of the node that the target replaces in
    the end (None: the source).  `base_read_only`: if the job fails, the target becomes
    read-only again.
    """

    granularity: int
    buf_size: int
    on_source_error: BlockdevOnError
    on_target_error: BlockdevOnError
    base: BlockNode | None = None
    is_none_mode: bool = False
    zero_target: bool = False
    unmap: bool = True
    backing_mode: BackingMode = BackingMode.LEAVE
    copy_mode: MirrorCopyMode = MirrorCopyMode.BACKGROUND
    replaces: str | None = None
    is_commit: bool = False
    base_read_only: bool = False
