# SPDX-License-Identifier: MIT
"""The commands for dirty bitmaps, block-dirty-bitmap-*, and what queries show of bitmaps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError, UInt32
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import Alternate, CommandTable
from blockcore.rules.bitmap import MIN_GRANULARITY, DirtyBitmap

table = CommandTable()

DEFAULT_GRANULARITY = 64 << 10
"""The granularity of a bitmap unless another is asked for, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmap:
    """QAPI's BlockDirtyBitmap: the node (or drive) and the name of a bitmap."""

    node: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapAdd(BlockDirtyBitmap):
    """QAPI's BlockDirtyBitmapAdd; `granularity` in bytes.

    A `disabled` bitmap does not record until it is enabled.
    """

    granularity: UInt32 | None = None
    persistent: bool = False
    disabled: bool = False


BITMAP_OR_NAME = Alternate("BlockDirtyBitmapOrStr", str, BlockDirtyBitmap)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapMerge:
    """QAPI's BlockDirtyBitmapMerge.

    `bitmaps` are names of bitmaps of `node`, or bitmaps of other nodes.
    """

    node: str
    target: str
    bitmaps: list[Annotated[str | BlockDirtyBitmap, BITMAP_OR_NAME]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyInfo:
    """QAPI's BlockDirtyInfo; `count` and `granularity` in bytes."""

    name: str | None = None
    count: int
    granularity: UInt32
    recording: bool
    busy: bool
    persistent: bool
    inconsistent: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDirtyBitmapSha256:
    sha256: str


@table.command("block-dirty-bitmap-add", boxed=True)
async def block_dirty_bitmap_add(machine: Machine, *, options: BlockDirtyBitmapAdd) -> None:
    """Record from now on which parts of a node are written to."""
    await add_bitmap(machine, options)


@table.command("block-dirty-bitmap-remove")
def block_dirty_bitmap_remove(machine: Machine, *, node: str, name: str) -> None:
    """Forget a bitmap."""
    owner, bitmap = find_usable_bitmap(machine, node, name)
    owner.bitmaps.remove(bitmap)


@table.command("block-dirty-bitmap-clear")
def block_dirty_bitmap_clear(machine: Machine, *, node: str, name: str) -> None:
    """Mark everything in a bitmap as clean."""
    find_usable_bitmap(machine, node, name)[1].clear()


@table.command("block-dirty-bitmap-enable")
async def block_dirty_bitmap_enable(machine: Machine, *, node: str, name: str) -> None:
    """Let a bitmap record from now on."""
    owner, bitmap = find_usable_bitmap(machine, node, name)
    await switch(machine, owner, lambda: owner.bitmaps.enable(bitmap))


@table.command("block-dirty-bitmap-disable")
async def block_dirty_bitmap_disable(machine: Machine, *, node: str, name: str) -> None:
    """Let a bitmap keep its state: it records no more writes until it is enabled."""
    owner, bitmap = find_usable_bitmap(machine, node, name)
    await switch(machine, owner, lambda: owner.bitmaps.enable(bitmap, False))


@table.command("block-dirty-bitmap-merge", boxed=True)
def block_dirty_bitmap_merge(machine: Machine, *, options: BlockDirtyBitmapMerge) -> None:
    """Mark as dirty in `target` what is dirty in any of `bitmaps`; all of them or none."""
    merge_bitmaps(machine, options)


@table.command("x-debug-block-dirty-bitmap-sha256", features=("unstable",))
def x_debug_block_dirty_bitmap_sha256(
    machine: Machine, *, node: str, name: str
) -> BlockDirtyBitmapSha256:
    """Return the SHA-256 of all bits, as QEMU computes it (hbitmap_sha256)."""
    _, bitmap = find_bitmap(machine, node, name)
    bits = bitmap.bits()
    # QEMU hashes whole longs of 64 bits, and at least one.
    data = bits.tobytes().ljust(max(-(-len(bits) // 64), 1) * 8, b"\0")
    return BlockDirtyBitmapSha256(sha256=hashlib.sha256(data).hexdigest())


async def add_bitmap(
    machine: Machine, options: BlockDirtyBitmapAdd
) -> tuple[BlockNode, DirtyBitmap]:
    """Make a bitmap, and return its node and the bitmap.

    Raise QmpError; the order of the checks is QEMU's (qmp_block_dirty_bitmap_add).
    """
    if not options.name:
        raise QmpError("Bitmap name cannot be empty")
    node = machine.find.node_or_device(options.node, options.node)
    wanted = options.granularity
    granularity = default_granularity(node) if wanted is None else int(wanted)
    if granularity < MIN_GRANULARITY or granularity & (granularity - 1):
        raise QmpError("Granularity must be power of 2 and at least 512")
    if options.persistent:
        # No driver here stores bitmaps in its images.
        reason = "Operation not supported" if node.inserted else "No medium found"
        raise QmpError(
            f"Can't store persistent bitmaps to {node.device_or_node_name}: {reason}"
        )
    if not node.inserted:
        raise QmpError("could not get length of device: No medium found")
    bitmap = DirtyBitmap(node.size, granularity, options.name)
    bitmap.enabled = not options.disabled
    await switch(machine, node, lambda: node.bitmaps.add(bitmap))
    return node, bitmap


def default_granularity(node: BlockNode) -> int:
    """Return the cluster size, but within 4 KiB and 64 KiB; in bytes.

    (bdrv_get_default_bitmap_granularity.)  Nodes without clusters get 64 KiB.
    """
    if not node.cluster_size:
        return DEFAULT_GRANULARITY
    return min(max(node.cluster_size, 4096), DEFAULT_GRANULARITY)


async def switch(machine: Machine, node: BlockNode, change: Callable[[], None]) -> None:
    """Change which bitmaps of the node record, and wait for writes that do not know it.

    `change` takes effect at once for writes on the long way, also for those under
    way.  Writes on the shortcut decided without the change: all of them have
    ended when this returns.
    """
    change()
    await machine.leave_shortcuts(node)


def find_bitmap(machine: Machine, node: str, name: str) -> tuple[BlockNode, DirtyBitmap]:
    """Return the node (or a drive's root) and its bitmap; raise QmpError if either is missing.

    (block_dirty_bitmap_lookup.)
    """
    try:
        owner = machine.find.node_or_device(node, node)
    except QmpError:
        raise QmpError(f"Node '{node}' not found") from None
    return owner, owner.bitmaps.find(name)


def find_usable_bitmap(machine: Machine, node: str, name: str) -> tuple[BlockNode, DirtyBitmap]:
    """Return the node and its bitmap; raise QmpError also if an operation uses the bitmap."""
    owner, bitmap = find_bitmap(machine, node, name)
    bitmap.check_usable()
    return owner, bitmap


def merge_bitmaps(machine: Machine, options: BlockDirtyBitmapMerge) -> DirtyBitmap:
    """Merge all sources into the target and return it; raise QmpError and leave it unchanged.

    Without sources nothing happens; QEMU 7.2 crashes.
    """
    owner, target = find_bitmap(machine, options.node, options.target)
    merged = DirtyBitmap(target.size, target.granularity)
    for source in options.bitmaps:
        if isinstance(source, str):
            bitmap = owner.bitmaps.find(source)
        else:
            _, bitmap = find_bitmap(machine, source.node, source.name)
        target.check_usable()
        bitmap.check_usable()
        merged.merge(bitmap)
    target.merge(merged)
    return target


def dirty_bitmaps(node: BlockNode) -> list[BlockDirtyInfo] | None:
    """Return all bitmaps of a node, the newest first; None if it has none."""
    return [
        BlockDirtyInfo(
            name=bitmap.name,
            count=bitmap.count,
            granularity=UInt32(bitmap.granularity),
            recording=bitmap.recording,
            busy=bitmap.busy,
            persistent=False,
        )
        for bitmap in node.bitmaps
    ] or None
