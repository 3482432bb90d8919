# SPDX-License-Identifier: MIT
"""What a mirror has to copy in the beginning (`block/mirror.c`: mirror_dirty_init)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from blockcore.jobs.mirror.copier import MAX_ZERO_BYTES, Copier
from blockcore.jobs.mirror.options import MirrorOptions
from blockcore.nodes.graph.abilities import zeroes_with_unmap
from blockcore.nodes.graph.chain import is_allocated_above

GoOn = Callable[[], Awaitable[bool]]
"""Lets other work have its turn; returns False if the job is cancelled."""


async def find_out_what_to_copy(copier: Copier, mirror: MirrorOptions, go_on: GoOn) -> None:
    """Mark in the copier's bitmap what the source has above `mirror.base`.

    If the target has to be zeroed, and can be by unmapping, it is zeroed by few
    requests first; if it cannot, everything is marked.  Raise OSError.
    """
    source, target, bitmap = copier.source, copier.target, copier.bitmap
    size = source.size
    if mirror.zero_target:
        if not (target.options.discard_unmap and zeroes_with_unmap(target)):
            bitmap.set(0, size)
            return
        for offset in range(0, size, MAX_ZERO_BYTES):
            if not await go_on():
                return
            copier.zero(offset, min(MAX_ZERO_BYTES, size - offset))
        await copier.ops.all_end()
    offset = 0
    while offset < size and await go_on():
        there, known = await is_allocated_above(
            source, mirror.base, offset, min(MAX_ZERO_BYTES, size - offset)
        )
        if there:
            bitmap.set(offset, known)
        offset += known
